"""What the runs in a few-label report started from and ran on: one cell may average several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from few_labels.bench import Row
from few_labels.grid import Grid, markdown_table, spans

#: Digits of a SHA-256 that are shown.
DIGITS = 12


def provenance_table(grid: Grid, labels: Sequence[str]) -> str:
    """Seeds at each number of labels, a row an arm, weights and device."""
    body = []
    for arm, cells in grid.items():
        rows = [row for cell in cells.values() for row in cell.values()]
        for origin in dict.fromkeys(map(_origin, rows)):
            seeds = [
                spans(seed for seed, row in cells.get(n, {}).items() if _origin(row) == origin)
                for n in labels
            ]
            digest, device = origin
            body.append([arm, digest[:DIGITS] or "-", device, *seeds])
    headers = ["arm", "starts from", "device", *(f"seeds, n = {n}" for n in labels)]
    return markdown_table(headers, body)


def mixed_cells(grid: Grid, labels: Sequence[str]) -> str:
    """Which cells average several weights or devices: ``mrssl at n = 1, 2``; "" for none."""
    mixed = {
        arm: [n for n in labels if len(set(map(_origin, cells.get(n, {}).values()))) > 1]
        for arm, cells in grid.items()
    }
    return "; ".join(f"{arm} at n = {', '.join(found)}" for arm, found in mixed.items() if found)


def apart(cell: Mapping[int, Row], baseline: Mapping[int, Row]) -> dict[str, int]:
    """How many pairs are of two devices or versions of torch, and how many of two of the code.

    Returns:
        Mark -> count, without those that are 0; see :data:`MARKS`.
    """
    pairs = [(cell[seed], baseline[seed]) for seed in cell if seed in baseline]
    counts = {
        mark: sum(any(_of(a, key) != _of(b, key) for key in keys) for a, b in pairs)
        for mark, (keys, _) in MARKS.items()
    }
    return {mark: count for mark, count in counts.items() if count}


#: By mark: the entries of a row that it is of, and what it says.
MARKS = {
    "*": (("device", "torch"), "of different devices or versions of torch"),
    "\N{DAGGER}": (("code", "scored_by"), "trained or scored by different versions of the code"),
}


def _of(row: Row, key: str) -> object:
    return row.get(key, row["code"])


def _origin(row: Row) -> tuple[str, str]:
    return row["weights_sha256"], row["device"]
