"""Tables and model-zoo rows of the few-label benchmark, from its rows alone."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from few_labels.bench import Row
from few_labels.curves import curves, to_scratch
from few_labels.grid import (
    Grid,
    gain,
    gain_over_subjects,
    grid_of,
    labels_of,
    markdown_table,
    over_seeds,
)
from few_labels.plan import SCRATCH
from few_labels.provenance import DIGITS, MARKS, apart, mixed_cells, provenance_table

#: What each column of the table of further figures takes from a row, and its digits.
_FURTHER = {
    "Dice, foreground": ("dice_foreground", 3),
    "Dice, instances": ("dice_instances", 3),
    "Dice, slice by slice": ("dice_slicewise", 3),
    "HD95, mm": ("hd95", 1),
    "mask AP": ("ap", 3),
    "s": ("seconds", 0),
}


def markdown(
    rows: Sequence[Row],
    pretrainings: Sequence[Row],
    baselines: Mapping[str, Sequence[str]] = {SCRATCH: ()},
) -> str:
    """The report as Markdown.

    Args:
        rows: of finished runs, with ``iterations_to_scratch``.
        pretrainings: rows of the pretraining runs.
        baselines: by arm, which arms are compared with it; none named is all.
    """
    grid, labels = grid_of(rows), labels_of(rows)
    name = rows[0]["dataset"]
    parts = [
        f"# Few labels: {name}",
        _about(rows),
        "## Dice",
        "Mean over test subjects and classes, then mean and 95 % interval over seeds.",
        _table(grid, labels, lambda arm, n: over_seeds(grid[arm][n], "dice").format()),
    ]
    if mixed := mixed_cells(grid, labels):
        parts += [f"Means over several weights or devices (see Pretraining): {mixed}."]
    for baseline, compared in baselines.items():
        others = {
            arm: cells
            for arm, cells in grid.items()
            if arm != baseline and (arm in compared or not compared)
        }
        if baseline in grid and others:
            parts += [f"## Difference in Dice with {baseline}"]
            parts += [_difference_note(baseline, others, grid[baseline])]
            parts += [_differences(others, grid[baseline], "dice")]
            if subjects := _over_subjects(others, grid[baseline]):
                parts += [_SUBJECTS_NOTE, subjects]
            parts += ["And in mask AP, which knows no threshold of scores and forgives no name:"]
            parts += [_differences(others, grid[baseline], "ap")]
    parts += ["## Further figures", _FURTHER_NOTE, _further(grid, labels)]
    if any(row["curve"] for row in rows):
        parts += ["## While training", _CURVES_NOTE, curves(grid, labels)]
    parts += ["## Pretraining", *([_pretraining_table(pretrainings)] if pretrainings else [])]
    parts += [_provenance_note(rows, pretrainings), provenance_table(grid, labels)]
    return "\n\n".join(parts) + "\n"


_FURTHER_NOTE = (
    "Foreground: all classes merged. Instances: a wrong class, or none, is forgiven. Slice by "
    "slice: Dice without joint names (`MRSSL.EVALUATION.JOINT_NAMES`). HD95 of a structure "
    "missed altogether is the volume's diagonal. To scratch: iterations after which Dice on held-"
    "out training subjects reached what scratch ended with, mean over the seeds that did, of all "
    "iterations; seeds in brackets. s: seconds of training."
)


_SUBJECTS_NOTE = (
    "The same over test subjects, the seeds of each averaged: what others might have shown. "
    "The interval above is of the seeds alone; seeds that start from one pretraining (see there) "
    "say nothing of another one."
)


_CURVES_NOTE = (
    "Mean Dice over seeds after so many iterations, on held-out training subjects; the whole "
    "curves are in `curves.png`. The learning rate falls to the end of the schedule."
)


def _provenance_note(rows: Sequence[Row], pretrainings: Sequence[Row]) -> str:
    note = "The SHA-256 of what each run started from (- is scratch), and where it ran."
    if {row["weights_sha256"] for row in rows} - {"", *(row["sha256"] for row in pretrainings)}:
        note += " What is not in `pretraining.json` is of another machine, or a file."
    return note


def _about(rows: Sequence[Row]) -> str:
    """What ran where; what differs between rows is listed."""
    told = {
        key: ", ".join(dict.fromkeys(str(row[key]) for row in rows))
        for key in ("engine", "device", "threads", "torch", "code", "slices_per_iteration")
    }
    told["scored_by"] = ", ".join(
        dict.fromkeys(str(row.get("scored_by", row["code"])) for row in rows)
    )
    again = f", scored by {told['scored_by']}" if told["scored_by"] != told["code"] else ""
    steps: dict[str, dict[int, None]] = defaultdict(dict)
    for row in rows:
        steps[row["labeled"]][row["iterations"]] = None
    schedule = "; ".join(f"{'/'.join(map(str, steps[n]))} at n = {n}" for n in labels_of(rows))
    return (
        f"{len(rows)} runs on {told['device']} ({told['threads']} threads a run; engine "
        f"{told['engine']}, torch {told['torch']}, mrssl {told['code']}{again}). Iterations of "
        f"{told['slices_per_iteration']} slices: {schedule}. n is the number of labelled subjects."
    )


def _table(grid: Mapping[str, Any], labels: Sequence[str], cell: Callable[[str, str], str]) -> str:
    body = [[arm, *(cell(arm, n) if n in grid[arm] else "" for n in labels)] for arm in grid]
    return markdown_table(["arm", *(f"n = {n}" for n in labels)], body)


def _difference_note(name: str, grid: Grid, baseline: Mapping[str, Mapping[int, Row]]) -> str:
    note = (
        "Paired by seed: same labelled subjects and, of one configuration, same initialisation of "
        f"what is new. In brackets the 95 % interval, then the gain relative to the mean of {name}."
    )
    pairs = [(cells[n], baseline[n]) for cells in grid.values() for n in cells if n in baseline]
    for mark, (_, meaning) in MARKS.items():
        if any(mark in apart(*pair) for pair in pairs):
            note += f" (k{mark}): in k of the pairs the two runs are {meaning}."
    return note


def _differences(grid: Grid, baseline: Mapping[str, Mapping[int, Row]], key: str) -> str:
    labels = [n for n in baseline if any(n in cells for cells in grid.values())]
    return _table(grid, labels, lambda arm, n: _gain_cell(grid[arm][n], baseline[n], key))


def _over_subjects(grid: Grid, baseline: Mapping[str, Mapping[int, Row]]) -> str:
    """The same over test subjects; "" for rows that do not tell of them."""
    labels = [n for n in baseline if any(n in cells for cells in grid.values())]
    found = {
        (arm, n): gain_over_subjects(cells[n], baseline[n])
        for arm, cells in grid.items()
        for n in labels
        if n in cells
    }
    if not any(interval.count for interval in found.values()):
        return ""
    return _table(grid, labels, lambda arm, n: found[arm, n].format(sign=True))


def _gain_cell(cell: Mapping[int, Row], baseline: Mapping[int, Row], key: str) -> str:
    difference = gain(cell, baseline, key)
    if not difference.count:
        return "-"
    base = over_seeds({seed: baseline[seed] for seed in baseline if seed in cell}, key).mean
    relative = f", {100 * difference.mean / base:+.0f} %" if base > 0 else ""
    marks = ", ".join(f"{count}{mark}" for mark, count in apart(cell, baseline).items())
    return f"{difference.format(sign=True)}{relative}" + (f" ({marks})" if marks else "")


def _further(grid: Grid, labels: Sequence[str]) -> str:
    body = [
        [
            arm,
            n,
            len(grid[arm][n]),
            *(over_seeds(grid[arm][n], key).format(digits) for key, digits in _FURTHER.values()),
            to_scratch(grid[arm][n]),
        ]
        for n in labels
        for arm in grid
        if n in grid[arm]
    ]
    return markdown_table(["arm", "n", "seeds", *_FURTHER, "to scratch"], body)


def _pretraining_table(rows: Sequence[Row]) -> str:
    body = [
        [r["arm"], r["seed"], r["config"], r["iterations"], r["slices_per_iteration"],
         round(r["seconds"]), r["device"], r["sha256"][:DIGITS]]
        for r in rows
    ]  # fmt: skip
    headers = ["weights", "seed", "config", "iterations", "slices each", "s", "device", "SHA-256"]
    return markdown_table(headers, body)


def zoo_rows(rows: Sequence[Row], command: str) -> str:
    """Rows for MODEL_ZOO.md: one an arm and number of labelled subjects, in narrow cells.

    Args:
        rows: of finished runs.
        command: the command line that makes them, of which each row names its arm and n.
    """
    grid = grid_of(rows)
    body: list[list[object]] = []
    config = ""
    for n in labels_of(rows):
        for arm in grid:
            if not (cell := grid[arm].get(n)):
                continue
            one = next(iter(cell.values()))
            made_by = f"`--arms {arm} --labeled {n}`"
            devices = " and ".join(dict.fromkeys(row["device"] for row in cell.values()))
            seconds = over_seeds(cell, "seconds").mean
            body.append(
                [f"the same, {made_by}" if body else f"`{command} {made_by[1:]}",
                 "the same" if one["config"] == config else f"`{one['config']}`",
                 f"{devices}, {one['threads']} threads",
                 f"{one['iterations']} x {one['slices_per_iteration']} slices, {seconds:.0f} s",
                 one["labeled_subjects"], len(cell),
                 *(over_seeds(cell, key).format(digits) for key, digits in _ZOO.values())]
            )  # fmt: skip
            config = one["config"]
    headers = ["command", "config", "device", "schedule, time", "labelled subjects", "seeds", *_ZOO]
    table = markdown_table(headers, body)
    return re.sub(r"-{4,}", "---", re.sub(r" {2,}", " ", table))


_ZOO = {"Dice": ("dice", 3), "HD95, mm": ("hd95", 1), "mask AP": ("ap", 3)}
