"""What the runs in a few-label report started from and ran on: one cell may average several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from few_labels_bench import Row
from few_labels_grid import Grid, markdown_table, spans

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


def pairs_of_two_devices(cell: Mapping[int, Row], baseline: Mapping[int, Row]) -> int:
    """How many seeds ran on one device in a cell and on another in its baseline."""
    return sum(
        cell[seed]["device"] != baseline[seed]["device"] for seed in cell if seed in baseline
    )


def _origin(row: Row) -> tuple[str, str]:
    return row["weights_sha256"], row["device"]
