"""Runs are done once, start again after a kill, and wait for what they need."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmark_few_labels
from few_labels import run as few_labels_run
from few_labels.bench import Bench
from few_labels.plan import Run
from few_labels.plan_file import load_plan
from few_labels.pool import Pool
from few_labels.run import curve, execute
from mrssl.errors import MrsslError

from .conftest import RESULTS, Trainings, run_of


def test_a_finished_run_is_never_repeated(bench: Bench, trainings: Trainings) -> None:
    run = run_of(bench, "scratch/n2/seed1")
    row = execute(bench, run)
    assert len(trainings.calls) == 2
    assert execute(bench, run) == row and len(trainings.calls) == 2
    assert row["dice"] == 0.5 and row["curve"] == [[2, 0.4]] and row["labeled_subjects"] == 2
    assert row["dice_per_class"] == {"small": 0.4, "large": 0.6}
    assert row["dice_per_subject"] == {"subject3": 0.5}
    assert not list(bench.folder(run.id).rglob("*.pth"))


@pytest.mark.parametrize(
    ("engine", "points"), [("torchvision", (100, 200)), ("detectron2", (99, 199))]
)
def test_a_curve_is_over_the_iterations_done(
    tmp_path: Path, engine: str, points: tuple[int, int]
) -> None:
    lines = [{"iteration": 20, "total_loss": 1.0}]
    lines += [{"iteration": i, "dice/dice": 0.1} for i in (*points, 300)]
    (tmp_path / "metrics.json").write_text("".join(json.dumps(x) + "\n" for x in lines))
    assert [i for i, _ in curve(tmp_path, engine=engine, last=300)] == [100, 200, 300]


def test_a_killed_run_starts_again(bench: Bench, trainings: Trainings) -> None:
    run = run_of(bench, "scratch/n1/seed0")
    trainings.fail = True
    with pytest.raises(MrsslError, match="lights"):
        execute(bench, run)
    assert bench.finished(run) is None
    (bench.folder(run.id) / "train" / "model_0000001.pth").write_bytes(b"half a run")
    trainings.fail = False
    execute(bench, run)
    assert len(trainings.calls) == 4
    assert "--resume" not in trainings.calls[2]


def test_two_processes_do_not_share_a_run(bench: Bench, trainings: Trainings) -> None:
    run = run_of(bench, "scratch/n1/seed0")
    with few_labels_run._alone(bench, run), pytest.raises(MrsslError, match="another process"):
        execute(bench, run)
    assert not trainings.calls
    execute(bench, run)


def test_kept_weights_are_scored_again_by_other_code_and_only_then(
    bench: Bench, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, lost = (run_of(bench, f"scratch/n1/seed{seed}") for seed in (0, 1))
    before = execute(replace(bench, keep=True), kept)
    execute(bench, lost)
    monkeypatch.setattr(few_labels_run, "code_version", lambda: before["code"])
    again = few_labels_run.score_again(bench, kept)
    assert (again is None) == (not before["code"].endswith("+"))  # of which nobody can tell
    monkeypatch.setattr(few_labels_run, "code_version", lambda: "newer")
    monkeypatch.setitem(RESULTS["dice"], "dice", 0.75)
    trainings.calls.clear()
    assert few_labels_run.score_again(bench, lost) is None and not trainings.calls
    row = few_labels_run.score_again(bench, kept)
    assert row is not None and len(trainings.calls) == 1 and "--eval-only" in trainings.calls[0]
    assert (row["dice"], row["code"], row["scored_by"]) == (0.75, before["code"], "newer")
    assert row["curve"] == before["curve"] and bench.finished(kept) == row
    assert few_labels_run.score_again(bench, kept) is None


def test_the_test_subjects_are_named_when_scoring_and_not_before(
    bench: Bench, trainings: Trainings
) -> None:
    execute(bench, run_of(bench, "pretrain/mrssl"))
    execute(bench, run_of(bench, "mrssl/n1/seed0"))
    pretrain, train, score = (" ".join(call) for call in trainings.calls)
    assert ":test" not in pretrain + train and "--resume" in pretrain
    assert "DATASETS.TEST ()" in pretrain and "DATASETS.TEST ('" in train
    assert "dataset.json:test" in score and "--eval-only" in score
    weights = bench.folder("pretrain/mrssl") / "train" / "model_final.pth"
    assert f"MODEL.WEIGHTS {weights}" in train


def test_other_settings_are_refused_and_not_mixed(
    bench: Bench, trainings: Trainings, write_plan: Callable[..., Path]
) -> None:
    execute(bench, run_of(bench, "scratch/n1/seed0"))
    few = {"SOLVER.MAX_ITER": 5}
    for change in {"schedules": {1: few}}, {"engine": "detectron2"}:
        changed = replace(bench, plan=load_plan(write_plan(**change)))
        with pytest.raises(MrsslError, match="was run with other settings"):
            changed.finished(run_of(changed, "scratch/n1/seed0"))
        assert changed.finished(run_of(changed, "scratch/n2/seed0")) is None


def test_weights_by_file_stand_in_for_a_pretraining(
    bench: Bench, trainings: Trainings, tmp_path: Path
) -> None:
    run = run_of(bench, "mrssl/n1/seed0")
    with pytest.raises(MrsslError, match=r"needs the run pretrain/mrssl first"):
        execute(bench, run)
    file = tmp_path / "weights.pth"
    file.write_bytes(b"made elsewhere")
    given = replace(bench, files={"mrssl": file})
    row = execute(given, run)
    assert given.needs(run) == "" and len(row["weights_sha256"]) == 64
    file.write_bytes(b"others")
    with pytest.raises(MrsslError, match="other settings"):
        replace(given).finished(run)
    with pytest.raises(MrsslError, match="was run with other settings"):
        bench.finished(run)  # the plan pretrains for this arm
    with pytest.raises(MrsslError, match="--weights imagenet=FILE"):
        execute(bench, run_of(bench, "imagenet/n1/seed0"))


def test_what_started_from_a_file_stays_done_where_the_file_is_not_given(
    bench: Bench, trainings: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "weights.pth"
    file.write_bytes(b"made elsewhere")
    run = run_of(bench, "imagenet/n1/seed0")
    row = execute(replace(bench, files={"imagenet": file}), run)
    assert bench.finished(run) == row
    arguments = ["--config-file", str(tmp_path / "plan.yaml"), "--data", str(bench.data)]
    arguments += ["--output", str(bench.output), "--arms", "imagenet"]
    assert benchmark_few_labels.main(arguments) == 0
    told = capsys.readouterr()
    assert "1 of 1 runs are done" in told.out and "left out: imagenet" in told.err
    path = bench.folder(run.id) / "result.json"
    path.write_text(json.dumps(row | {"weights_sha256": "of another file"}))
    with pytest.raises(MrsslError, match="was run with other settings"):
        bench.finished(run)


def test_rows_outlive_their_folders(
    bench: Bench, trainings: Trainings, write_plan: Callable[..., Path]
) -> None:
    execute(bench, run_of(bench, "scratch/n1/seed0"))
    benchmark_few_labels.write_rows(bench)
    rows = json.loads((bench.output / "results.json").read_text())
    moved = replace(bench, output=bench.output / "new", known={row["id"]: row for row in rows})
    execute(moved, run_of(moved, "scratch/n1/seed0"))
    assert len(trainings.calls) == 2
    benchmark_few_labels.write_rows(moved)
    assert json.loads((moved.output / "results.json").read_text()) == rows


def test_rows_of_several_machines_are_gathered(
    bench: Bench, trainings: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = ["scratch/n1/seed0", "scratch/n1/seed1", "scratch/n1/seed2"]
    files = []
    for machine, done in {"a": ids[:2], "b": ids[1:]}.items():
        there = replace(bench, output=tmp_path / machine)
        for run_id in done:
            execute(there, run_of(there, run_id))
        benchmark_few_labels.write_rows(there)
        path = there.output / "results.json"
        rows = [{**row, "torch": machine} for row in json.loads(path.read_text())]
        path.write_text(json.dumps(rows))
        files.append(path)
    arguments = ["--config-file", str(tmp_path / "plan.yaml"), "--data", str(bench.data)]
    arguments += ["--output", str(tmp_path / "a"), "--arms", "scratch", "--labeled", "1"]
    assert benchmark_few_labels.main([*arguments, "--rows", str(files[1])]) == 0
    assert "3 of 3 runs are done" in capsys.readouterr().out
    rows = json.loads(files[0].read_text())
    # Its own two are as their folders have them.
    assert [row["id"] for row in rows] == ids and [row["torch"] == "b" for row in rows] == [0, 0, 1]
    with pytest.raises(MrsslError, match=r"nowhere\.json"):
        benchmark_few_labels.main([*arguments, "--rows", str(tmp_path / "nowhere.json")])
    # Also what is not asked for here is looked at: it would stand in the report.
    for change in {"settings": "of another plan"}, {"id": "nobody/n1/seed0"}:
        files[1].write_text(json.dumps([rows[0] | {"id": "mrssl/n1/seed0"} | change]))
        with pytest.raises(MrsslError, match=r"b/results\.json: .* is not of this plan"):
            benchmark_few_labels.main([*arguments, "--rows", str(files[1])])


def test_what_is_done_is_reported_and_nothing_run(
    bench: Bench, trainings: Trainings, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    arguments = ["--config-file", str(tmp_path / "plan.yaml"), "--data", str(bench.data)]
    arguments += ["--output", str(bench.output), "--report"]
    with pytest.raises(MrsslError, match="no run is done"):
        benchmark_few_labels.main(arguments)
    execute(bench, run_of(bench, "scratch/n1/seed0"))
    before = len(trainings.calls)
    assert benchmark_few_labels.main(arguments) == 0
    assert len(trainings.calls) == before and (bench.output / "results.md").is_file()
    rows = json.loads((bench.output / "results.json").read_text())
    assert [row["id"] for row in rows] == ["scratch/n1/seed0"]
    # Rows from before a change of the plan are told, not reported beside the others.
    stale = rows[0] | {"id": "scratch/n1/seed1"}
    (bench.output / "results.json").write_text(json.dumps([*rows, stale]))
    before = (bench.output / "results.md").read_text()
    for what in ["--report"], ["--model-zoo"], ["--list"], ["--labeled", "2"]:
        with pytest.raises(MrsslError, match=r"scratch/n1/seed1 is not of this plan"):
            benchmark_few_labels.main([*arguments[:-1], *what])
    assert (bench.output / "results.md").read_text() == before


def test_the_model_zoo_has_rows_of_what_is_chosen(
    bench: Bench, trainings: Trainings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run_id in "scratch/n1/seed0", "scratch/n1/seed1", "scratch/n2/seed1":
        execute(bench, run_of(bench, run_id))
    arguments = ["--config-file", str(tmp_path / "plan.yaml"), "--data", str(bench.data)]
    arguments += ["--output", str(bench.output), "--model-zoo"]
    assert benchmark_few_labels.main(arguments) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2
    assert benchmark_few_labels.main([*arguments, "--labeled", "1", "--seeds", "1"]) == 0
    *_, row = capsys.readouterr().out.splitlines()
    assert "--seeds 1 --arms scratch --labeled 1`" in row and "| 1 | 1 |" in row


@pytest.mark.parametrize("what", [["--report"], ["--run", "scratch/n1/seed0"]])
@pytest.mark.parametrize("part", [["--arms", "scratch"], ["--labeled", "1"], ["--seeds", "0"]])
def test_a_part_of_the_grid_is_no_report_and_no_run(
    part: list[str], what: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        benchmark_few_labels.main(
            ["--config-file", "x", "--data", "x", "--output", "x", *what, *part]
        )
    assert stopped.value.code == 2
    assert "--report and --run take no --arms" in capsys.readouterr().err


#: What a process of the pool does here: fails where told, else leaves the row of a finished run.
SCRIPT = """
import json, pathlib, sys
folder, settings, kind, fails = sys.argv[1:]
if fails == "True":
    sys.exit("error: no luck")
