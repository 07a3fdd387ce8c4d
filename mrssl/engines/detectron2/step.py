"""One training iteration of Detectron2's loop by the update that both engines share."""

from __future__ import annotations

import time
from typing import Any

import torch
from detectron2.engine import SimpleTrainer
from detectron2.modeling.poolers import ROIPooler
from detectron2.utils.events import get_event_storage
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from mrssl.data.loader import Batches
from mrssl.engines.faults import SkippedSlices
from mrssl.engines.update import Update


class MRITrainerStep(SimpleTrainer):
    """What ``SimpleTrainer`` and ``AMPTrainer`` do, by :class:`~mrssl.engines.update.Update`.

    Besides: gradients may be accumulated and are unscaled before they are clipped, a loss that is
    not finite is named with the slices of the batch, and mixed precision runs on a CPU too.

    Args:
        cfg: see :class:`~mrssl.engines.update.Update`.
        model: gives losses by name.
        data_loader: of batches.
        optimizer: of the model's parameters.
        skipped: counts the slices that could not be read.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        data_loader: Batches,
        optimizer: torch.optim.Optimizer,
        skipped: SkippedSlices,
    ) -> None:
        super().__init__(model, data_loader, optimizer)
        self.skipped = skipped
        pool_exactly(model)
        self.update = Update(cfg, model, optimizer, bfloat16=False)

    def run_step(self) -> None:
        """One iteration of the optimiser.

        Raises:
            MrsslError: a loss is not finite, or data cannot be read.
        """
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self.skipped.note(batch)
        self.update.optimizer = self.optimizer  # rebuilt once weights are loaded
        losses, figures = self.update(batch, self.iter, after_backward=self.after_backward)
        if self.skipped.reasons:
            figures["skipped_slices"] = float(len(self.skipped.reasons))
        self._write_metrics({name: torch.tensor(loss) for name, loss in losses.items()}, data_time)
        get_event_storage().put_scalars(**figures)

    def state_dict(self) -> dict[str, Any]:
        """Detectron2's, and the update's."""
        return super().state_dict() | {"update": self.update.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`."""
        super().load_state_dict(state_dict)
        self.update.load_state_dict(state_dict.get("update", {}))


def pool_exactly(model: nn.Module) -> None:
    """Have every ``ROIPooler`` of ``model`` take bfloat16 features as float32, in place.

    ``ROIAlign`` casts the boxes to the precision of the features, and bfloat16 knows whole pixels
    only from 128 on. float16, which knows eighths there, is left as it is.
    """
    for module in model.modules():
        if isinstance(module, ROIPooler):
            module.register_forward_pre_hook(_in_float32)


def _in_float32(pooler: nn.Module, inputs: tuple[list[Tensor], Any]) -> tuple[list[Tensor], Any]:
    features, boxes = inputs
    return [x.float() if x.dtype == torch.bfloat16 else x for x in features], boxes


__all__ = ["MRITrainerStep", "pool_exactly"]
