"""DICOM values as plain Python: numbers that are numbers, or None."""

from __future__ import annotations

from typing import Any

import numpy as np


def first(sequence: Any) -> Any:
    """The first item of a sequence, or None."""
    return sequence[0] if sequence else None


def tag_text(value: Any) -> str:
    """A tag's value as text; several values joined by a backslash, as DICOM writes them."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return str(value).strip()
    return "\\".join(str(item).strip() for item in value)


def numbers(value: Any, count: int) -> np.ndarray | None:
    """``count`` finite numbers as float64, or None."""
    try:
        array = np.array([float(item) for item in value], dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.shape == (count,) and np.isfinite(array).all() else None


def number(value: Any) -> float | None:
    """The (first) value as a finite number, or None."""
    if isinstance(value, bytes):  # of a field whose type is not known
        return None
    try:
        value = value[0] if hasattr(value, "__iter__") and not isinstance(value, str) else value
        found = float(value)
    except (TypeError, ValueError, IndexError):
        return None
    return found if np.isfinite(found) else None


def positive(value: Any) -> float | None:
    """The (first) value as a number above 0, or None."""
    found = number(value)
    return found if found is not None and found > 0 else None


__all__ = ["first", "number", "numbers", "positive", "tag_text"]
