"""Pretrained parameters that stay as they are while the new ones find their way."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn


class TransferFreeze:
    """Keeps some parameters as they are for the first iterations of a training.

    Args:
        model: bare, not in a parallel wrapper.
        names: of its parameters; those that need no gradient by now stay frozen for good.
        iterations: for so many; 0 = none.
    """

    def __init__(self, model: nn.Module, names: Collection[str], iterations: int) -> None:
        named = model.named_parameters()
        self._parameters = [p for name, p in named if name in set(names) and p.requires_grad]
        self._iterations = iterations

    def before_step(self, iteration: int, *, first: bool) -> None:
        """Freeze or thaw, where it is time to.

        Args:
            iteration: that is to come, counted from 0.
            first: whether it is the first since this process started, after a resume too.
        """
        if self._iterations and (first or iteration == self._iterations):
            for parameter in self._parameters:
                parameter.requires_grad_(iteration >= self._iterations)


__all__ = ["TransferFreeze"]
