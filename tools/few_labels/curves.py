"""Dice while training, in the few-label benchmark: where scratch is reached; their table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from few_labels.bench import Row
from few_labels.grid import Grid, markdown_table
from few_labels.plan import SCRATCH


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
