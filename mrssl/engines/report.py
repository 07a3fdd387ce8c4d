"""Pages about runs: one HTML file with its tables, curves and pictures inside."""

from __future__ import annotations

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mrssl.errors import optional_import
from mrssl.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = list[dict[str, Any]]

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
        """Add a figure of matplotlib."""
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=110)
        self._png(data.getvalue(), caption)

    def picture(self, image: np.ndarray, caption: str) -> None:
        """Add a picture, uint8 RGB (H, W, 3)."""
        _, encoded = cv2.imencode(".png", image[..., ::-1])
        self._png(encoded.tobytes(), caption)

    def _png(self, data: bytes, caption: str) -> None:
        encoded = base64.b64encode(data).decode("ascii")
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
        write_text(path, page)


def _shown(cell: Any) -> str:
    if isinstance(cell, float):
        return "–" if math.isnan(cell) else f"{cell:.3f}"
    return str(cell)


def read_history(folder: Path) -> History:
    """The lines of a run's ``metrics.json``, in order; None where a value was no number."""
    text = (folder / "metrics.json").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def loss_names(history: History) -> list[str]:
    """Names of the losses that a run logged, the total first."""
    return ["total_loss", *sorted({k for line in history for k in line if k.startswith("loss_")})]


def curves(runs: Mapping[str, History], metrics: Sequence[str], ylabel: str) -> Figure:
    """Metrics over iterations; one line for each run and metric found.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib: Any = optional_import("matplotlib.figure", "pip install matplotlib")
    figure = matplotlib.Figure(figsize=(7.5, 3.2), layout="constrained")
    axis = figure.subplots()
    for title, history in runs.items():
        for metric in metrics:
            points = [(h["iteration"], h[metric]) for h in history if h.get(metric) is not None]
            if points:
                name = title if len(metrics) == 1 else metric.removeprefix("loss_")
                axis.plot(
                    *zip(*points, strict=True), label=name, marker="." if len(points) < 9 else ""
                )
    axis.set_xlabel("iteration")
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=8, loc="upper right")
    return figure


__all__ = ["History", "Report", "curves", "loss_names", "read_history"]
