"""Pictures of the few-label benchmark, from its rows alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from few_labels.bench import Row
from few_labels.curves import mean_curve
from few_labels.grid import Grid, grid_of, labels_of, over_seeds
from mrssl.errors import optional_import
from mrssl.evaluation import Interval
from mrssl.files import replacing


def plot(rows: Sequence[Row], path: Path) -> None:
    """Dice over the number of labelled subjects, as PNG.

    A line through the means of an arm that was run at several numbers, with 95 % intervals, and a
    faint dot a seed. Beside them, where other arms were run at one number only, all arms at the
    number that most of those have, one below the other.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    pyplot = _pyplot()
    grid, labels = grid_of(rows), labels_of(rows)
    at_one = [n for cells in grid.values() if len(cells) == 1 for n in cells]
    compared = max(labels, key=at_one.count) if at_one and len(labels) > 1 else None
    panels = 1 if compared is None else 2
    figure, axes = pyplot.subplots(
        1, panels, figsize=(8 * panels, 5), dpi=120, squeeze=False, layout="constrained"
    )
    _plot_lines(axes[0, 0], grid, labels)
    if compared is not None:
        _plot_arms(axes[0, 1], grid, compared)
    figure.suptitle(f"{rows[0]['dataset']}: mean, 95 % interval and each seed")
    _save(figure, path)


def _plot_lines(axes: Any, grid: Grid, labels: Sequence[str]) -> None:
    lines = {arm: c for arm, c in grid.items() if len(c) > 1} if len(labels) > 1 else grid
    for place, (arm, cells) in enumerate(lines.items()):
        present = [n for n in labels if n in cells]
        found = [over_seeds(cells[n], "dice") for n in present]
        # Side by side, so that intervals can be told apart.
        x = [labels.index(n) + 0.3 * ((place + 0.5) / len(lines) - 0.5) for n in present]
        style = _style(list(grid).index(arm))
        means, half = [i.mean for i in found], [_half(i) for i in found]
        axes.errorbar(x, means, yerr=half, marker="o", capsize=3, label=arm, **style)
        for at, n in zip(x, present, strict=True):
            each = [row["dice"] for row in cells[n].values()]
            axes.scatter([at] * len(each), each, s=12, alpha=0.4, color=style["color"])
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel("labelled subjects")
    axes.set_ylabel("Dice on the test subjects")
    axes.set_ylim(*_within_dice(axes.get_ylim()))
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _plot_arms(axes: Any, grid: Grid, n: str) -> None:
    present = {arm: cells[n] for arm, cells in grid.items() if n in cells}
    for place, (arm, cell) in enumerate(present.items()):
        found = over_seeds(cell, "dice")
        color = _style(list(grid).index(arm))["color"]
        axes.errorbar(found.mean, place, xerr=_half(found), marker="o", capsize=3, color=color)
        each = [row["dice"] for row in cell.values()]
        axes.scatter(each, [place] * len(each), s=12, alpha=0.4, color=color)
    axes.set_yticks(range(len(present)), present)
    axes.invert_yaxis()  # in the order of the tables
    axes.set_xlabel(f"Dice on the test subjects, {n} labelled")
    axes.set_xlim(*_within_dice(axes.get_xlim()))
    axes.grid(alpha=0.3)


def _within_dice(limits: tuple[float, float]) -> tuple[float, float]:
    """An axis of Dice ends where Dice does; the interval of two seeds may reach far beyond."""
    return max(limits[0], -0.02), min(limits[1], 1.02)


def _half(interval: Interval) -> float:
    """Half the width of an interval; 0 where one seed gives none."""
    return 0.0 if math.isnan(interval.high) else interval.high - interval.mean


def plot_curves(rows: Sequence[Row], path: Path) -> None:
    """A panel a number of labelled subjects, as PNG: mean Dice by iteration, each seed faintly.

    Nothing is written where no row has a curve.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    pyplot = _pyplot()
    rows = [row for row in rows if row["curve"]]
    if not rows:
        return
    grid, labels = grid_of(rows), labels_of(rows)
    figure, panels = pyplot.subplots(
        1, len(labels), figsize=(1 + 3.6 * len(labels), 4), dpi=120, sharey=True, squeeze=False
    )
    for axes, n in zip(panels[0], labels, strict=True):
        for place, (arm, cells) in enumerate(grid.items()):
            style = _style(place)
            for row in cells.get(n, {}).values():
                axes.plot(*zip(*row["curve"], strict=True), **style, alpha=0.15, linewidth=0.8)
            if mean := mean_curve(cells.get(n, {})):
                axes.plot(list(mean), list(mean.values()), **style, label=arm)
        axes.set_title(f"{n} labelled")
        axes.set_xlabel("iterations")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="lower right")
    panels[0][0].set_ylabel("Dice on held-out training subjects")
    figure.suptitle(rows[0]["dataset"])
    figure.tight_layout()
    _save(figure, path)


def _pyplot() -> Any:
    """For files only: no screen is looked for."""
    matplotlib = optional_import("matplotlib", "pip install matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as file:
        figure.savefig(file, format="png")
    _pyplot().close(figure)


def _style(place: int) -> dict[str, Any]:
    """How the arm in that place is drawn, the same in every picture; there are ten colours."""
    return {"color": f"C{place % 10}", "linestyle": "-" if place < 10 else "--"}
