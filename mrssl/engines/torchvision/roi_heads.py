"""torchvision's ROI heads with Detectron2's pooling and mask loss, and the pretext's two branches.

Shape letters: B slices, R ROIs of the batch, C channels of the pyramid, K distortion types,
M the masks' side, S the restored crops' side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import roi_align

from mrssl.config import is_pretraining
from mrssl.engines.distributed import mean_count
from mrssl.engines.torchvision.backbone import STRIDES
from mrssl.engines.torchvision.rpn import SeededSampler
from mrssl.errors import MrsslError
from mrssl.modeling import DistortionBranch, mask_rcnn_loss, mask_targets
from mrssl.modeling.layers import get_norm
from mrssl.structures import RestorationTargets


class PyramidPooler(nn.Module):
    """ROIAlign from the pyramid level that fits each box, as Detectron2's ``ROIPooler``.

    The level is eq. 1 of Lin et al. 2017 (FPN) with a canonical box of 224 pixels at level 4.

    Args:
        in_features: Detectron2's names of the levels, finest first, such as ``("p2", "p3")``.
        resolution: side of the output.
        sampling_ratio: samples a cell along each axis; 0 takes as many as the cell is wide.
    """

    def __init__(self, in_features: Sequence[str], resolution: int, sampling_ratio: int) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.resolution = resolution
        self.sampling_ratio = sampling_ratio

    def forward(
        self, features: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: object = None
    ) -> Tensor:
        """Level name -> (B, C, h, w), and B tensors (R_b, 4) -> (R, C, resolution, resolution)."""
        index = torch.repeat_interleave(
            torch.arange(len(boxes), device=boxes[0].device),
            torch.tensor([len(b) for b in boxes], device=boxes[0].device),
        )
        all_boxes = torch.cat(boxes).float()
        rois = torch.cat([index[:, None].to(all_boxes.dtype), all_boxes], dim=1)
        width, height = (all_boxes[:, 2:] - all_boxes[:, :2]).unbind(1)
        level = torch.floor(4 + torch.log2((width * height).sqrt() / 224 + 1e-8))
        first = int(self.in_features[0][1:])
        level = level.clamp(min=first, max=first + len(self.in_features) - 1) - first
        channels = features[self.in_features[0]].shape[1]
        pooled = rois.new_zeros(len(rois), channels, self.resolution, self.resolution)
        for number, name in enumerate(self.in_features):
            chosen = torch.where(level == number)[0]
            crops = roi_align(
                features[name].float(),  # box coordinates would not survive half precision
                rois[chosen],
                self.resolution,
                1.0 / STRIDES[name],
                self.sampling_ratio,
                aligned=True,
            )
            pooled = pooled.index_copy(0, chosen, crops)
        return pooled


class DistortionROIHeads(RoIHeads):
    """Box and mask heads and, while pretraining, the distortion-type and restoration branches.

    :meth:`forward` takes the input images besides, since the two branches look at the pixels.
    ``distortion_branch`` is None after pretraining; then this is plain Mask R-CNN.
    """

    def __init__(self, *args: object, distortion_branch: DistortionBranch | None, **kwargs: object):
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.distortion_branch = distortion_branch

    def forward(  # type: ignore[override]
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
        images: Tensor | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Losses in training, detections otherwise.

        Args:
            features: level name -> (B, C, H / stride, W / stride).
            proposals: B tensors (P_b, 4).
            image_shapes: height and width of each slice before padding.
            targets: in training, B dicts: ``boxes`` (N, 4), ``labels`` int64 (N,) from 1 up,
                ``masks`` bool (N, H, W) and, while pretraining, ``types`` (N, K) and
                ``restoration``, :class:`RestorationTargets` of N instances.
            images: (B, 3, H, W) as the backbone got them; needed while pretraining.

        Returns:
            Detections, B dicts with ``boxes``, ``labels``, ``scores``, ``masks`` (R_b, 1, M, M)
            and, of the branches that are there, ``type_scores`` (R_b, K) and ``residuals``
            (R_b, S, S); and the losses.
        """
        if self.training:
            assert targets is not None
            return [], self._losses(features, proposals, image_shapes, targets, images)
        result, _ = super().forward(features, proposals, image_shapes)
        if self.distortion_branch is not None:
            boxes = [r["boxes"] for r in result]
            types, residuals = self.distortion_branch(images, features, boxes)
            for i, detections in enumerate(result):
                if types is not None:
                    detections["type_scores"] = types[i]
                if residuals is not None:
                    detections["residuals"] = residuals[i]
        return result, {}

    def _losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]],
        images: Tensor | None,
    ) -> dict[str, Tensor]:
        proposals, matched, labels, deltas = self.select_training_samples(proposals, targets)
        pooled = self.box_head(self.box_roi_pool(features, proposals, image_shapes))
        loss_cls, loss_box = fastrcnn_loss(*self.box_predictor(pooled), labels, deltas)
        count = sum(len(label) for label in labels)
        share = count / mean_count(count)
        losses = {"loss_cls": loss_cls * share, "loss_box_reg": loss_box * share}

        positive = [torch.where(label > 0)[0] for label in labels]
        boxes = [p[i] for p, i in zip(proposals, positive, strict=True)]
        index = [m[i] for m, i in zip(matched, positive, strict=True)]
        if self.has_mask():
            pooled = self.mask_roi_pool(features, boxes, image_shapes)  # type: ignore[misc]
            logits = self.mask_predictor(self.mask_head(pooled))  # type: ignore[misc]
            wanted = [
                mask_targets(t["masks"], b, i, logits.shape[-1])
                for t, b, i in zip(targets, boxes, index, strict=True)
            ]
            classes = torch.cat([lab[i] for lab, i in zip(labels, positive, strict=True)])
            losses["loss_mask"] = mask_rcnn_loss(
                logits, classes, torch.cat(wanted), normalizer=mean_count(len(logits))
            )
        if self.distortion_branch is not None:
            assert images is not None
            restoration: list[RestorationTargets] = [
                t["restoration"][i]  # type: ignore[misc]
                for t, i in zip(targets, index, strict=True)
            ]
            types = [t["types"][i] for t, i in zip(targets, index, strict=True)]
            losses |= self.distortion_branch.losses(
                images, features, boxes, restoration, types, mean_count=mean_count
            )
        return losses


