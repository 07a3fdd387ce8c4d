"""Where the time of a run goes: waiting for data, steps, and all that is done besides."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class StepClock:
    """Adds up the seconds since it was last asked.

    ::

        clock = StepClock()
        while True:
            with clock.waiting():
                batch = next(batches)
            with clock.working(len(batch)):
                step(batch)
            log(clock.figures())
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew: what was done since the last figures does not count."""
        self._start = time.perf_counter()
        self._waiting = self._working = 0.0
        self._images = 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._waiting += time.perf_counter() - start

    @contextmanager
    def working(self, images: int) -> Iterator[None]:
        """The block trains on so many images (over all processes)."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._working += time.perf_counter() - start
            self._images += images

    def figures(self) -> dict[str, float]:
        """``images_per_second``, and ``data_share`` and ``overhead_share`` of the time; reset.

        The overhead is what is neither waiting nor working: the schedule, the average of the
        weights, writing, pictures. On a GPU also
        ``gpu_memory_mib``, the most that was ever allocated.
        """
        total = max(time.perf_counter() - self._start, 1e-9)
        found = {
            "images_per_second": self._images / total,
            "data_share": self._waiting / total,
            "overhead_share": max(total - self._waiting - self._working, 0.0) / total,
        }
        self.reset()
        return found | gpu_memory()


def gpu_memory() -> dict[str, float]:
    """``gpu_memory_mib``: the most that this process ever had allocated; nothing without a GPU."""
    if not torch.cuda.is_available():
        return {}
    return {"gpu_memory_mib": torch.cuda.max_memory_allocated() / 2**20}


__all__ = ["StepClock", "gpu_memory"]
