"""The best value of a metric so far, and for how long it has not bettered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mrssl.evaluation import is_better


class BestSoFar:
    """Known on the main process, which alone has the metric.

    Args:
        metric: its name, which says whether high is better.
        patience: evaluations without a better value after which it is out of patience; 0 = never.

    Attributes:
        best: None before the first value.
        evaluations_since_best: counted from the best on.
    """

    def __init__(self, metric: str, patience: int = 0) -> None:
        self.metric, self._patience = metric, patience
        self.best: float | None = None
        self.evaluations_since_best = 0

    def note(self, value: float) -> bool:
        """Count an evaluation; whether it is the best so far."""
        self.evaluations_since_best += 1
        if not is_better(self.metric, value, self.best):
            return False
        self.best, self.evaluations_since_best = value, 0
        return True

    @property
    def out_of_patience(self) -> bool:
        """Whether the metric has not bettered for too long."""
        return bool(self._patience) and self.evaluations_since_best >= self._patience

    def state_dict(self) -> dict[str, Any]:
        """Plain types, for the checkpoint."""
        return {"best": self.best, "evaluations_since_best": self.evaluations_since_best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state_dict`; other keys are left alone."""
        self.best = state.get("best")
        self.evaluations_since_best = int(state.get("evaluations_since_best", 0))


__all__ = ["BestSoFar"]
