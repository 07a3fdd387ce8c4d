"""Small runs by the command line, interrupted: tools/inject_faults.py does the same, and more."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

import inject_faults
from fault_runs import Laboratory, kill_and_resume
from mrssl.engines import ENGINES

pytest.importorskip("nilearn", reason="a volume comes with the extra 'demo'")
pytestmark = pytest.mark.slow
BOTH = [
    pytest.param("torchvision"),
    pytest.param("detectron2", marks=pytest.mark.detectron2),
]
assert {"torchvision", "detectron2"} < set(ENGINES)


@pytest.fixture(scope="module", params=BOTH)
def laboratory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return Laboratory(tmp_path_factory.mktemp("weekend") / "runs", request.param, 6)


def test_killed_at_random_moments(laboratory: Laboratory) -> None:
    hits, invalid = kill_and_resume(laboratory, "killed", 2, random.Random(3))
    assert (hits, invalid) == (2, 0)
    assert laboratory.same("killed", "undisturbed")


@pytest.mark.parametrize(
    "fault",
    [inject_faults.sigusr1, inject_faults.full_disk_later, inject_faults.unreadable_among_good],
)
def test_survived(laboratory: Laboratory, fault) -> None:
    fine, text = fault(laboratory)
    assert fine, text


def test_both_processes_leave_when_the_first_is_told(laboratory: Laboratory) -> None:
    """The signal goes to the command that started them."""
    options = ("SOLVER.MAX_ITER", 400)
    process = laboratory.start("two", *options, processes=2)
    assert laboratory.wait_for("two", process, lambda: laboratory.done("two") >= 2)
    process.send_signal(signal.SIGTERM)
    ended = laboratory.end("two", process)
    assert ended.status == 75, ended.text[-2000:]
    assert "SIGTERM" in ended.reason or "another process" in ended.reason
    assert laboratory.newest_is_valid("two")


def test_the_tool_knows_a_failure_when_it_sees_one() -> None:
    ended = inject_faults.Ended(1, "error: disk: cannot be written\n")
    assert inject_faults.stopped(ended, "cannot be written")[0]
    assert not inject_faults.stopped(ended, "no room")[0]
    assert not inject_faults.stopped(inject_faults.Ended(0, ended.text), "cannot")[0]
    for text in (f"Traceback (most recent call last)\n{ended.text}", ended.text * 2):
        assert not inject_faults.stopped(inject_faults.Ended(1, text), "cannot")[0]


def test_a_state_that_differs_in_a_bit_is_another(laboratory: Laboratory, tmp_path: Path) -> None:
    from mrssl.checkpoint import load_checkpoint, save_checkpoint

    content = load_checkpoint(laboratory.output("undisturbed") / "model_final.pth")
    copy = laboratory.output("copy") / "model_final.pth"
    save_checkpoint(copy, content)
    assert laboratory.same("copy", "undisturbed")
    next(iter(content["model"].values())).view(-1)[0] += 1e-6
    save_checkpoint(copy, content)
    assert not laboratory.same("copy", "undisturbed")
