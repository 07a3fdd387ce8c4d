"""The folder of a run: which checkpoint is the newest, what is dropped, whether there is room."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from mrssl.checkpoint import CheckpointError
from mrssl.engines.checkpoints import LAST, RunCheckpoints, check_room
from mrssl.errors import MrsslError
from mrssl.files import reserve, sweep, written_whole

STATE = {"model": {"backbone.fpn_lateral2.weight": torch.ones(3)}, "optimizer": {}}


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def saved(folder: Path, *iterations: int, keep: int = 9) -> RunCheckpoints:
    run = RunCheckpoints(folder, keep=keep)
    for iteration in iterations:
        run.save(STATE | {"iteration": iteration}, iteration)
    return run


def newest(run: RunCheckpoints) -> tuple[int, list[str]]:
    found = run.newest()
    assert found is not None
    return found[1]["iteration"], found[2]


def test_numbers_decide_and_no_clock(tmp_path: Path) -> None:
    run = saved(tmp_path, 1, 2, 3)
    for age, iteration in enumerate((3, 2, 1)):
        path = tmp_path / f"model_{iteration - 1:07d}.pth"
        os.utime(path, (1e9 + age, 1e9 + age))  # the newest is the oldest by the clock
    assert newest(run) == (3, [])


def test_a_kill_before_the_tag_was_written_loses_nothing(tmp_path: Path) -> None:
    run = saved(tmp_path, 1, 2)
    (tmp_path / LAST).write_text("model_0000000.pth")
    assert newest(run)[0] == 2
    (tmp_path / LAST).write_text("")
    assert newest(run)[0] == 2


def test_the_final_one_comes_first_unless_the_run_went_on(tmp_path: Path) -> None:
    run = saved(tmp_path, 1, 2)
    run.save(STATE | {"iteration": 3}, 3, final=True)
    assert newest(run)[0] == 3
    saved(tmp_path, 4)
    assert newest(run)[0] == 4


def test_what_is_damaged_is_skipped_and_named(tmp_path: Path) -> None:
    run = saved(tmp_path, 1, 2, 3)
    whole = (tmp_path / "model_0000002.pth").read_bytes()
    (tmp_path / "model_0000002.pth").write_bytes(whole[:100])
    iteration, skipped = newest(run)
    assert iteration == 2
    assert len(skipped) == 1
    assert "model_0000002.pth" in skipped[0]
    for path in tmp_path.glob("model_*.pth"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="nothing to resume from"):
        run.newest()


def test_old_ones_go_and_the_best_stays(tmp_path: Path) -> None:
    run = saved(tmp_path, 1, keep=2)
    run.save_best(STATE | {"iteration": 1})
    saved(tmp_path, 2, 3, 4, keep=2)
    assert files(tmp_path) == [LAST, "model_0000002.pth", "model_0000003.pth", "model_best.pth"]
    best = run.best_of(1)
    assert best is not None
    assert best["iteration"] == 1
    assert run.best_of(2) is None


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    with written_whole(tmp_path / "model_final.pth") as temporary:
        temporary.write_bytes(b"half")
        left = temporary.read_bytes()
        name = temporary.name
    (tmp_path / name).write_bytes(left)
    own = [".bash_history-00123.tmp", ".hidden", ".python_history.1", ".zcompdump-host-5.8"]
    for mine in own:
        (tmp_path / mine).write_text("the user's own")
    sweep(tmp_path)
    assert files(tmp_path) == [*own, "model_final.pth"]


def test_nobody_can_foresee_what_is_written_to(tmp_path: Path) -> None:
    names = []
    for _ in range(2):
        with written_whole(tmp_path / "a.json") as temporary:
            names.append(temporary.name)
            temporary.write_text("{}")
    assert names[0] != names[1]


def test_room_is_looked_for_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(100, 100, bias=False)
    asked: list[int] = []

    def fallocate(descriptor: int, offset: int, length: int) -> None:
        asked.append(length)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    adam: Any = torch.optim.AdamW(model.parameters())
    with pytest.raises(MrsslError, match=r"no room for two checkpoints.*No space left"):
        check_room(tmp_path, model, adam, averaged=True)
    assert asked == [4 * 40000]  # weights, their average, two moments
    assert files(tmp_path) == []


def test_a_reservation_leaves_nothing_behind(tmp_path: Path) -> None:
    reserve(tmp_path, 1 << 20, 2)
    assert files(tmp_path) == []
    with pytest.raises(MrsslError, match="cannot be written"):
        reserve(tmp_path / "nowhere", 1)


def _found(rank: int, folders: list[str], queue: Any) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folders[0]}/meet", rank=rank, world_size=2
    )
    try:
        found = RunCheckpoints(Path(folders[rank]), needed=()).newest_of_all()
        queue.put(found and found[0].name)
    except MrsslError as error:
        queue.put(str(error))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("shared", [True, False])
def test_processes_resume_from_one_checkpoint_or_not_at_all(tmp_path: Path, shared: bool) -> None:
    """Machines with a disk each would average gradients of two models."""
    saved(tmp_path, 1)
    (tmp_path / "other").mkdir()
    folders = [str(tmp_path), str(tmp_path if shared else tmp_path / "other")]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_found, args=(rank, folders, queue)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    told = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    if shared:
        assert told == ["model_0000000.pth"] * 2
    else:
        assert all("different checkpoints" in line and "one folder" in line for line in told)
