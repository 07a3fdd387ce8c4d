"""The report of tools/evaluate_distortions.py: a table for people, and a picture of the recall."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from mrssl.errors import optional_import
from mrssl.evaluation import Results

#: A type counts as found at a severity where this share of its regions is.
FOUND = 0.5


@dataclass(frozen=True)
class Sweep:
    """What a sweep over severities found.

    Attributes:
        type_names: the K types.
        results: those of the pretext's evaluators, by severity, ascending.
        slices: how many slices were distorted by each type.
    """

    type_names: list[str]
    results: dict[float, Results]
    slices: int

    def recall(self) -> np.ndarray:
        """Share of the regions found; float64 (K, severities)."""
        rows = [r["localization"] for r in self.results.values()]
        return np.array([[row[f"recall-{name}"] for row in rows] for name in self.type_names])

    @property
    def greatest(self) -> float:
        """The greatest severity."""
        return max(self.results)


def _cells(sweep: Sweep, name: str) -> list[float]:
    """AP50, type AP, gain in dB and the distorted regions' PSNR, at the greatest severity."""
    results = sweep.results[sweep.greatest]
    restoration = results["restoration"]
    gain = restoration[f"PSNR-gain-{name}"]
    return [
        results["localization"][f"AP50-{name}"],
        results["type"][f"AP-{name}"],
        restoration[f"PSNR-{name}"] - gain,
        gain,
    ]


def format_sweep(sweep: Sweep) -> str:
    """Markdown: what was found and what not, then a row a type, the best found first."""
    recall = sweep.recall()
    severities = [f"{severity:g}" for severity in sweep.results]
    headers = ["type", "AP50", "type AP", "distorted, dB", "gain, dB"]
    headers += [f"recall at {severity}" for severity in severities]
    order = np.argsort(-recall[:, -1], kind="stable")
    rows = [
        [sweep.type_names[k], *_text(_cells(sweep, sweep.type_names[k])), *_text(recall[k])]
        for k in order
    ]
    means = np.nanmean([_cells(sweep, name) for name in sweep.type_names], axis=0)
    rows.append(["mean", *_text(means), *_text(recall.mean(axis=0))])
    table = tabulate(rows, headers, tablefmt="pipe", disable_numparse=True)
    return "\n\n".join([*_statements(sweep, recall), table])


def _text(values: np.ndarray | list[float]) -> list[str]:
    return ["-" if np.isnan(value) else f"{value:.2f}" for value in values]


def _statements(sweep: Sweep, recall: np.ndarray) -> list[str]:
    missed = [n for n, row in zip(sweep.type_names, recall, strict=True) if row[-1] < FOUND]
    count = len(sweep.type_names)
    lines = [
        f"{sweep.slices} slices, distorted by one type at a time, in the same regions. Recall: the "
        "share of regions that a detection of score 0.5 or more meets at IoU 0.5. AP50, type AP, "
        f"PSNR of the distorted regions and what restoration gains are at severity "
        f"{sweep.greatest:g}.",
        f"Found at severity {sweep.greatest:g} (recall of {FOUND:g} or more): "
        f"{count - len(missed)} of {count} types"
        + (f"; not found: {', '.join(missed)}." if missed else "."),
    ]
    if 0.0 in sweep.results:
        chance = sweep.results[0.0]["localization"]
        lines.append(
            "At severity 0 the slices are unchanged to the bit, whatever the type: "
            f"{chance['recall']:.3f} of the regions are met by chance, by one of "
            f"{chance['false-detections']:.2f} false detections a slice."
        )
    return lines


def draw_recall(sweep: Sweep, path: Path) -> None:
    """A heat map of the recall, one row a type, as PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    optional_import("matplotlib", "pip install matplotlib")
    from matplotlib.figure import Figure

    recall = sweep.recall()
    order = np.argsort(-recall[:, -1], kind="stable")
    figure = Figure(figsize=(2.6 + 0.8 * recall.shape[1], 0.8 + 0.24 * len(order)))
    axes = figure.subplots()
    axes.imshow(recall[order], vmin=0, vmax=1, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(recall[order]):
        color = "white" if value < 0.6 else "black"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xticks(range(recall.shape[1]), [f"{severity:g}" for severity in sweep.results])
    axes.set_yticks(range(len(order)), [sweep.type_names[k] for k in order], fontsize=8)
    axes.set_xlabel("severity")
    axes.set_title("share of regions found", fontsize=10)
    figure.savefig(path, dpi=120, bbox_inches="tight", format="png")
