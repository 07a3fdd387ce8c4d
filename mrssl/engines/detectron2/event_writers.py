"""Writers of Detectron2's event storage; each works in any ``PeriodicWriter``."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from detectron2.utils.events import CommonMetricPrinter, EventWriter, get_event_storage
from fvcore.common.config import CfgNode

from mrssl.engines.writers import MetricsFile, Progress, WandB


class ProgressPrinter(CommonMetricPrinter):
    """Detectron2's line of progress, at most one an iteration.

    The stock printer divides by zero when it is asked twice in the first iterations, as it is when
    a run ends there by a fault or a signal; that would hide why.
    """

    def __init__(self, max_iter: int) -> None:
        super().__init__(max_iter)
        self._printed: int | None = None

    def write(self) -> None:
        """Print the line."""
        iteration = get_event_storage().iter
        if iteration != self._printed:
            self._printed = iteration
            super().write()


class ProgressBar(EventWriter):
    """A bar with ETA and the losses of the last iteration, for a terminal.

    Args:
        max_iter: iterations of the whole run.
        start_iteration: first iteration of this run.
    """

    def __init__(self, max_iter: int, *, start_iteration: int = 0) -> None:
        self._bar = Progress(max_iter, initial=start_iteration)

    def write(self) -> None:
        """Move the bar to where the run is."""
        storage = get_event_storage()
        latest = storage.latest().items()
        losses = {name: value for name, (value, _) in latest if _is_loss(name)}
        done = min(storage.iter + 1, self._bar.total)  # asked once more after the last
        self._bar.update(losses, done - self._bar.done)

    def close(self) -> None:
        """Leave the terminal clean."""
        self._bar.close()


def _is_loss(name: str) -> bool:
    return name == "total_loss" or name.startswith("loss_")


def progress_writer(max_iter: int, *, start_iteration: int = 0) -> EventWriter:
    """A bar where there is a terminal, else Detectron2's line now and then."""
    if sys.stderr.isatty():
        return ProgressBar(max_iter, start_iteration=start_iteration)
    return ProgressPrinter(max_iter)


class MetricsWriter(EventWriter):
    """``metrics.json`` as Detectron2's ``JSONWriter`` has it, fit for a resume.

    Lines that an interrupted run wrote after its last checkpoint are dropped, and what is no number
    is null, where Detectron2 writes NaN, which is no JSON.

    Args:
        path: the file.
        start_iteration: first iteration of this run.
        keep_scores: those under that very number stay. Detectron2 writes the last scores of a run
            under the number of iterations done, which is the first one's of a run that goes on.
        window: iterations over which losses are smoothed by their median.
    """

    def __init__(
        self,
        path: Path,
        *,
        start_iteration: int = 0,
        keep_scores: bool = False,
        window: int = 20,
    ) -> None:
        self._file = MetricsFile(
            path, losses_from=start_iteration, scores_from=start_iteration + keep_scores
        )
        self._window = window
        self._last = start_iteration - 1

    def write(self) -> None:
        """Append what is new in the storage, a line an iteration."""
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        latest = get_event_storage().latest_with_smoothing_hint(self._window)
        for name, (value, iteration) in latest.items():
            if iteration > self._last:
                rows[iteration][name] = float(value)
        for iteration in sorted(rows):
            self._file.write(iteration, rows[iteration])
        self._last = max([self._last, *rows])


class WandBWriter(EventWriter):
    """Scalars and pictures to Weights & Biases.

    It stands before TensorBoard's writer, which takes the pictures out of the storage.

    Args:
        cfg: see :class:`~mrssl.engines.writers.WandB`.
        window: iterations over which losses are smoothed by their median.

    Raises:
        MissingDependencyError: wandb is not installed.
    """

    def __init__(self, cfg: CfgNode, *, window: int = 20) -> None:
        self._wandb = WandB(cfg)
        self._window = window
        self._last = -1

    def write(self) -> None:
        """Send what is new in the storage."""
        storage = get_event_storage()
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window).items():
            if iteration > self._last:
                rows[iteration][name] = float(value)
        for iteration in sorted(rows):
            self._wandb.write(iteration, rows[iteration])
        self._last = max([self._last, *rows])
        for name, image, iteration in storage._vis_data:
            self._wandb.picture(iteration, name, image.transpose(1, 2, 0))

    def close(self) -> None:
        """Send what is pending."""
        self._wandb.close()


__all__ = ["MetricsWriter", "ProgressBar", "ProgressPrinter", "WandBWriter", "progress_writer"]