def build_roi_heads(cfg: CfgNode, num_types: int) -> DistortionROIHeads:
    """Build what Detectron2's ``StandardROIHeads`` (or ``DistortionROIHeads``) holds.

    Raises:
        MrsslError: a key has a value that this engine does not offer.
    """
    node, box, mask = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD, cfg.MODEL.ROI_MASK_HEAD
    channels, classes = cfg.MODEL.FPN.OUT_CHANNELS, node.NUM_CLASSES + 1
    if box.NUM_FC != 2:
        raise MrsslError(f"MODEL.ROI_BOX_HEAD.NUM_FC {box.NUM_FC}: the torchvision engine has 2")
    for key in (box, mask):
        if key.POOLER_TYPE != "ROIAlignV2":
            raise MrsslError(
                f"POOLER_TYPE {key.POOLER_TYPE!r}: the torchvision engine has ROIAlignV2"
            )
    box_pooler = PyramidPooler(node.IN_FEATURES, box.POOLER_RESOLUTION, box.POOLER_SAMPLING_RATIO)
    mask_parts: dict[str, nn.Module | None] = {}
    if cfg.MODEL.MASK_ON:
        mask_parts = {
            "mask_roi_pool": PyramidPooler(
                node.IN_FEATURES, mask.POOLER_RESOLUTION, mask.POOLER_SAMPLING_RATIO
            ),
            "mask_head": MaskRCNNHeads(
                channels,
                [mask.CONV_DIM] * mask.NUM_CONV,
                1,
                norm_layer=partial(get_norm, mask.NORM) if mask.NORM else None,
            ),
            "mask_predictor": MaskRCNNPredictor(mask.CONV_DIM, mask.CONV_DIM, classes),
        }
    branch = None
    if is_pretraining(cfg):
        branch = DistortionBranch.from_config(
            cfg, channels=channels, strides=STRIDES, num_types=num_types
        )
    heads = DistortionROIHeads(
        box_pooler,
        TwoMLPHead(channels * box.POOLER_RESOLUTION**2, box.FC_DIM),
        FastRCNNPredictor(box.FC_DIM, classes),
        node.IOU_THRESHOLDS[0],
        node.IOU_THRESHOLDS[0],
        node.BATCH_SIZE_PER_IMAGE,
        node.POSITIVE_FRACTION,
        (10.0, 10.0, 5.0, 5.0),
        node.SCORE_THRESH_TEST,
        node.NMS_THRESH_TEST,
        cfg.TEST.DETECTIONS_PER_IMAGE,
        distortion_branch=branch,
        **mask_parts,
    )
    heads.fg_bg_sampler = SeededSampler(node.BATCH_SIZE_PER_IMAGE, node.POSITIVE_FRACTION)
    _init_like_detectron2(heads)
    return heads


@torch.no_grad()
def _init_like_detectron2(heads: DistortionROIHeads) -> None:
    """Detectron2's initialisation of the predictors; without it box scores start far from rare.

    The background's box deltas and mask, which Detectron2 does not have and nothing uses, start
    (and, having no gradient, stay) at zero, so that conversion either way loses nothing.
    """
    nn.init.normal_(heads.box_predictor.cls_score.weight, std=0.01)
    nn.init.zeros_(heads.box_predictor.cls_score.bias)
    nn.init.normal_(heads.box_predictor.bbox_pred.weight, std=0.001)
    nn.init.zeros_(heads.box_predictor.bbox_pred.bias)
    heads.box_predictor.bbox_pred.weight[:4] = 0
    if heads.has_mask():
        last = heads.mask_predictor.mask_fcn_logits  # type: ignore[union-attr]
        nn.init.normal_(last.weight, std=0.001)
        nn.init.zeros_(last.bias)
        last.weight[0] = 0


__all__ = ["DistortionROIHeads", "PyramidPooler", "build_roi_heads"]
