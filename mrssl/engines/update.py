"""One update of the weights, the same for both engines: losses, gradients, faults, precision."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mrssl.config import ConfigError
from mrssl.engines.faults import check_finite
from mrssl.engines.solver import clip_gradients, mixed_precision
from mrssl.errors import MrsslError

#: Updates in a row that float16 may skip; the scale is then far below any that could help.
MOST_SKIPPED = 40


def seed_step(seed: int, iteration: int, rank: int) -> None:
    """Seed every global generator from these numbers.

    A resumed run so draws what an uninterrupted one does, on any process, and no state of a
    generator need be kept.
    """
    words = np.random.SeedSequence([seed, iteration, rank]).generate_state(3)
    torch.manual_seed(int(words[0]))
    np.random.seed(words[1])
    random.seed(int(words[2]))


def accelerate(cfg: CfgNode, model: nn.Module) -> None:
    """What ``MRSSL.SOLVER.CHANNELS_LAST`` and ``COMPILE`` ask for, in place; names stay.

    Raises:
        ConfigError: this machine cannot compile, for want of a C++ compiler, say.
    """
    if cfg.MRSSL.SOLVER.CHANNELS_LAST:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if cfg.MRSSL.SOLVER.COMPILE:
        _check_compiler(torch.device(cfg.MODEL.DEVICE))
        model.backbone.compile()  # type: ignore[operator,union-attr]


def _check_compiler(device: torch.device) -> None:
    """Compile next to nothing: the model itself is compiled in its first step only."""
    try:
        torch.compile(torch.neg)(torch.zeros(1, device=device))
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        raise ConfigError(f"MRSSL.SOLVER.COMPILE: torch.compile fails here: {why}") from error


class Update:
    """Forward, backward and step on one batch.

    Args:
        cfg: ``SOLVER.AMP``, ``SOLVER.CLIP_GRADIENTS`` and ``MRSSL.SOLVER``.
        model: gives losses by name; bare, or in a parallel wrapper.
        optimizer: of its parameters.
        bfloat16: see :func:`~mrssl.engines.solver.mixed_precision`.

    Attributes:
        skipped: updates that float16 left out because a gradient had overflowed.

    Raises:
        MrsslError: a key that cannot be used.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        bfloat16: bool = True,
    ) -> None:
        self.cfg = cfg
        self.model = model
        self.optimizer = optimizer
        self.parts = cfg.MRSSL.SOLVER.ACCUMULATE
        device = torch.device(cfg.MODEL.DEVICE)
        self.autocast, self.scaler = mixed_precision(cfg, device, bfloat16=bfloat16)
        self.skipped = 0
        self._skipped_in_a_row = 0

    def __call__(
        self,
        batch: Sequence[dict[str, Any]],
        iteration: int,
        *,
        after_backward: Callable[[], None] | None = None,
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Train on ``batch``.

        Args:
            batch: inputs of the model.
            iteration: counted from 0.
            after_backward: called between the gradients and the step.

        Returns:
            Every loss; and ``grad_norm`` before clipping and, with float16, ``skipped_steps``.

        Raises:
            NonFiniteError: a loss or what it is computed from is not finite, or a gradient in any
                precision but float16.
        """
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, float] = defaultdict(float)
        parts = _split(batch, self.parts)
        for part in parts:
            with self._waiting_for_more(part is not parts[-1]):
                for name, value in self._backward(part, len(part) / len(batch), iteration).items():
                    losses[name] += value
        if after_backward is not None:
            after_backward()
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        found = [p for p in self.model.parameters() if p.grad is not None]
        norm = clip_gradients(self.cfg, found)
        if self.scaler is None:
            check_finite({"the gradient": norm}, batch, iteration=iteration, cfg=self.cfg)
        return dict(losses), {"grad_norm": norm} | self._step()

    def _waiting_for_more(self, more: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged between processes once an update."""
        if more and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return nullcontext()

    def _backward(
        self, part: Sequence[dict[str, Any]], share: float, iteration: int
    ) -> dict[str, float]:
        try:
            with self.autocast():
                losses: dict[str, Tensor] = self.model(part)
        except FloatingPointError:  # Detectron2's RPN finds it before there is a loss
            fault = {"the output of the network": math.nan}
            check_finite(fault, part, iteration=iteration, cfg=self.cfg)
            raise
        each = torch.stack([loss.float() for loss in losses.values()])
        values = dict(zip(losses, each.tolist(), strict=True))  # waits for a GPU once
        check_finite(values, part, iteration=iteration, cfg=self.cfg)
        total = each.sum()
        if share != 1:
            total = total * share
        (total if self.scaler is None else self.scaler.scale(total)).backward()
        return {name: value * share for name, value in values.items()}

    def _step(self) -> dict[str, float]:
        if self.scaler is None:
            self.optimizer.step()
            return {}
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        skipped = self.scaler.get_scale() < scale
        self.skipped += skipped
        self._skipped_in_a_row = (self._skipped_in_a_row + 1) * skipped
        if self._skipped_in_a_row > MOST_SKIPPED:
            raise MrsslError(
                f"float16 has skipped {self._skipped_in_a_row} updates in a row: the gradients are "
                "not finite; try MRSSL.SOLVER.AMP_DTYPE bfloat16, or SOLVER.AMP.ENABLED False"
            )
        return {"skipped_steps": float(self.skipped)}

    def state_dict(self) -> dict[str, Any]:
        """Of the scaler, and the count of skipped updates."""
        return {
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            "skipped_steps": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        if self.scaler is not None and state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])
        self.skipped = int(state.get("skipped_steps", 0))


def _split(batch: Sequence[Any], parts: int) -> list[Sequence[Any]]:
    """Consecutive parts that differ in length by one at most, none of them empty."""
    parts = min(parts, len(batch))
    cuts = [len(batch) * i // parts for i in range(parts + 1)]
    return [batch[first:last] for first, last in pairwise(cuts)]


__all__ = ["Update", "accelerate", "seed_step"]
