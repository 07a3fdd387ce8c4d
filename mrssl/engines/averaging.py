"""An exponential moving average of a model's weights: often the better model, at no training cost.

The average is what is evaluated, saved as ``"model"`` and exported; the weights that training goes
on from are saved beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mrssl.checkpoint import load_strict
from mrssl.checkpoint.names import Naming

#: Entries of a checkpoint beside ``"model"`` where that is an average.
UNAVERAGED, UPDATES = "unaveraged", "averaged_updates"


class WeightAverage(AveragedModel):
    """``average <- d average + (1 - d) weights``, of parameters and running statistics.

    After t updates, d = min(decay, (1 + t) / (10 + t)): a short run, and the start of a long one,
    are not held back by the initial weights, which an average of constant decay forgets after some
    1 / (1 - decay) updates only.

    Args:
        model: bare, not in a parallel wrapper; it is copied. Nothing of its present weights
            counts: the first update takes over the weights of that moment.
        decay: in [0, 1).

    Attributes:
        module: the averaged model.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, multi_avg_fn=self._blend, use_buffers=True)
        self.decay = decay

    def _blend(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        updates = int(self.n_averaged)  # a tensor on the CPU: ``count`` would wait for the GPU
        decay = min(self.decay, (1 + updates) / (10 + updates))
        get_ema_multi_avg_fn(decay)(averaged, current, count)


def build_average(cfg: CfgNode, model: nn.Module) -> WeightAverage | None:
    """The average that ``MRSSL.SOLVER.EMA_DECAY`` asks for; None for 0."""
    decay = cfg.MRSSL.SOLVER.EMA_DECAY
    if not decay:
        return None
    average = WeightAverage(model, decay)
    if cfg.MRSSL.SOLVER.CHANNELS_LAST:  # one pass averages what is laid out alike
        average.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return average


def weights_to_save(
    model: nn.Module,
    average: WeightAverage | None,
    rename: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict,
) -> dict[str, Any]:
    """The entries of a checkpoint that hold weights.

    Args:
        model: that is trained.
        average: its average, or None.
        rename: a state dictionary to Detectron2's names.
    """
    if average is None:
        return {"model": rename(model.state_dict())}
    return {
        "model": rename(average.module.state_dict()),
        UNAVERAGED: rename(model.state_dict()),
        UPDATES: int(average.n_averaged),
    }


def load_saved_weights(
    model: nn.Module,
    average: WeightAverage | None,
    content: Mapping[str, Any],
    *,
    names: Naming = "detectron2",
    where: str = "the checkpoint",
) -> None:
    """The inverse of :func:`weights_to_save`, for resuming.

    A run that kept an average and goes on without one goes on from the average; one that now keeps
    an average starts it at the first update.

    Args:
        model: that is trained; set.
        average: set, where there is one.
        content: of the checkpoint.
        names: the naming of ``model``.
        where: what messages call the checkpoint.

    Raises:
        CheckpointError: it is of another model.
    """
    if average is not None and UNAVERAGED in content:
        load_strict(average.module, content, names=names, where=where)
        average.n_averaged.fill_(int(content[UPDATES]))
        content = {**content, "model": content[UNAVERAGED]}
    load_strict(model, content, names=names, where=where)
    begin_average(model, average)


def begin_average(model: nn.Module, average: WeightAverage | None) -> None:
    """Make an average of no update yet what it is one of: it may be scored or saved as it is."""
    if average is not None and not average.n_averaged:
        average.module.load_state_dict(model.state_dict())


__all__ = [
    "UNAVERAGED",
    "UPDATES",
    "WeightAverage",
    "begin_average",
    "build_average",
    "load_saved_weights",
    "weights_to_save",
]
