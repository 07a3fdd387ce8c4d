"""Mask R-CNN on torchvision's modules that computes what Detectron2's ``GeneralizedRCNN`` does.

Shape letters: B slices, N instances, H, W the slice after resizing, K distortion types.
"""

from __future__ import annotations

from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from mrssl.config import (
    DISTORTION_ROI_HEADS,
    WHOLE_SLICE_RESTORATION,
    ConfigError,
    check_fixed,
    check_norms,
    restores_whole_slices,
)
from mrssl.engines.pyramid import check_pyramid
from mrssl.engines.samples import restored_slice
from mrssl.engines.torchvision import backbone, rpn
from mrssl.engines.torchvision.backbone import build_backbone
from mrssl.engines.torchvision.images import SliceModel
from mrssl.engines.torchvision.roi_heads import DistortionROIHeads, build_roi_heads
from mrssl.engines.torchvision.rpn import SeededRPN, build_rpn
from mrssl.engines.torchvision.whole_slice import WholeSliceRestoration, build_whole_slice
from mrssl.modeling import paste_rois
from mrssl.modeling.layers import NORMS


class MaskRCNN(SliceModel):
    """Backbone, RPN and ROI heads; inputs and outputs as in Detectron2's ``GeneralizedRCNN``.

    Args:
        backbone, rpn, roi_heads: the parts, named as in torchvision's own Mask R-CNN.
        pixel_mean, pixel_std: one number a channel, in the range [0, 255] of the images.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module,
        rpn: SeededRPN,
        roi_heads: DistortionROIHeads,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__(pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads

    def forward(self, inputs: list[dict[str, Any]]) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Losses in training mode, detections otherwise.

        Args:
            inputs: B dicts: ``image`` float32 (3, H, W) in [0, 255]; in training ``seed`` int and
                ``targets`` (see :meth:`DistortionROIHeads.forward`); in inference ``height`` and
                ``width`` of the output, those of the image by default.

        Returns:
            Scalars by name; or B dicts: ``boxes`` (N, 4) in pixels of the output, ``scores`` (N,),
            ``classes`` int64 (N,) from 0 up, ``masks`` bool (N, height, width) and, while
            pretraining, ``type_scores`` (N, K) and ``restored`` (height, width) in [0, 1].
        """
        images = self.preprocess(inputs)
        # Before the backbone, whose end they would wait for on a GPU.
        targets = [
            {name: value.to(self.device, non_blocking=True) for name, value in x["targets"].items()}
            for x in (inputs if self.training else ())
        ]
        features = self.backbone(images.tensors)
        if not self.training:
            proposals, _ = self.rpn(images, features)
            found, _ = self.roi_heads(
                features, proposals, images.image_sizes, images=images.tensors
            )
            return [self._postprocess(f, x) for f, x in zip(found, inputs, strict=True)]
        seeds = [x["seed"] for x in inputs]
        self.rpn.fg_bg_sampler.seeds = seeds
        self.roi_heads.fg_bg_sampler.seeds = [seed + 1 for seed in seeds]
        proposals, losses = self.rpn(images, features, targets)
        _, roi_losses = self.roi_heads(
            features, proposals, images.image_sizes, targets, images.tensors
        )
        return {
            "loss_rpn_cls": losses["loss_objectness"],
            "loss_rpn_loc": losses["loss_rpn_box_reg"],
        } | roi_losses

    def _postprocess(self, found: dict[str, Tensor], x: dict[str, Any]) -> dict[str, Tensor]:
        """Detections of one slice on the grid that was asked for."""
        rows, columns = x["image"].shape[-2:]
        height, width = int(x.get("height", rows)), int(x.get("width", columns))
        scale = torch.tensor([width / columns, height / rows] * 2, device=self.device)
        boxes = found["boxes"].float() * scale
        limit = torch.tensor([width, height] * 2, device=self.device)
        boxes = torch.minimum(boxes.clamp(min=0), limit)
        # As Detectron2's detector_postprocess: a box that clipping emptied is no detection.
        kept = torch.where((boxes[:, 2:] > boxes[:, :2]).all(1))[0]
        boxes = boxes[kept]
        out = {
            "boxes": boxes,
            "scores": found["scores"][kept].float(),
            "classes": found["labels"][kept] - 1,
        }
        probability = None
        if "masks" in found:
            probability = found["masks"][kept, 0].float()
            out["masks"] = paste_rois(probability, boxes, height, width) >= 0.5
        if "type_scores" in found:
            out["type_scores"] = found["type_scores"][kept].float()
        if "residuals" in found:
            out["restored"] = restored_slice(
                x["image"].to(self.device),
                (height, width),
                residuals=found["residuals"][kept],
                probabilities=probability,
                boxes=boxes,
                scores=out["scores"],
            )
        return out


def build_model(cfg: CfgNode, num_types: int = 0) -> MaskRCNN | WholeSliceRestoration:
    """Build what ``MODEL.META_ARCHITECTURE`` names from Detectron2's keys, on the CPU.

    Args:
        cfg: the configuration.
        num_types: K, the number of distortion types; used while pretraining only.

    Raises:
        MrsslError: a key has a value that this engine does not offer.
    """
    check_names(cfg)
    if restores_whole_slices(cfg):
        return build_whole_slice(cfg)
    return MaskRCNN(
        backbone=build_backbone(cfg),
        rpn=build_rpn(cfg),
        roi_heads=build_roi_heads(cfg, num_types),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )


def check_names(cfg: CfgNode) -> None:
    """See that the keys that choose the model's design name one of this engine's.

    They decide what the data must be, and so come before these; as does the number of IoU
    thresholds.

    Raises:
        ConfigError: they do not.
    """
    for key, name, known in (
        (
            "META_ARCHITECTURE",
            cfg.MODEL.META_ARCHITECTURE,
            ("GeneralizedRCNN", WHOLE_SLICE_RESTORATION),
        ),
        ("ROI_HEADS.NAME", cfg.MODEL.ROI_HEADS.NAME, ("StandardROIHeads", DISTORTION_ROI_HEADS)),
    ):
        if name not in known:
            raise ConfigError(
                f"MODEL.{key} {name!r}: the torchvision engine has "
                + " and ".join(map(repr, known))
            )
    detector = {} if restores_whole_slices(cfg) else rpn.FIXED
    check_fixed(cfg, {**backbone.FIXED, **detector}, engine="the torchvision engine")
    check_pyramid(cfg)
    check_norms(cfg, NORMS, engine="the torchvision engine")
    for part, number in (("RPN", 2), ("ROI_HEADS", 1)):
        found = list(cfg.MODEL[part].IOU_THRESHOLDS)
        if len(found) != number:
            raise ConfigError(
                f"MODEL.{part}.IOU_THRESHOLDS {found}: the torchvision engine takes {number}"
            )
