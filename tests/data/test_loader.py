from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, ClassVar

import pytest

from mrssl.data.loader import (
    Batches,
    EvaluationSet,
    LoaderError,
    PositionSampler,
    SampleStream,
    build_loader,
)
from mrssl.errors import MrsslError


def mapper(record: dict[str, Any], epoch: int = 0, iteration: int = 0) -> dict[str, Any]:
    return {"image_id": record["image_id"], "epoch": epoch, "iteration": iteration}


def stream(count: int = 7, batch_size: int = 4, seed: int = 0) -> SampleStream:
    records = [{"image_id": i} for i in range(count)]
    return SampleStream(records, mapper, seed=seed, batch_size=batch_size)


def batches(workers: int, *, start: int = 0, rank: int = 0, world: int = 1, n: int = 6) -> list:
    sampler = PositionSampler(4, start_iteration=start, rank=rank, world_size=world)
    loader = build_loader(stream(), batch_size=4 // world, sampler=sampler, num_workers=workers)
    return list(islice(iter(loader), n))


def test_every_epoch_shows_every_slice_once_in_a_new_order() -> None:
    data = stream()
    epochs = [[data[p]["image_id"] for p in range(7 * e, 7 * e + 7)] for e in range(4)]
    assert all(sorted(order) == list(range(7)) for order in epochs)
    assert len({tuple(order) for order in epochs}) > 1
    assert [data[p]["epoch"] for p in (6, 7, 13, 14)] == [0, 1, 1, 2]
    assert [data[p]["iteration"] for p in (3, 4, 8)] == [0, 1, 2]
    assert epochs != [[stream(seed=1)[p]["image_id"] for p in range(7)]] * 4


def test_the_stream_is_the_same_on_any_number_of_workers() -> None:
    expected = batches(0)
    assert batches(1) == expected
    assert batches(2) == expected


def test_resuming_goes_on_where_it_stopped() -> None:
    assert batches(0, start=2, n=4) == batches(0)[2:]


def test_processes_share_out_each_batch() -> None:
    shares = [batches(0, rank=rank, world=2) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == batches(0)


def test_a_batch_that_cannot_be_shared_out() -> None:
    with pytest.raises(MrsslError, match=r"IMS_PER_BATCH 4 .* 3 processes"):
        PositionSampler(4, world_size=3)


def test_nothing_to_train_on() -> None:
    with pytest.raises(MrsslError, match="no slice is left"):
        stream(0)


def test_the_work_of_a_batch_does_not_grow_with_the_data() -> None:
    class Records(Sequence):
        touched: ClassVar[list[int]] = []

        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> dict[str, Any]:
            self.touched.append(index)
            return {"image_id": index}

    data = SampleStream(Records(), mapper, seed=0, batch_size=4)
    batch = [data[position]["image_id"] for position in range(400, 404)]
    assert Records.touched == batch


def test_a_stream_survives_pickling() -> None:
    data = stream()
    assert [pickle.loads(pickle.dumps(data))[p] for p in range(20)] == [data[p] for p in range(20)]


def test_evaluation_sees_each_slice_once_in_order() -> None:
    loader = build_loader(EvaluationSet([{"image_id": i} for i in range(5)], mapper), batch_size=2)
    seen = [sample["image_id"] for batch in loader for sample in batch]
    assert seen == list(range(5))
    assert Counter(seen).most_common(1)[0][1] == 1


# -- what cannot be read --------------------------------------------------------------------------


def partly(*unreadable: int) -> Any:
    def read(record: dict[str, Any], epoch: int = 0, iteration: int = 0) -> dict[str, Any]:
        if record["image_id"] in unreadable:
            raise MrsslError(f"{record['image_id']}.nii: damaged")
        return mapper(record, epoch, iteration)

    return read


def records(count: int = 10) -> list[dict[str, Any]]:
    return [{"image_id": i, "file_name": f"{i}.nii", "slice_index": 0} for i in range(count)]


def test_the_next_slice_takes_the_place_of_an_unreadable_one() -> None:
    whole = SampleStream(records(), mapper, seed=0, batch_size=2)
    order = [whole[p]["image_id"] for p in range(20)]
    bad = order[4], order[5]
    data = SampleStream(records(), partly(*bad), seed=0, batch_size=2, max_unreadable=0.2)
    seen = [data[p] for p in range(10)]
    assert [x["image_id"] for x in seen] == [*order[:4], order[6], order[6], *order[6:10]]
    assert [len(x["skipped"]) for x in seen] == [0, 0, 0, 0, 2, 1, 0, 0, 0, 0]
    assert seen[4]["skipped"][0] == (f"{bad[0]}.nii[0]", f"{bad[0]}.nii: damaged")
    assert seen[4]["epoch"] == 0
    # Of an epoch's last places, its first take the place.
    data = SampleStream(records(), partly(order[9]), seed=0, batch_size=2, max_unreadable=0.2)
    assert data[9]["image_id"] == order[0]
    assert data[9]["epoch"] == 0


def test_beyond_the_share_the_fault_itself_is_raised() -> None:
    data = SampleStream(records(), partly(*range(10)), seed=0, batch_size=2)
    with pytest.raises(MrsslError, match=r"nii: damaged"):
        data[0]
    data = SampleStream(records(), partly(*range(10)), seed=0, batch_size=2, max_unreadable=0.3)
    with pytest.raises(MrsslError, match=r"nii: damaged"):
        data[0]


def stuck(record: dict[str, Any], epoch: int = 0, iteration: int = 0) -> dict[str, Any]:
    if record["image_id"] == 3:
        time.sleep(60)
    return {**record, "pid": os.getpid()}


def prompt(record: dict[str, Any], epoch: int = 0, iteration: int = 0) -> dict[str, Any]:
    return {**record, "pid": os.getpid()}


def watch(read: Any, *, timeout: float = 0, method: str | None = None) -> Batches:
    data = SampleStream(records(), read, seed=0, batch_size=1)
    sampler = PositionSampler(1)
    loader = build_loader(data, batch_size=1, sampler=sampler, num_workers=1, timeout=timeout)
    loader.multiprocessing_context = method
    return Batches(loader)


def test_a_worker_that_hangs_is_named_with_its_slice() -> None:
    batches, start = watch(stuck, timeout=2), time.monotonic()
    with pytest.raises(LoaderError, match=r"timed out.*being read: 3\.nii\[0\]"), batches.watched():
        for _ in range(11):
            next(batches)
    assert time.monotonic() - start < 45  # it is killed, not waited for


def test_a_worker_that_dies_is_named_with_its_slice() -> None:
    batches = watch(stuck)
    with pytest.raises(LoaderError, match=r"worker.*being read: 3\.nii\[0\]"), batches.watched():
        while True:
            (sample,) = next(batches)
            time.sleep(0.3)  # the worker reads ahead
            if batches.loader.dataset.being_read() == ["3.nii[0]"]:
                os.kill(sample["pid"], signal.SIGKILL)


def test_a_worker_that_dies_while_a_file_is_written_is_still_named() -> None:
    batches = watch(prompt)
    next(batches)
    with pytest.raises(LoaderError, match=r"DataLoader worker .* is killed"), batches.watched():
        try:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
        finally:  # as torch.save does, whose archive cannot be closed any more
            raise RuntimeError("unexpected pos 64 vs 0")
    with pytest.raises(RuntimeError, match="unexpected"), batches.watched():
        raise RuntimeError("unexpected pos 64 vs 0")


@pytest.mark.parametrize("method", ["fork", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_workers_heed_no_signal_but_the_main_process(method: str) -> None:
    """A cluster signals every process of a job; the main one needs its workers to end its step."""
    batches = watch(prompt, method=method)
    (sample,) = next(batches)
    other = os.fork()
    if other == 0:
        os.kill(sample["pid"], signal.SIGTERM)
        os.kill(sample["pid"], signal.SIGUSR1)
        os._exit(0)
    os.waitpid(other, 0)
    with batches.watched():
        for _ in range(6):
            assert next(batches)[0]["pid"] == sample["pid"]
    os.kill(sample["pid"], signal.SIGTERM)
    process = next(p for p in multiprocessing.active_children() if p.pid == sample["pid"])
    process.join(30)
    assert not process.is_alive()
    with pytest.raises(LoaderError), batches.watched():
        while True:
            next(batches)
