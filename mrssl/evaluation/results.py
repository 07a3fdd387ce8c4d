"""What is done with ``{task: {metric: value}}``: print it, write it, look up, compare."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from mrssl.evaluation.evaluator import EvaluationError
from mrssl.files import write_text

_PAIRS_A_ROW = 4

#: Metrics, or tasks, of which less is better.
_LOWER_IS_BETTER = frozenset({"hd95", "assd", "false-change", "false-detections", "missed"})


def get_metric(results: Mapping[str, Mapping[str, float]], name: str) -> float:
    """The value of ``"task/metric"``.

    Raises:
        EvaluationError: there is no such metric; the message lists those that there are.
    """
    task, _, metric = name.partition("/")
    try:
        return results[task][metric]
    except KeyError:
        known = ", ".join(f"{t}/{m}" for t, metrics in results.items() for m in metrics)
        raise EvaluationError(f"no metric {name!r} among the results: {known}") from None


def is_better(name: str, value: float, best: float | None) -> bool:
    """Whether ``value`` of the metric ``"task/metric"`` beats ``best`` (None: nothing yet).

    Distances, losses and what is false or missed are better low, everything else high; nan beats
    nothing.
    """
    if math.isnan(value):
        return False
    if best is None or math.isnan(best):
        return True
    metric = name.rpartition("/")[2]
    loss = metric.startswith("loss") or metric.endswith("loss")
    lower = loss or not _LOWER_IS_BETTER.isdisjoint(name.split("/", 1))
    return value < best if lower else value > best


def format_results(results: Mapping[str, Mapping[str, float]], names: Sequence[str] = ()) -> str:
    """Plain-text tables, values to three decimals, "-" where not defined.

    Args:
        results: ``{task: {metric: value}}``.
        names: of classes or distortion types, by default the types that the task ``type`` scores.
            Metrics called ``<metric>-<name>`` go to a table of their own with a row a name; the
            others to one table a task.
    """
    names = names or [m.removeprefix("AP-") for m in results.get("type", {}) if m.startswith("AP-")]
    overall: dict[str, dict[str, str]] = {}
    by_name: dict[str, dict[str, str]] = {}
    for task, metrics in results.items():
        for metric, value in metrics.items():
            cell = "-" if math.isnan(value) else f"{value:.3f}"
            owners = [name for name in names if metric.endswith(f"-{name}")]
            if owners:
                name = max(owners, key=len)
                column = metric[: -len(name) - 1]
                column = column if column == task else f"{task} {column}"
                by_name.setdefault(name, {})[column] = cell
            else:
                overall.setdefault(task, {})[metric] = cell
    tables = [_format_task(task, cells) for task, cells in overall.items()]
    if by_name:
        tables.append(_format_names(by_name))
    return "\n\n".join(tables)


def print_table(results: Mapping[str, Mapping[str, float]], names: Sequence[str] = ()) -> None:
    """Print :func:`format_results`."""
    print(format_results(results, names))


def write_results(results: Mapping[str, Any] | Sequence[Any], path: str | Path) -> None:
    """Write ``results`` as JSON (nan and infinity as null), under its name only when complete.

    Args:
        results: nested mappings and sequences of numbers and strings, NumPy's too.
        path: such as ``OUTPUT_DIR/inference/results.json``; folders are made.

    Raises:
        MrsslError: the file cannot be written.
    """
    text = json.dumps(_plain(results), indent=2, allow_nan=False) + "\n"
    write_text(path, text)


def _format_task(task: str, metrics: Mapping[str, str]) -> str:
    cells = [cell for pair in metrics.items() for cell in pair]
    width = 2 * _PAIRS_A_ROW
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    alignment = ("left", "right") * min(len(metrics), _PAIRS_A_ROW)
    table = tabulate(rows, tablefmt="plain", colalign=alignment, disable_numparse=True)
    return f"{task}\n{table}"


def _format_names(by_name: Mapping[str, Mapping[str, str]]) -> str:
    columns = list(dict.fromkeys(column for cells in by_name.values() for column in cells))
    rows = [[name, *(cells.get(c, "-") for c in columns)] for name, cells in by_name.items()]
    alignment = ("left", *["right"] * len(columns))
    return tabulate(rows, headers=["", *columns], colalign=alignment, disable_numparse=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
