"""What is done with ``{task: {metric: value}}``: print it, write it, look up, compare."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from mrssl.evaluation.evaluator import EvaluationError

_PAIRS_A_ROW = 4

#: Metrics, or tasks, of which less is better.
_LOWER_IS_BETTER = frozenset({"hd95", "assd", "false-change", "missed"})


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

    Distances and ``false-change`` are better low, everything else high; nan beats nothing.
    """
    if math.isnan(value):
        return False
    if best is None or math.isnan(best):
        return True
    lower = not _LOWER_IS_BETTER.isdisjoint(name.split("/", 1))
    return value < best if lower else value > best


def format_results(results: Mapping[str, Mapping[str, float]]) -> str:
    """A plain-text table a task, values to three decimals, "-" where not defined."""
    return "\n\n".join(_format_task(task, metrics) for task, metrics in results.items())


def print_table(results: Mapping[str, Mapping[str, float]]) -> None:
    """Print :func:`format_results`."""
    print(format_results(results))


def write_results(results: Mapping[str, Any], path: str | Path) -> None:
    """Write ``results`` as JSON (nan and infinity as null), under its name only when complete.

    Args:
        results: nested mappings and sequences of numbers and strings, NumPy's too.
        path: such as ``OUTPUT_DIR/inference/results.json``; folders are made.

    Raises:
        EvaluationError: the file cannot be written.
    """
    path = Path(path)
    text = json.dumps(_plain(results), indent=2, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise EvaluationError(f"{path}: cannot write results ({error.strerror})") from error


def _format_task(task: str, metrics: Mapping[str, float]) -> str:
    cells = [
        cell
        for name, value in metrics.items()
        for cell in (name, "-" if math.isnan(value) else f"{value:.3f}")
    ]
    width = 2 * _PAIRS_A_ROW
    rows = [cells[start : start + width] for start in range(0, len(cells), width)]
    alignment = ("left", "right") * min(len(metrics), _PAIRS_A_ROW)
    table = tabulate(rows, tablefmt="plain", colalign=alignment, disable_numparse=True)
    return f"{task}\n{table}"


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
