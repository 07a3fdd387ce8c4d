"""The demonstration's report: one HTML file with its tables, curves and pictures inside.

Images are float32 (H, W) in [0, 1]; masks are bool (H, W), True inside the region.
"""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from mrssl.evaluation import Results
from mrssl.files import written_whole

#: What the report says first, because its figures invite more than they hold.
CAVEAT = (
    "This is a demonstration that the whole chain runs, and no evidence for the method: one "
    "subject (the average of 152 brains) cut into slabs, one seed, minutes of training. Slabs of "
    "one brain resemble each other far more than two patients do. Whether pretraining is worth "
    "anything on your data, only your data can tell."
)

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
.caveat { border-left: .3rem solid #c60; background: #fff4e6; color: #222; padding: .6rem 1rem; }
img { max-width: 100%; display: block; margin: .5rem 0; background: #fff; }
table { border-collapse: collapse; margin: .5rem 0; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #ccc; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figcaption, .note { color: #555; font-size: .9rem; }
pre { background: #f4f4f4; color: #222; padding: .6rem 1rem; overflow-x: auto; font-size: .8rem; }
"""

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
        text = (self.folder / "metrics.json").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.strip()]


@dataclass(frozen=True)
class Picture:
    """One cell of a grid: an image, regions to tint, boxes (N, 4) XYXY with a word on each."""

    image: np.ndarray
    masks: Sequence[np.ndarray] = ()
    boxes: np.ndarray | Sequence[Sequence[float]] = ()
    names: Sequence[str] = ()


@dataclass
class Report:
    """Collects sections, then writes them as one HTML file."""

    title: str
    parts: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Start a section."""
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str, kind: str = "") -> None:
        """Add a paragraph; ``kind`` "caveat" sets it off, "note" makes it small."""
        self.parts.append(f'<p class="{kind}">{html.escape(text)}</p>')

    def listing(self, text: str) -> None:
        """Add text as it stands."""
        self.parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table; floats are shown to three decimals, nan as a dash."""

        def row(cells: Sequence[Any], tag: str) -> str:
            shown = (f"<{tag}>{html.escape(_shown(cell))}</{tag}>" for cell in cells)
            return f"<tr>{''.join(shown)}</tr>"

        body = "".join(row(cells, "td") for cells in rows)
        self.parts.append(f"<table>{row(header, 'th')}{body}</table>")

    def figure(self, figure: Figure, caption: str) -> None:
        """Add a figure, and close it."""
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=110)
        plt.close(figure)
        encoded = base64.b64encode(data.getvalue()).decode("ascii")
        caption = html.escape(caption)
        self.parts.append(
            f'<figure><img alt="{caption}" src="data:image/png;base64,{encoded}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def write(self, path: Path) -> None:
        """Write the file, at once or not at all."""
        title = html.escape(self.title)
        page = (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
            f"<style>{_STYLE}</style><h1>{title}</h1>{''.join(self.parts)}</html>\n"
        )
        with written_whole(path) as partial:
            partial.write_text(page, encoding="utf-8")


def _shown(cell: Any) -> str:
    if isinstance(cell, float):
        return "–" if math.isnan(cell) else f"{cell:.3f}"
    return str(cell)


def picture_grid(titles: Sequence[str], rows: Sequence[Sequence[Picture]]) -> Figure:
    """Draw pictures in rows, a title above each column."""
    height, width = rows[0][0].image.shape
    side = 2.3
    figure, axes = plt.subplots(
        len(rows),
        len(titles),
        figsize=(side * len(titles), side * height / width * len(rows) + 0.3),
        squeeze=False,
        layout="compressed",
    )
    for axis, picture in zip(axes.flat, (cell for row in rows for cell in row), strict=True):
        axis.imshow(tint(picture.image, picture.masks), interpolation="nearest")
        axis.set_axis_off()
        for index, (x0, y0, x1, y1) in enumerate(picture.boxes):
            # Boxes are in pixel edges, matplotlib's axes in pixel centres.
            edges = plt.Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, color="#f90")
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
    """Metrics of ``metrics.json`` over iterations; one line for each run and metric found."""
    figure, axis = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    for run in runs:
        history = run.history()
        for metric in metrics:
            points = [(h["iteration"], h[metric]) for h in history if h.get(metric) is not None]
            if points:
                name = run.title if len(metrics) == 1 else metric.removeprefix("loss_")
                axis.plot(
                    *zip(*points, strict=True), label=name, marker="." if len(points) < 9 else ""
                )
    axis.set_xlabel("iteration")
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=8)
    return figure


def loss_names(run: Run) -> list[str]:
    """Names of the losses that a run logged, the total first."""
    names = {key for line in run.history() for key in line if key.startswith("loss_")}
    return ["total_loss", *sorted(names)]


def metric_rows(
    runs: Sequence[Run], metrics: Mapping[str, tuple[str, str]]
) -> list[list[str | float]]:
    """A row for each run: its title, then ``metrics`` = {column: (task, metric)}; nan if absent."""
    nan = float("nan")
    return [
        [run.title, *(float(run.results.get(t, {}).get(m, nan)) for t, m in metrics.values())]
        for run in runs
    ]
