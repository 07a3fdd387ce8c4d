"""Dice while training, in the few-label benchmark: where scratch is reached; table and picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from few_labels_bench import Row
from few_labels_grid import Grid, grid_of, labels_of, line_style, markdown_table
from few_labels_plan import SCRATCH
from mrssl.errors import optional_import
from mrssl.files import replacing


def with_iterations_to_scratch(rows: Sequence[Row]) -> list[Row]:
    """Add ``iterations_to_scratch``: when an arm's curve first reaches scratch's last value.

    Both curves are of the same labelled and validation subjects. None where there is no curve, or
    where it never does.
    """
    last = {
        (row["labeled"], row["seed"]): row["curve"][-1][1]
        for row in rows
        if row["arm"] == SCRATCH and row["curve"]
    }
    out = []
    for row in rows:
        target = last.get((row["labeled"], row["seed"]))
        reached = [] if target is None else [i for i, d in row["curve"] if (d or 0.0) >= target]
        out.append({**row, "iterations_to_scratch": reached[0] if reached else None})
    return out


def to_scratch(cell: Mapping[int, Row]) -> str:
    """Mean iterations to scratch over the seeds that got there, of how many."""
    with_curve = [row for row in cell.values() if row["curve"]]
    reached = [r for r in with_curve if r["iterations_to_scratch"] is not None]
    if not with_curve:
        return "-"
    if not reached:
        return f"never (0 of {len(with_curve)})"
    mean = sum(row["iterations_to_scratch"] for row in reached) / len(reached)
    return f"{mean:.0f} of {reached[0]['iterations']} ({len(reached)} of {len(with_curve)})"


def mean_curve(cell: Mapping[int, Row]) -> dict[int, float]:
    """Mean Dice by iteration over the seeds that have a curve; an undefined one counts as 0."""
    found: dict[int, list[float]] = {}
    for row in cell.values():
        for iteration, dice in row["curve"]:
            found.setdefault(iteration, []).append(dice or 0.0)
    return {iteration: fmean(values) for iteration, values in sorted(found.items())}


def curves(grid: Grid, labels: Sequence[str]) -> str:
    """Mean curves as a table: the first point, each at twice the iterations, and the ends."""
    lines = [(arm, n, mean_curve(grid[arm][n])) for n in labels for arm in grid if n in grid[arm]]
    lines = [line for line in lines if line[2]]
    points = {max(curve) for _, _, curve in lines}
    point, end = min(min(curve) for _, _, curve in lines), max(points)
    while point < end:
        points.add(point)
        point *= 2
    shown = sorted(points)
    body = [
        [arm, n, *(f"{curve[i]:.3f}" if i in curve else "" for i in shown)]
        for arm, n, curve in lines
    ]
    return markdown_table(["arm", "n", *map(str, shown)], body)


def plot_curves(rows: Sequence[Row], path: Path) -> None:
    """A panel a number of labelled subjects, as PNG: mean Dice by iteration, each seed faintly.

    Nothing is written where no row has a curve.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    matplotlib = optional_import("matplotlib", "pip install matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [row for row in rows if row["curve"]]
    if not rows:
        return
    grid, labels = grid_of(rows), labels_of(rows)
    figure, panels = pyplot.subplots(
        1, len(labels), figsize=(1 + 3.6 * len(labels), 4), dpi=120, sharey=True, squeeze=False
    )
    for axes, n in zip(panels[0], labels, strict=True):
        for place, (arm, cells) in enumerate(grid.items()):
            style = line_style(place)
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
    with replacing(path) as file:
        figure.savefig(file, format="png")
    pyplot.close(figure)
