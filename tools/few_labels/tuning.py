"""The table of the few-label benchmark's cross-validation, from its rows alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from few_labels.bench import Row
from few_labels.grid import grid_of, labels_of, markdown_table, over_seeds, spans

#: Rows by fold.
Cell = Mapping[int, Row]


def tuning_markdown(rows: Sequence[Row]) -> str:
    """The table of the cross-validation: the best settings of an arm first.

    Folds differ in how hard they are, so settings are ranked by those that all of them have.

    Args:
        rows: of finished runs, whose seeds are the folds.
    """
    grid = grid_of(rows)
    parts = [
        f"# Cross-validation inside the training split: {rows[0]['dataset']}",
        "On held-out training subjects, mean over folds. No test subject was looked at. "
        "Pretraining saw the images of all training subjects, those held out here included, "
        "without labels.",
    ]
    for n in labels_of(rows):
        arms: dict[str, dict[str, Cell]] = defaultdict(dict)
        for arm, cells in grid.items():
            name, setting = arm.split(" ", 1)
            if n in cells:
                arms[name][setting] = cells[n]
        for name, settings in arms.items():
            parts += [f"## {name}, n = {n}", *_ranking(settings)]
    return "\n\n".join(parts) + "\n"


def _ranking(settings: Mapping[str, Cell]) -> list[str]:
    """The table of an arm; before it, where settings differ in folds, what they are ranked by."""
    common = set.intersection(*map(set, settings.values()))
    shared = {setting: {fold: cell[fold] for fold in common} for setting, cell in settings.items()}
    ranked = sorted(settings, key=lambda setting: _rank(shared[setting]))
    folds = f"fold{'s' * (len(common) > 1)} {spans(common)}"
    body = [
        [
            setting,
            *_scores(settings[setting]),
            spans(settings[setting]),
            _mean(settings[setting], "seconds", 0),
        ]
        for setting in ranked
    ]
    if all(set(cell) == common for cell in settings.values()):
        return [markdown_table(["setting", "Dice", "mask AP", "folds, from 0", "s"], body)]
    headers = ["setting", "Dice, its folds", "mask AP, its folds", "folds, from 0", "s"]
    if not common:
        return ["No fold is of all settings: they are not ranked.", markdown_table(headers, body)]
    headers[1:1] = [f"Dice, {folds}", f"mask AP, {folds}"]
    for line, setting in zip(body, ranked, strict=True):
        line[1:1] = _scores(shared[setting])
    return [f"Ranked by {folds}, which all settings have.", markdown_table(headers, body)]


def _rank(cell: Cell) -> float:
    """Less is better; an undefined Dice comes last."""
    mean = over_seeds(cell, "dice").mean
    return math.inf if math.isnan(mean) else -mean


def _scores(cell: Cell) -> list[str]:
    return [over_seeds(cell, "dice").format(), _mean(cell, "ap", 3)]


def _mean(cell: Cell, key: str, digits: int) -> str:
    """Over the folds, without its interval."""
    return over_seeds(cell, key).format(digits).split(" ")[0]
