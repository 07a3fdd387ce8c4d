"""An endless, resumable stream of samples that is the same on any number of workers and processes.

A position p in the stream is a number; everything follows from it. With N slices, p lies in epoch
p // N, and takes the slice at place p % N of that epoch's permutation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mrssl.errors import MrsslError


class SampleStream(Dataset[dict[str, Any]]):
    """Positions of the endless stream -> mapped samples.

    Args:
        records: N standard dataset dicts.
        mapper: ``mapper(record, epoch=..., iteration=...)``.
        seed: of the permutations.
        batch_size: samples of an iteration, over all processes.

    Raises:
        MrsslError: no records.
    """

    def __init__(
        self,
        records: Sequence[dict[str, Any]],
        mapper: Callable[..., dict[str, Any]],
        *,
        seed: int,
        batch_size: int,
    ) -> None:
        if not records:
            raise MrsslError("DATASETS.TRAIN: no slice is left to train on")
        self.records = records
        self.mapper = mapper
        self.seed = seed
        self.batch_size = batch_size
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_permutation"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._permutation = lru_cache(maxsize=2)(self._draw_permutation)

    def __len__(self) -> int:
        return len(self.records)

    def _draw_permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.records))

    def __getitem__(self, position: int) -> dict[str, Any]:
        epoch, place = divmod(int(position), len(self.records))
        record = self.records[int(self._permutation(epoch)[place])]
        return self.mapper(record, epoch=epoch, iteration=int(position) // self.batch_size)


class EvaluationSet(Dataset[dict[str, Any]]):
    """Each record once, in order."""

    def __init__(
        self, records: Sequence[dict[str, Any]], mapper: Callable[..., dict[str, Any]]
    ) -> None:
        self.records = records
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.mapper(self.records[index])


class PositionSampler(Sampler[int]):
    """Positions of one process: of each batch of the stream, its own consecutive part.

    Args:
        batch_size: over all processes.
        start_iteration: first iteration, for resuming.
        rank, world_size: this process among how many.

    Raises:
        MrsslError: a batch that cannot be shared out evenly.
    """

    def __init__(
        self, batch_size: int, *, start_iteration: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size % world_size:
            raise MrsslError(
                f"SOLVER.IMS_PER_BATCH {batch_size} is no multiple of the {world_size} processes"
            )
        self.batch_size = batch_size
        self.start_iteration = start_iteration
        self.rank = rank
        self.share = batch_size // world_size

    def __iter__(self) -> Iterator[int]:
        iteration = self.start_iteration
        while True:
            first = iteration * self.batch_size + self.rank * self.share
            yield from range(first, first + self.share)
            iteration += 1


def build_loader(
    dataset: Dataset[dict[str, Any]],
    *,
    batch_size: int,
    sampler: Sampler[int] | None = None,
    num_workers: int = 0,
    collate: Callable[[list[dict[str, Any]]], Any] = list,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """A ``DataLoader`` whose workers keep to one thread each, and stay alive between epochs."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        worker_init_fn=_single_threaded if num_workers else None,
    )


def _single_threaded(worker: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
