"""A row is of the settings, the subjects and the time that it says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmark_few_labels import main, write_rows
from few_labels import run as few_labels_run
from few_labels.bench import BEGUN, RESULT, Bench
from few_labels.plan import ROOT
from few_labels.plan_file import load_plan
from few_labels.run import execute
from mrssl.errors import MrsslError

from .conftest import QUICK, Trainings, plan_content, run_of


def test_a_pretraining_begun_by_other_settings_is_not_gone_on_with(
    bench: Bench, trainings: Trainings, write_plan: Callable[..., Path]
) -> None:
    run = run_of(bench, "pretrain/mrssl")
    execute(bench, run)
    (bench.folder(run.id) / RESULT).unlink()  # as the message about other settings says
    longer = {"config": f"{QUICK}/pretrain_R_18_FPN.yaml", "opts": {"SOLVER.MAX_ITER": 9}}
    changed = replace(bench, plan=load_plan(write_plan(pretrain=longer)))
    with pytest.raises(MrsslError, match=rf"{BEGUN}: .* was begun with other settings"):
        execute(changed, run_of(changed, run.id))
    assert len(trainings.calls) == 1
    assert execute(bench, run)["settings"] == bench.fingerprint(run)


def test_the_seconds_of_all_legs_count(
    bench: Bench, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(bench, "pretrain/mrssl")

    def stopped(argv: list[str]) -> int:
        time.sleep(0.3)
        raise MrsslError("stopped")

    monkeypatch.setattr(few_labels_run.train_net, "main", stopped)
    with pytest.raises(MrsslError, match="stopped"):
        execute(bench, run)
    monkeypatch.setattr(few_labels_run.train_net, "main", trainings)
    assert execute(bench, run)["seconds"] >= 0.3


def test_rows_of_another_split_are_refused(
    bench: Bench, trainings: Trainings, phantom: Path, tmp_path: Path
) -> None:
    for run_id in ("pretrain/mrssl", "mrssl/n1/seed0"):
        execute(bench, run_of(bench, run_id))
    copied = tmp_path / "copy" / "phantom"
    copied.mkdir(parents=True)
    for path in phantom.parent.iterdir():
        (copied / path.name).symlink_to(path)
    split = json.loads((copied / "split.json").read_text())
    (copied / "split.json").unlink()
    split["test"], split["train"][-1] = [split["train"][-1]], split["test"][0]
    (copied / "split.json").write_text(json.dumps(split))
    other = Bench(bench.plan, tmp_path / "copy", bench.output, device="cpu")
    for run_id in ("pretrain/mrssl", "mrssl/n1/seed0"):
        assert bench.finished(run_of(bench, run_id)) is not None
        with pytest.raises(MrsslError, match="was run with other settings or subjects"):
            other.finished(run_of(bench, run_id))


def test_a_listed_run_has_the_threads_that_were_asked_for(
    bench: Bench, write_plan: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config-file", write_plan(), "--data", bench.data, "--output", bench.output]
    arguments += ["--threads", "3", "--arms", "scratch", "--list"]
    assert main([str(argument) for argument in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines and all("--threads 3" in line for line in lines)


def test_a_plan_that_cannot_be_tuned_can_be_run(
    data: Path,
    trainings: Trainings,
    tmp_path: Path,
    write_plan: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    tune = plan_content()["tune"]
    path = write_plan(tune=tune | {"labeled": [2], "folds": 2})  # of three subjects
    bench = Bench(load_plan(path), data, tmp_path / "out", device="cpu")
    arguments = ["--config-file", str(path), "--data", str(data), "--output", str(bench.output)]
    assert main([*arguments, "--arms", "scratch", "--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3 * 3
    assert main([*arguments, "--run", "scratch/n1/seed0"]) == 0
    assert main([*arguments, "--report"]) == 0
    assert [row["id"] for row in json.loads((bench.output / "results.json").read_text())] == [
        "scratch/n1/seed0"
    ]
    with pytest.raises(MrsslError, match="no such run in the plan"):
        main([*arguments, "--run", "nobody/n1/seed0"])
    with pytest.raises(MrsslError, match="tune, fold 0 leaves 1 subjects"):
        main([*arguments, "--tune", "--list"])


def test_rows_of_tuning_are_looked_at_too(bench: Bench, trainings: Trainings) -> None:
    run = run_of(bench, "tune/scratch/n1/BASE_LR=0.01,MAX_ITER=2/fold1")
    path = bench.folder(run.id) / RESULT
    # The scores that stand in for real ones are of a test subject, which no fold holds out.
    row = execute(bench, run) | {"dice_per_subject": None}
    path.write_text(json.dumps(row))
    write_rows(bench)
    assert [r["id"] for r in json.loads((bench.output / "tuning.json").read_text())] == [run.id]
    path.write_text(json.dumps(row | {"settings": "of another plan"}))
    with pytest.raises(MrsslError, match="fold1 is not of this plan"):
        write_rows(bench)


def test_the_plan_for_data_of_ones_own_needs_no_pretraining(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = (ROOT / "benchmarks" / "few_labels" / "README.md").read_text(encoding="utf-8")
    (plan,) = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "mine.yaml").write_text(plan)
    (data / "mine").symlink_to(data / "phantom")
    (tmp_path / "model_final.pth").write_bytes(b"weights")
    given = {"config-file": "mine.yaml", "output": "out", "data": "data"}
    arguments = [text for name, file in given.items() for text in (f"--{name}", tmp_path / file)]
    arguments += ["--weights", f"mine={tmp_path / 'model_final.pth'}", "--list"]
    assert main([str(argument) for argument in arguments]) == 0
    ids = {line.split(" --run ")[1] for line in capsys.readouterr().out.splitlines()}
    cells = [(n, seed) for n in (1, 2, "all") for seed in range(3)]
    assert ids == {f"{arm}/n{n}/seed{s}" for arm in ("scratch", "mine") for n, s in cells}
