"""Detectron2's ROI heads with the pretext's two branches, for its own ``GeneralizedRCNN``.

Shape letters: B slices, R ROIs of the batch, R_b of one slice, C channels of the pyramid,
K distortion types, M the side of the masks, S of the restored crops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import select_foreground_proposals
from detectron2.structures import ImageList, Instances
from torch import Tensor

from mrssl.distortions import build_distortions
from mrssl.engines.detectron2.sampling import SeededROIHeads
from mrssl.engines.distributed import mean_count
from mrssl.modeling import (
    DistortionBranch,
    PositionHead,
    SliceDecoder,
    position_loss,
    whole_slice_loss,
)
from mrssl.structures import SlicePosition


@ROI_HEADS_REGISTRY.register()
class DistortionROIHeads(SeededROIHeads):
    """Box and mask heads as they are, and the distortion-type and restoration branches.

    Targets are instances of a slice's distorted regions (one class), with two fields more, which
    Detectron2's own matching hands on to the proposals because of their names,

    - ``gt_types``: float (N, K), multi-hot;
    - ``gt_restoration``: :class:`mrssl.structures.RestorationTargets` of N instances;

    and ``gt_position``, :class:`mrssl.structures.SlicePosition`, which all proposals of the slice
    get as ``position``.

    Detections have, besides the usual fields:

    - ``pred_types``: float (R_b, K), probabilities;
    - ``pred_residuals``: float (R_b, S, S), clean minus distorted, of the intensity range [0, 1];
    - ``pred_mask_probs``: float (R_b, M, M), the masks before Detectron2 pastes and thresholds
      them; restoring a slice weighs with them.

    A field is missing where its branch is left out. Losses are ``loss_type``,
    ``loss_restoration``, ``loss_position`` and ``loss_slice``, beside the stock ones.

    Args:
        distortion_branch: the two branches that look at the pixels.
        position_head: None leaves the branch out.
        position_weight: of its loss.
        slice_decoder: restores the whole slice from the pyramid; None leaves the branch out.
        slice_weight: of its loss.
        kwargs: of :class:`detectron2.modeling.StandardROIHeads`.
    """

    @configurable
    def __init__(
        self,
        *,
        distortion_branch: DistortionBranch,
        position_head: PositionHead | None = None,
        position_weight: float = 1.0,
        slice_decoder: SliceDecoder | None = None,
        slice_weight: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.distortion_branch = distortion_branch
        self.position_head = position_head
        self.position_weight = position_weight
        self.slice_decoder = slice_decoder
        self.slice_weight = slice_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: Mapping[str, ShapeSpec]) -> dict[str, Any]:
        """The keys of ``StandardROIHeads``, and the node ``MRSSL``."""
        arguments = super().from_config(cfg, input_shape)
        arguments["distortion_branch"] = DistortionBranch.from_config(
            cfg,
            channels=next(iter(input_shape.values())).channels,
            strides={name: shape.stride for name, shape in input_shape.items()},
            num_types=len(build_distortions(cfg.MRSSL.PRETEXT.DISTORTIONS)),
        )
        weight = cfg.MRSSL.POSITION_HEAD.LOSS_WEIGHT
        if weight > 0:
            width = arguments["box_head"].output_shape.channels
            arguments |= {"position_head": PositionHead(width), "position_weight": weight}
        weight = cfg.MRSSL.SLICE_DECODER.LOSS_WEIGHT
        if weight > 0:
            decoder = SliceDecoder.from_config(cfg)
            arguments |= {"slice_decoder": decoder, "slice_weight": weight}
        return arguments

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """See :meth:`detectron2.modeling.ROIHeads.forward`; the branches look at ``images`` too."""
        instances, losses = super().forward(images, features, proposals, targets)
        if self.training:
            assert targets is not None
            losses |= self.distortion_losses(images.tensor, features, instances, targets)
            if self.slice_decoder is not None:
                whole = [target.gt_restoration for target in targets]
                loss = whole_slice_loss(self.slice_decoder(features), whole)
                losses["loss_slice"] = self.slice_weight * loss
        else:
            self.predict_distortions(images.tensor, features, instances)
        return instances, losses

    def label_and_sample_proposals(
        self, proposals: list[Instances], targets: list[Instances]
    ) -> list[Instances]:
        """See ``ROIHeads``.

        The proposals know besides their place among those offered, int64, of which the true boxes
        have the last, and where in the volume their slice lies.
        """
        self._places: list[Tensor] = []
        sampled = super().label_and_sample_proposals(proposals, targets)
        for found, place in zip(sampled, self._places, strict=True):
            found.place = place
        if self.position_head is not None:
            for found, target in zip(sampled, targets, strict=True):
                found.position = SlicePosition(target.gt_position.matrix, len(found))
        return sampled

    def _sample_proposals(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        sampled, classes = super()._sample_proposals(*args, **kwargs)
        self._places.append(sampled)
        return sampled, classes

    def _forward_box(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """See ``StandardROIHeads``; in training the position branch reads the box head too."""
        if not self.training or self.position_head is None:
            return super()._forward_box(features, proposals)
        # Before the losses: TRAIN_ON_PRED_BOXES moves the proposals after them.
        centres = [found.position.of_boxes(found.proposal_boxes.tensor) for found in proposals]
        pooled: list[Tensor] = []
        with self.box_head.register_forward_hook(lambda _, __, output: pooled.append(output)):
            losses = super()._forward_box(features, proposals)
        loss = position_loss(self.position_head(pooled[0]), torch.cat(centres))
        return losses | {"loss_position": self.position_weight * loss}

    def distortion_losses(
        self,
        images: Tensor,
        features: Mapping[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances],
    ) -> dict[str, Tensor]:
        """``loss_type`` and ``loss_restoration`` of the positive ones of the sampled proposals.

        Args:
            images: float (B, 3, H, W), as the backbone gets them.
            features: level name -> float (B, C, H / stride, W / stride).
            proposals: B, of :meth:`label_and_sample_proposals`.
            targets: B, the instances that the proposals were matched with.
        """
        positive, _ = select_foreground_proposals(proposals, self.num_classes)
        # Detectron2 samples in random order; the branch takes the last of each region.
        positive = [found[found.place.argsort()] for found in positive]
        # A slice without instances hands no gt_* field on; its own, empty ones take their place.
        fields = [
            found if found.has("gt_types") else target[:0]
            for found, target in zip(positive, targets, strict=True)
        ]
        return self.distortion_branch.losses(
            images,
            features,
            [found.proposal_boxes.tensor for found in positive],
            [field.gt_restoration for field in fields],
            [field.gt_types for field in fields],
            mean_count=mean_count,
        )

    @torch.no_grad()
    def predict_distortions(
        self, images: Tensor, features: Mapping[str, Tensor], detections: list[Instances]
    ) -> None:
        """Add the branches' fields to B detections, in place."""
        boxes = [found.pred_boxes.tensor for found in detections]
        types, residuals = self.distortion_branch(images, features, boxes)
        for number, found in enumerate(detections):
            if types is not None:
                found.pred_types = types[number]
            if residuals is not None:
                found.pred_residuals = residuals[number]
            if found.has("pred_masks"):
                found.pred_mask_probs = found.pred_masks[:, 0]


__all__ = ["DistortionROIHeads"]
