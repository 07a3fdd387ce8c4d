"""Whole-slice restoration on the embedded engine: the peer pretext that the benchmark trains.

Shape letters: B slices, H, W the slice after resizing.
"""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from mrssl.engines.torchvision.backbone import build_backbone
from mrssl.engines.torchvision.images import SliceModel
from mrssl.modeling import RestorationDecoder, whole_slice_loss


class WholeSliceRestoration(SliceModel):
    """Backbone, FPN and a decoder; inputs and outputs as those of :class:`~.model.MaskRCNN`.

    Args:
        backbone: image -> pyramid, named as in Mask R-CNN, so that its weights transfer.
        decoder: pyramid -> slice.
        pixel_mean, pixel_std: one number a channel, in the range [0, 255] of the images.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        decoder: RestorationDecoder,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.backbone = backbone
        self.decoder = decoder

    def forward(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """The loss in training mode, restored slices otherwise.

        Args:
            inputs: B dicts: ``image`` float32 (3, H, W) in [0, 255]; in training ``targets`` with
                ``restoration``.

        Returns:
            ``loss_restoration``; or B dicts: ``restored`` (height, width) in [0, 1], and no
            detections: empty ``scores`` and ``classes``.
        """
        images = self.preprocess(inputs)
        restored = self.decoder(self.backbone(images.tensors))
        if self.training:
            targets = [x["targets"]["restoration"] for x in inputs]
            return {"loss_restoration": whole_slice_loss(restored, targets)}
        return [
            self._postprocess(slice_, size, x)
            for slice_, size, x in zip(restored, images.image_sizes, inputs, strict=True)
        ]

    def _postprocess(
        self, restored: Tensor, size: tuple[int, int], x: dict[str, Any]
    ) -> dict[str, Tensor]:
        restored = restored[: size[0], : size[1]].float()
        wanted = (int(x.get("height", size[0])), int(x.get("width", size[1])))
        if wanted != size:
            restored = F.interpolate(restored[None, None], wanted, mode="bilinear")[0, 0]
        return {
            "restored": restored.clamp(0, 1),
            "scores": torch.zeros(0),
            "classes": torch.zeros(0, dtype=torch.int64),
        }


def build_whole_slice(cfg: CfgNode) -> WholeSliceRestoration:
    """Build from Detectron2's keys of the backbone, on the CPU."""
    return WholeSliceRestoration(
        backbone=build_backbone(cfg),
        decoder=RestorationDecoder.from_config(cfg),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )


__all__ = ["WholeSliceRestoration", "build_whole_slice"]
