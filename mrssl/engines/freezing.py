"""Pretrained parameters that stay as they are while the new ones find their way."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class TransferFreeze:
    """Keeps some parameters as they are for the first iterations of a training.

    Batch normalisation whose parameters are among them keeps its statistics too, and normalises by
    them: else the frozen layers' outputs would drift with the new data all the same.

    Args:
        model: bare, not in a parallel wrapper.
        names: of its parameters; those that need no gradient by now stay frozen for good.
        iterations: for so many; 0 = none.
    """

    def __init__(self, model: nn.Module, names: Collection[str], iterations: int) -> None:
        named = model.named_parameters()
        self._parameters = [p for name, p in named if name in set(names) and p.requires_grad]
        frozen = set(self._parameters)
        self._norms = [
            module
            for module in model.modules()
            if isinstance(module, _BatchNorm) and {module.weight, module.bias} <= frozen
        ]
        self._iterations = iterations

    def before_step(self, iteration: int, *, first: bool) -> None:
        """Freeze or thaw, where it is time to.

        Args:
            iteration: that is to come, counted from 0.
            first: whether it is the first since this process started, after a resume too.
        """
        thawed = iteration >= self._iterations
        if self._iterations and (first or iteration == self._iterations):
            for parameter in self._parameters:
                parameter.requires_grad_(thawed)
        if iteration <= self._iterations:  # an evaluation before it put all back into training
            for norm in self._norms:
                norm.train(thawed)


__all__ = ["TransferFreeze"]
