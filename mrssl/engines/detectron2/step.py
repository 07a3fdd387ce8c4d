"""One training iteration: Detectron2's, with mixed precision on any device and clear faults."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from mrssl.engines.solver import clip_gradients, mixed_precision
from mrssl.errors import MrsslError


class MRITrainerStep(SimpleTrainer):
    """What ``SimpleTrainer`` and ``AMPTrainer`` do, through ``torch.amp``.

    Besides: gradients are unscaled before they are clipped, a loss that is not finite is named
    together with the slices of the batch, and mixed precision runs on a CPU too.

    Args:
        cfg: ``SOLVER.AMP`` and ``SOLVER.CLIP_GRADIENTS``.
        model: gives losses by name.
        data_loader: of batches.
        optimizer: of the model's parameters.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        data_loader: Iterable[list[dict[str, Any]]],
        optimizer: torch.optim.Optimizer,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.cfg = cfg
        # Detectron2 hands boxes to ROIAlign in the precision of the features.
        self.autocast, self.scaler = mixed_precision(
            cfg, torch.device(cfg.MODEL.DEVICE), bfloat16=False
        )

    def run_step(self) -> None:
        """One iteration of the optimiser.

        Raises:
            MrsslError: a loss is not finite.
        """
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            losses: dict[str, Tensor] = self.model(batch)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        self._check_finite(losses, batch)
        if self.scaler is None:
            total.backward()
        else:
            self.scaler.scale(total).backward()
            self.scaler.unscale_(self.optimizer)
        self.after_backward()
        clip_gradients(self.cfg, [p for p in self.model.parameters() if p.grad is not None])
        self._write_metrics(losses, data_time)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()

    def _check_finite(self, losses: Mapping[str, Tensor], batch: list[dict[str, Any]]) -> None:
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            slices = ", ".join(f"{x['file_name']}[{x['slice_index']}]" for x in batch)
            raise MrsslError(f"iteration {self.iter}: {', '.join(bad)} is not finite on {slices}")

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's, and the scaler's under ``grad_scaler``."""
        state = super().state_dict()
        if self.scaler is not None:
            state["grad_scaler"] = self.scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        if self.scaler is not None and "grad_scaler" in state_dict:
            self.scaler.load_state_dict(state_dict["grad_scaler"])


__all__ = ["MRITrainerStep"]
