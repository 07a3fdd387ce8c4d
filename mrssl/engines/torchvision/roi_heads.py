"""torchvision's ROI heads with Detectron2's pooling and mask loss, and the pretext's two branches.

Shape letters: B slices, R ROIs of the batch, C channels of the pyramid, K distortion types,
M the masks' side, S the restored crops' side.
"""

from __future__ import annotations

import sys
from functools import partial

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads

from mrssl.config import check_fixed, is_pretraining
from mrssl.engines.distributed import mean_count
from mrssl.engines.torchvision.backbone import STRIDES
from mrssl.engines.torchvision.rpn import ExactBoxCoder, SeededSampler
from mrssl.errors import MrsslError
from mrssl.modeling import (
    DistortionBranch,
    ImprovedMaskHead,
    PositionHead,
    PyramidPooler,
    SliceDecoder,
    TwoScalePooler,
    mask_rcnn_loss,
    mask_targets,
    position_loss,
    whole_slice_loss,
)
from mrssl.modeling.improved_mask_head import IMPROVED_MASK_HEAD, STOCK_MASK_HEAD
from mrssl.modeling.layers import get_norm
from mrssl.structures import RestorationTargets, SlicePosition

#: Keys that could be otherwise in Detectron2.
_FIXED = {"MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead", "MODEL.ROI_BOX_HEAD.NUM_FC": 2}


class BackgroundRow(nn.Module):
    """Zeros before the logits of a mask head that has none for the background, torchvision's 0."""

    def forward(self, logits: Tensor) -> Tensor:
        """Float (R, classes, M, M) -> (R, 1 + classes, M, M)."""
        return F.pad(logits, (0, 0, 0, 0, 1, 0))


class DistortionROIHeads(RoIHeads):
    """Box and mask heads and, while pretraining, the distortion-type and restoration branches.

    :meth:`forward` takes the input images besides, since the two branches look at the pixels.
    ``distortion_branch`` is None after pretraining; then this is plain Mask R-CNN.
    """

    def __init__(
        self,
        *args: object,
        distortion_branch: DistortionBranch | None,
        position_head: PositionHead | None = None,
        position_weight: float = 1.0,
        slice_decoder: SliceDecoder | None = None,
        slice_weight: float = 1.0,
        **kwargs: object,
    ):
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.distortion_branch = distortion_branch
        self.position_head = position_head
        self.position_weight = position_weight
        self.slice_decoder = slice_decoder
        self.slice_weight = slice_weight

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
                ``masks`` bool (N, H, W) and, while pretraining, ``types`` (N, K), and
                ``position``, :class:`SlicePosition`, and ``restoration``,
                :class:`RestorationTargets`, of N instances.
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
        count = mean_count(sum(len(label) for label in labels))
        logits, predicted = self.box_predictor(pooled)
        losses = _box_losses(logits, predicted, labels, deltas, normalizer=count)

        if self.position_head is not None:
            positions: list[SlicePosition] = [t["position"] for t in targets]  # type: ignore[misc]
            centres = [p.of_boxes(b) for p, b in zip(positions, proposals, strict=True)]
            loss = position_loss(self.position_head(pooled), torch.cat(centres), normalizer=count)
            losses["loss_position"] = self.position_weight * loss

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
        if self.slice_decoder is not None:
            whole: list[RestorationTargets] = [t["restoration"] for t in targets]  # type: ignore[misc]
            loss = whole_slice_loss(self.slice_decoder(features), whole)
            losses["loss_slice"] = self.slice_weight * loss
        return losses


def _box_losses(
    logits: Tensor,
    predicted: Tensor,
    labels: list[Tensor],
    deltas: list[Tensor],
    *,
    normalizer: float,
) -> dict[str, Tensor]:
    """Detectron2's losses of the box head; torchvision's smooth L1 has another beta.

    Args:
        logits: float (R, 1 + classes), 0 the background.
        predicted: float (R, 4 (1 + classes)), deltas for each class.
        labels: of each slice's ROIs, int64 (R_b,).
        deltas: of each slice's ROIs, float (R_b, 4).
        normalizer: mean number of ROIs of a process.
    """
    classes, wanted = torch.cat(labels), torch.cat(deltas)
    positive = torch.where(classes > 0)[0]
    of_class = predicted.float().unflatten(1, (-1, 4))[positive, classes[positive]]
    return {
        "loss_cls": F.cross_entropy(logits.float(), classes, reduction="sum") / normalizer,
        "loss_box_reg": F.l1_loss(of_class, wanted[positive], reduction="sum") / normalizer,
    }


