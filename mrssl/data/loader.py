"""An endless, resumable stream of samples that is the same on any number of workers and processes.

A position p in the stream is a number; everything follows from it. With N slices, p lies in epoch
p // N, and takes the slice at place p % N of that epoch's permutation.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

from mrssl.data.donors import slice_name
from mrssl.errors import MrsslError

#: What the stream adds to a sample, and engines hand on: where in the stream it stands, how it was
#: shown and distorted, and (name, reason) of the slices that could not be read in its place or as
#: its donor.
STREAM_KEYS = ("position", "records", "donor", "view", "skipped")
_IDLE, _MOST_WORKERS = -1, 256


class LoaderError(MrsslError):
    """A worker died or hung; the message names the slice that it was reading."""


class SampleStream(Dataset[dict[str, Any]]):
    """Positions of the endless stream -> mapped samples.

    Args:
        records: N standard dataset dicts.
        mapper: ``mapper(record, epoch=..., iteration=...)``.
        seed: of the permutations.
        batch_size: samples of an iteration, over all processes.
        max_unreadable: share of the slices that may turn out to be unreadable; the next slice of
            the epoch takes the place of each.

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
        max_unreadable: float = 0.0,
    ) -> None:
        if not records:
            raise MrsslError("DATASETS.TRAIN: no slice is left to train on")
        self.records = records
        self.mapper = mapper
        self.seed = seed
        self.batch_size = batch_size
        self.most_skipped = int(max_unreadable * len(records))
        # What each worker is reading, seen by the main process.
        self.reading = torch.full((_MOST_WORKERS,), _IDLE).share_memory_()
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

    def record(self, position: int) -> dict[str, Any]:
        """The standard dataset dict of a position; places past the epoch's end begin it again."""
        epoch, place = divmod(position, len(self.records))
        return self.records[int(self._permutation(epoch)[place])]

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Make a sample: the mapper's, and ``position`` and ``skipped`` of :data:`STREAM_KEYS`.

        Raises:
            MrsslError: more slices than may be in a row cannot be read; the last one's fault.
        """
        position = int(position)
        worker = get_worker_info()
        slot = worker.id % _MOST_WORKERS if worker is not None else 0
        first = position - position % len(self.records)  # of the epoch
        skipped: list[tuple[str, str]] = []
        while True:
            place = first + (position - first + len(skipped)) % len(self.records)
            record = self.record(place)
            self.reading[slot] = place
            try:
                sample = self.mapper(
                    record,
                    epoch=position // len(self.records),
                    iteration=position // self.batch_size,
                )
            except MrsslError as error:
                skipped.append((slice_name(record), str(error)))
                if len(skipped) > self.most_skipped:
                    raise
                continue
            finally:
                self.reading[slot] = _IDLE
            skipped += sample.get("skipped", ())
            return {**sample, "position": position, "skipped": skipped}

    def being_read(self) -> list[str]:
        """Names of the slices that workers are reading now."""
        return [slice_name(self.record(int(p))) for p in self.reading if p != _IDLE]


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
        if batch_size < 1 or batch_size % world_size:
            raise MrsslError(
                f"SOLVER.IMS_PER_BATCH {batch_size} is no positive multiple of the {world_size} "
                "processes"
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
    timeout: float = 0,
) -> DataLoader[Any]:
    """A ``DataLoader`` whose workers keep to one thread each, and stay alive between epochs.

    Starting it draws nothing from torch's global generator.
    """
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=num_workers > 0,
        worker_init_fn=_prepare_worker if num_workers else None,
        timeout=timeout if num_workers else 0,
        generator=torch.Generator(),
    )


def _prepare_worker(worker: int) -> None:
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    if hasattr(signal, "sigwaitinfo"):
        _obey_parent_only({signal.SIGTERM, signal.SIGUSR1})
        return
    # macOS and Windows cannot say who sent a signal.
    for name in ("SIGTERM", "SIGUSR1") if os.name == "posix" else ("SIGBREAK",):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def _obey_parent_only(numbers: set[signal.Signals]) -> None:
    """Ignore these signals from all but the main process, whose SIGTERM ends this worker.

    Clusters send them to every process of a job, and the main one needs its workers until it has
    saved.
    """
    main = multiprocessing.parent_process()  # os.getppid() may be the server that forks workers
    assert main is not None
    main_pid = main.pid

    def wait() -> None:
        while True:
            found = signal.sigwaitinfo(numbers)
            if found.si_pid == main_pid and found.si_signo == signal.SIGTERM:
                os._exit(0)

    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    threading.Thread(target=wait, daemon=True).start()


def worker_fault(error: BaseException) -> BaseException | None:
    """Torch's way to say that a worker died or hung, if that is how ``error`` came about.

    It may be raised anywhere: what is interrupted, such as the writing of a checkpoint, may well
    end in an error of its own.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError) and str(cause).startswith("DataLoader "):
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


class Batches(Iterator[Any]):
    """Iterates over a loader once, and says what was being read when a worker died or hung.

    Args:
        loader: of a :class:`SampleStream`.
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        self._iterator: Any = None

    def __next__(self) -> Any:
        """The next batch."""
        if self._iterator is None:
            self._iterator = iter(self.loader)
        return next(self._iterator)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While training goes on: torch raises the death of a worker wherever that is just then.

        Raises:
            LoaderError: a worker died or hung.
        """
        try:
            yield
        except Exception as error:
            if (fault := worker_fault(error)) is None:
                raise
            text = " ".join(str(fault).split())
            names = self.loader.dataset.being_read()  # type: ignore[attr-defined]
            self._end_workers()
            reading = ", ".join(names) or "nothing"
            raise LoaderError(f"{text.rstrip('.')}; being read: {reading}") from error

    def _end_workers(self) -> None:
        # Once the iterator has disowned them, a worker that hangs would hold up Python's exit.
        workers = multiprocessing.active_children()
        getattr(self._iterator, "_shutdown_workers", lambda: None)()
        for worker in workers:
            if worker.is_alive() and worker.daemon:
                worker.kill()
