"""Rows of the few-label benchmark as a grid of arms, numbers of labels and seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tabulate import tabulate

from few_labels.bench import Row
from mrssl.evaluation import Interval, paired_interval, t_interval

#: arm -> label ("1", "8", "all") -> seed -> row
Grid = dict[str, dict[str, dict[int, Row]]]


def grid_of(rows: Sequence[Row]) -> Grid:
    """Rows by arm, number of labelled subjects and seed, in their order."""
    grid: Grid = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        grid[row["arm"]][row["labeled"]][row["seed"]] = row
    return grid


def labels_of(rows: Sequence[Row]) -> list[str]:
    """The numbers of labelled subjects in ascending order, "all" last."""
    return sorted({row["labeled"] for row in rows}, key=lambda n: (n == "all", len(n), n))


def over_seeds(cell: Mapping[int, Row], key: str) -> Interval:
    """Mean and interval of a figure over the seeds; an undefined one is left out."""
    values = [row[key] for row in cell.values()]
    return t_interval([math.nan if value is None else value for value in values])


def gain(cell: Mapping[int, Row], baseline: Mapping[int, Row], key: str = "dice") -> Interval:
    """Paired difference with a baseline over the seeds that both have."""
    ours, theirs = (
        {seed: math.nan if row[key] is None else row[key] for seed, row in rows.items()}
        for rows in (cell, baseline)
    )
    return paired_interval(ours, theirs)


def gain_over_subjects(cell: Mapping[int, Row], baseline: Mapping[int, Row]) -> Interval:
    """Paired difference in Dice over the test subjects, the mean of the common seeds of each."""
    tables = [
        [rows[seed]["dice_per_subject"] for rows in (cell, baseline)]
        for seed in cell
        if seed in baseline and all(rows[seed].get("dice_per_subject") for rows in (cell, baseline))
    ]
    each = [set(table) for pair in tables for table in pair]
    subjects = set.intersection(*each) if each else set[str]()
    ours, theirs = (
        {s: float(np.mean([pair[side][s] for pair in tables])) for s in sorted(subjects)}
        for side in (0, 1)
    )
    return paired_interval(ours, theirs)


def spans(numbers: Iterable[int]) -> str:
    """Integers in ascending order, neighbours as a span: ``0-2, 4``."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][-1] + 1:
            found[-1].append(number)
        else:
            found.append([number])
    return ", ".join(f"{s[0]}-{s[-1]}" if len(s) > 1 else str(s[0]) for s in found)


def markdown_table(headers: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    """A table in Markdown, its cells as they are."""
    return tabulate(body, headers=headers, tablefmt="pipe", disable_numparse=True)