def build_roi_heads(cfg: CfgNode, num_types: int) -> DistortionROIHeads:
    """Build what Detectron2's ``StandardROIHeads`` (or ``DistortionROIHeads``) holds.

    Raises:
        MrsslError: a key has a value that this engine does not offer.
    """
    node, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    channels, classes = cfg.MODEL.FPN.OUT_CHANNELS, node.NUM_CLASSES + 1
    check_fixed(cfg, _FIXED, engine="the torchvision engine")
    _check_pooler_type("ROI_BOX_HEAD", box.POOLER_TYPE, "ROIAlignV2")
    strides = [STRIDES[name] for name in node.IN_FEATURES]
    box_pooler = PyramidPooler(
        node.IN_FEATURES, strides, box.POOLER_RESOLUTION, box.POOLER_SAMPLING_RATIO
    )
    mask_parts = _mask_parts(cfg)
    branch = position_head = slice_decoder = None
    if is_pretraining(cfg):
        if cfg.MRSSL.POSITION_HEAD.LOSS_WEIGHT > 0:
            position_head = PositionHead(box.FC_DIM)
        if cfg.MRSSL.SLICE_DECODER.LOSS_WEIGHT > 0:
            slice_decoder = SliceDecoder.from_config(cfg)
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
        cfg.TEST.DETECTIONS_PER_IMAGE if cfg.TEST.DETECTIONS_PER_IMAGE >= 0 else sys.maxsize,
        distortion_branch=branch,
        position_head=position_head,
        position_weight=cfg.MRSSL.POSITION_HEAD.LOSS_WEIGHT,
        slice_decoder=slice_decoder,
        slice_weight=cfg.MRSSL.SLICE_DECODER.LOSS_WEIGHT,
        **mask_parts,
    )
    heads.box_coder = ExactBoxCoder(heads.box_coder.weights)
    heads.fg_bg_sampler = SeededSampler(node.BATCH_SIZE_PER_IMAGE, node.POSITIVE_FRACTION)
    _init_like_detectron2(heads)
    return heads


def _mask_parts(cfg: CfgNode) -> dict[str, nn.Module]:
    """Pooler, head and predictor of ``MODEL.ROI_MASK_HEAD``, by torchvision's names for them."""
    if not cfg.MODEL.MASK_ON:
        return {}
    node, names = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_HEADS.IN_FEATURES
    channels, classes = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.ROI_HEADS.NUM_CLASSES
    pooling = (
        names,
        [STRIDES[name] for name in names],
        node.POOLER_RESOLUTION,
        node.POOLER_SAMPLING_RATIO,
    )
    if node.NAME == IMPROVED_MASK_HEAD:
        # Detectron2 wants "" of a head that pools by itself; here either says the same.
        _check_pooler_type("ROI_MASK_HEAD", node.POOLER_TYPE, "", "ROIAlignV2")
        return {
            "mask_roi_pool": TwoScalePooler(*pooling),
            "mask_head": ImprovedMaskHead(
                in_channels=channels,
                num_classes=classes,
                conv_dim=node.CONV_DIM,
                num_conv=node.NUM_CONV,
                norm=node.NORM,
            ),
            "mask_predictor": BackgroundRow(),
        }
    if node.NAME != STOCK_MASK_HEAD:
        raise MrsslError(
            f"MODEL.ROI_MASK_HEAD.NAME {node.NAME!r}: the torchvision engine has "
            f"{STOCK_MASK_HEAD!r} and {IMPROVED_MASK_HEAD!r}"
        )
    _check_pooler_type("ROI_MASK_HEAD", node.POOLER_TYPE, "ROIAlignV2")
    return {
        "mask_roi_pool": PyramidPooler(*pooling),
        "mask_head": MaskRCNNHeads(
            channels,
            [node.CONV_DIM] * node.NUM_CONV,
            1,
            norm_layer=partial(get_norm, node.NORM) if node.NORM else None,
        ),
        "mask_predictor": MaskRCNNPredictor(node.CONV_DIM, node.CONV_DIM, classes + 1),
    }


def _check_pooler_type(node: str, value: str, *known: str) -> None:
    if value not in known:
        raise MrsslError(
            f"MODEL.{node}.POOLER_TYPE {value!r}: the torchvision engine has "
            + " and ".join(map(repr, known))
        )


@torch.no_grad()
def _init_like_detectron2(heads: DistortionROIHeads) -> None:
    """Detectron2's initialisation: where torchvision's own is another.

    That of the predictors, without which box scores start far from rare; of the box head, whose
    outputs are a third as large with torchvision's; and of biases.

    The background's box deltas and mask, which Detectron2 does not have and nothing uses, start
    (and, having no gradient, stay) at zero, so that conversion either way loses nothing.
    """
    for layer in (heads.box_head.fc6, heads.box_head.fc7):
        nn.init.kaiming_uniform_(layer.weight, a=1)  # fvcore's c2_xavier_fill
        nn.init.zeros_(layer.bias)
    nn.init.normal_(heads.box_predictor.cls_score.weight, std=0.01)
    nn.init.zeros_(heads.box_predictor.cls_score.bias)
    nn.init.normal_(heads.box_predictor.bbox_pred.weight, std=0.001)
    nn.init.zeros_(heads.box_predictor.bbox_pred.bias)
    heads.box_predictor.bbox_pred.weight[:4] = 0
    if isinstance(heads.mask_predictor, MaskRCNNPredictor):
        nn.init.zeros_(heads.mask_predictor.conv5_mask.bias)
        last = heads.mask_predictor.mask_fcn_logits
        nn.init.normal_(last.weight, std=0.001)
        nn.init.zeros_(last.bias)
        last.weight[0] = 0


__all__ = ["DistortionROIHeads", "build_roi_heads"]