folder = pathlib.Path(folder)
(folder / "train").mkdir(parents=True)
(folder / "train" / "model_final.pth").write_bytes(b"x")
row = {"id": folder.name, "kind": kind, "settings": settings, "dice": 0.5}
(folder / "result.json").write_text(json.dumps(row))
"""


@pytest.mark.parametrize("broken", ["", "pretrain/mrssl"])
def test_a_run_waits_for_its_pretraining_and_falls_with_it(
    bench: Bench, broken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[str] = []

    def command(run: Run) -> list[str]:
        needed = bench.needs(run)
        assert not needed or bench.finished(run_of(bench, needed)) is not None
        started.append(run.id)
        arguments = [bench.folder(run.id), bench.fingerprint(run), run.kind, run.id == broken]
        return [sys.executable, "-c", SCRIPT, *map(str, arguments)]

    wanted = ["mrssl/n1/seed0", "pretrain/mrssl", "scratch/n1/seed0"]
    pool = Pool(bench, command, jobs=2, threads=1, report=lambda: None)
    failed = pool.run([run_of(bench, run_id) for run_id in wanted])
    told = capsys.readouterr().out
    if broken:
        assert failed == ["pretrain/mrssl", "mrssl/n1/seed0"]
        assert "no luck" in told and "not started: pretrain/mrssl failed" in told
        assert "mrssl/n1/seed0" not in started
    else:
        assert failed == [] and started[-1] == "mrssl/n1/seed0"
        assert Pool(bench, command, jobs=2, threads=1, report=lambda: None).run(
            [run_of(bench, run_id) for run_id in wanted]
        ) == []  # fmt: skip
        assert len(started) == 3


def test_what_is_left_is_listed_and_what_cannot_be_is_said(
    write_plan: Callable[..., Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config-file", str(write_plan()), "--data", str(data)]
    arguments += ["--output", str(tmp_path / "out"), "--list"]
    assert benchmark_few_labels.main([*arguments, "--labeled", "2", "--seeds", "0,1"]) == 0
    told = capsys.readouterr()
    ids = [line.split(" --run ")[1] for line in told.out.splitlines()]
    assert ids == [
        "pretrain/mrssl", "pretrain/blind",
        "scratch/n2/seed0", "mrssl/n2/seed0", "blind/n2/seed0",
        "scratch/n2/seed1", "mrssl/n2/seed1", "blind/n2/seed1",
    ]  # fmt: skip
    assert "left out: imagenet" in told.err
    assert benchmark_few_labels.main([*arguments, "--tune"]) == 0
    ids = [line.split(" --run ")[1] for line in capsys.readouterr().out.splitlines()]
    assert len(ids) == 3 * 4 and all(run_id.startswith("tune/scratch/n1/") for run_id in ids)
    with pytest.raises(MrsslError, match="--arms nobody"):
        benchmark_few_labels.main([*arguments, "--arms", "nobody"])
    with pytest.raises(MrsslError, match="no run of the plan is left"):
        benchmark_few_labels.main([*arguments, "--seeds", "9"])


@pytest.mark.slow
def test_the_benchmark_from_end_to_end(
    write_plan: Callable[..., Path], data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "out"
    arguments = ["--config-file", str(write_plan()), "--data", str(data), "--device", "cpu"]
    arguments += ["--arms", "scratch,mrssl", "--labeled", "1", "--seeds", "0"]
    assert benchmark_few_labels.main([*arguments, "--output", str(output), "--jobs", "2"]) == 0
    assert "0 of 3 runs are done, 3 to do" in capfd.readouterr().out
    rows: list[dict[str, Any]] = json.loads((output / "results.json").read_text())
    assert [row["arm"] for row in rows] == ["scratch", "mrssl"]
    for row in rows:
        assert {"dataset", "arm", "labeled_subjects", "seed", "dice", "dice_per_subject", "hd95",
                "ap", "iterations", "seconds", "iterations_to_scratch"} <= set(row)  # fmt: skip
        assert set(row["dice_per_subject"]) == {"subject3"} and np.isfinite(row["dice"])
        assert [i for i, _ in row["curve"]] == [2, 4]
    assert rows[0]["subjects"] == rows[1]["subjects"]
    assert "## Difference in Dice with scratch" in (output / "results.md").read_text()
    assert (output / "results.png").is_file()

    assert benchmark_few_labels.main([*arguments, "--output", str(output)]) == 0
    assert "2 of 2 runs are done, 0 to do" in capfd.readouterr().out
    again = tmp_path / "again"
    repeated = ["--arms", "scratch", "--output", str(again)]
    assert benchmark_few_labels.main([*arguments, *repeated]) == 0
    (same,) = json.loads((again / "results.json").read_text())
    timed = {"seconds", "cpu_seconds", "scoring_seconds", "scoring_cpu_seconds"}
    assert {k: v for k, v in same.items() if k not in timed} == {
        k: v for k, v in rows[0].items() if k not in timed
    }
