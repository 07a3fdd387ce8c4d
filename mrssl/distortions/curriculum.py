"""A value as a function of the training iteration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrssl.errors import MrsslError


class Curriculum:
    """A factor in [0, 1] that follows points joined by straight lines, constant outside them."""

    def __init__(self, points: Sequence[Sequence[float]] = (), *, key: str = "curriculum") -> None:
        """Set the points.

        Args:
            points: ``((iteration, factor), ...)`` with rising iterations; empty = always 1.
            key: the configuration key named in errors.

        Raises:
            MrsslError: not pairs, iterations that don't rise, or a factor outside [0, 1].
        """
        table = np.asarray(points if len(points) else [(0, 1.0)], dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != 2:
            raise MrsslError(f"{key}: give ((iteration, factor), ...), not {points!r}")
        self.key = key
        self._iterations, self._factors = table.T
        if (np.diff(self._iterations) <= 0).any() or not (
            (self._factors >= 0) & (self._factors <= 1)
        ).all():
            raise MrsslError(f"{key}: iterations must rise and factors lie in [0, 1]: {points!r}")

    @property
    def is_constant(self) -> bool:
        """Whether the factor is the same at every iteration."""
        return bool((self._factors == self._factors[0]).all())

    def __call__(self, iteration: int) -> float:
        """The factor at ``iteration``."""
        return float(np.interp(iteration, self._iterations, self._factors))
