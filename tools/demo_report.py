"""What the demonstration's report shows: its runs, their curves and pictures.

Images are float32 (H, W) in [0, 1]; masks are bool (H, W), True inside the region.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mrssl.engines import report
from mrssl.engines.report import Report, read_history
from mrssl.evaluation import Results

#: What the report says first, because its figures invite more than they hold.
CAVEAT = (
    "This is a demonstration that the whole chain runs, and no evidence for the method: one "
    "subject (the average of 152 brains) cut into slabs, one seed, minutes of training. Slabs of "
    "one brain resemble each other far more than two patients do. Whether pretraining is worth "
    "anything on your data, only your data can tell."
)

_OVERLAY = np.array([[0, 0, 0], [0.95, 0.35, 0.1], [0.1, 0.6, 0.95], [0.2, 0.8, 0.3]], np.float32)


@dataclass(frozen=True)
class Run:
    """One training run as the report shows it.

    Attributes:
        title: such as "from scratch".
        folder: its ``OUTPUT_DIR``.
        results: of its last evaluation, ``{task: {metric: value}}``.
        seconds: wall-clock time.
    """

    title: str
    folder: Path
    results: Results
    seconds: float

    def history(self) -> list[dict[str, float | None]]:
        """The lines of ``metrics.json``, in order; None where a value was no number."""
        return read_history(self.folder)


@dataclass(frozen=True)
class Picture:
    """One cell of a grid: an image, regions to tint, boxes (N, 4) XYXY with a word on each."""

    image: np.ndarray
    masks: Sequence[np.ndarray] = ()
    boxes: np.ndarray | Sequence[Sequence[float]] = ()
    names: Sequence[str] = ()


def picture_grid(titles: Sequence[str], rows: Sequence[Sequence[Picture]]) -> Figure:
    """Draw pictures in rows, a title above each column."""
    height, width = rows[0][0].image.shape
    side = 2.3
    figure = Figure(
        figsize=(side * len(titles), side * height / width * len(rows) + 0.3), layout="compressed"
    )
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for axis, picture in zip(axes.flat, (cell for row in rows for cell in row), strict=True):
        axis.imshow(tint(picture.image, picture.masks), interpolation="nearest")
        axis.set_axis_off()
        for index, (x0, y0, x1, y1) in enumerate(picture.boxes):
            # Boxes are in pixel edges, matplotlib's axes in pixel centres.
            edges = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="#f90")
            axis.add_patch(edges)
            if index < len(picture.names):
                axis.text(x0, y0 - 3, picture.names[index], color="#fc0", fontsize=6, clip_on=True)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=9)
    return figure


def tint(image: np.ndarray, masks: Sequence[np.ndarray] = ()) -> np.ndarray:
    """Grey levels as float32 (H, W, 3) in [0, 1], each mask tinted in a colour of its own."""
    colored = np.repeat(np.clip(image, 0, 1)[..., None], 3, axis=2).astype(np.float32)
    for index, mask in enumerate(masks):
        color = _OVERLAY[1 + index % (len(_OVERLAY) - 1)]
        colored[mask] = 0.55 * colored[mask] + 0.45 * color
    return colored


def curves(runs: Sequence[Run], metrics: Sequence[str], ylabel: str) -> Figure:
    """Metrics over iterations; one line for each run and metric found."""
    return report.curves({run.title: run.history() for run in runs}, metrics, ylabel)


def loss_names(run: Run) -> list[str]:
    """Names of the losses that a run logged, the total first."""
    return report.loss_names(run.history())


def metric_rows(
    runs: Sequence[Run], metrics: Mapping[str, tuple[str, str]]
) -> list[list[str | float]]:
    """A row for each run: its title, then ``metrics`` = {column: (task, metric)}; nan if absent."""
    nan = float("nan")
    return [
        [run.title, *(float(run.results.get(t, {}).get(m, nan)) for t, m in metrics.values())]
        for run in runs
    ]


__all__ = [
    "CAVEAT",
    "Picture",
    "Report",
    "Run",
    "curves",
    "loss_names",
    "metric_rows",
    "picture_grid",
    "tint",
]
