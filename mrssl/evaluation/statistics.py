"""Means over repetitions with their uncertainty: what a table of a benchmark shows."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import stats

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: nan without any value.
        low, high: bounds; nan with fewer than two values.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int

    def format(self, digits: int = 3, *, sign: bool = False) -> str:
        """``0.643 [0.601, 0.685]``; "-" where there is nothing."""
        if not self.count:
            return "-"
        plus = "+" if sign else ""
        mean = f"{self.mean:{plus}.{digits}f}"
        if math.isnan(self.low):
            return mean
        return f"{mean} [{self.low:{plus}.{digits}f}, {self.high:{plus}.{digits}f}]"


def t_interval(values: Iterable[float], *, level: float = 0.95) -> Interval:
    """Student's interval for the mean of independent values; nan among them is left out.

    ``mean -+ t s / sqrt(n)``, with the quantile t of n - 1 degrees of freedom at
    ``(1 + level) / 2`` and the standard deviation s of divisor n - 1.
    """
    array = np.asarray(list(values), np.float64)
    array = array[~np.isnan(array)]
    count = len(array)
    if count < 2:
        return Interval(float(array[0]) if count else math.nan, math.nan, math.nan, count)
    mean = float(array.mean())
    error = float(array.std(ddof=1) / math.sqrt(count))
    half = float(stats.t.ppf((1 + level) / 2, count - 1)) * error
    return Interval(mean, mean - half, mean + half, count)


def paired_interval(
    values: Mapping[K, float], baseline: Mapping[K, float], *, level: float = 0.95
) -> Interval:
    """:func:`t_interval` of the differences ``values - baseline`` at the keys of both."""
    shared = [key for key in values if key in baseline]
    return t_interval([values[key] - baseline[key] for key in shared], level=level)


__all__ = ["Interval", "paired_interval", "t_interval"]
