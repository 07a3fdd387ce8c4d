from __future__ import annotations

import pickle
from collections import Counter
from itertools import islice
from typing import Any

import pytest

from mrssl.data.loader import EvaluationSet, PositionSampler, SampleStream, build_loader
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


def test_a_stream_survives_pickling() -> None:
    data = stream()
    assert [pickle.loads(pickle.dumps(data))[p] for p in range(20)] == [data[p] for p in range(20)]


def test_evaluation_sees_each_slice_once_in_order() -> None:
    loader = build_loader(EvaluationSet([{"image_id": i} for i in range(5)], mapper), batch_size=2)
    seen = [sample["image_id"] for batch in loader for sample in batch]
    assert seen == list(range(5))
    assert Counter(seen).most_common(1)[0][1] == 1
