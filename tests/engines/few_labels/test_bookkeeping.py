"""A row is of the settings, the subjects and the time that it says."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import few_labels_run
from benchmark_few_labels import main
from few_labels_bench import BEGUN, RESULT, Bench
from few_labels_run import execute
from few_labels_yaml import load_plan
from mrssl.errors import MrsslError

from .conftest import QUICK, Trainings, run_of


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
