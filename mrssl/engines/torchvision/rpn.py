"""torchvision's region proposal network with Detectron2's anchors, and reproducible sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from mrssl.engines.torchvision.backbone import STRIDES

#: Keys that could be otherwise in Detectron2.
FIXED = {"MODEL.PROPOSAL_GENERATOR.NAME": "RPN", "MODEL.RPN.IN_FEATURES": list(STRIDES)}


class ExactAnchorGenerator(AnchorGenerator):
    """Anchors of unrounded size, as Detectron2 has them (torchvision rounds to whole pixels).

    ``image_list.image_sizes`` only tells the number of images.
    """

    def generate_anchors(
        self,
        scales: Sequence[float],
        aspect_ratios: Sequence[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Anchors around the origin, float (sizes x ratios, 4); a ratio is height / width."""
        scale = torch.as_tensor(scales, dtype=dtype, device=device)
        heights = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        # Detectron2 runs through the sizes first and the ratios within each.
        w = (scale[:, None] / heights[None]).flatten()
        h = (scale[:, None] * heights[None]).flatten()
        return torch.stack([-w, -h, w, h], dim=1) / 2

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        """As the base class, at the levels' nominal strides.

        torchvision divides the image's side by the level's, which is not 64 at p6 where the side
        is no multiple of 64.
        """
        # Not in the features' precision: bfloat16 knows whole pixels only from 128 on.
        self.set_cell_anchors(torch.float32, feature_maps[0].device)
        strides = [[s, s] for s in STRIDES.values()]  # type: ignore[list-item]
        levels = self.grid_anchors([level.shape[-2:] for level in feature_maps], strides)
        return [torch.cat(levels)] * len(image_list.image_sizes)


class ExactBoxCoder(BoxCoder):
    """Boxes in float32, as Detectron2 has them, also from deltas in half precision."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Float (P, 4 C) deltas and (P, 4) boxes -> float32 (P, 4 C) boxes."""
        return super().decode_single(rel_codes.float(), boxes.float())


class SeededSampler:
    """Balanced random sampling of positives and negatives, from a seed of each image.

    torchvision draws from the global generator; then what is sampled depends on the number of
    processes and on everything drawn before. Here it follows from the sample alone, so that two
    processes, or a resumed run, sample what one uninterrupted process samples.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction
        self.seeds: list[int] = []

    def __call__(self, labels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Sample each image's labels (>= 1 positive, 0 negative, -1 ignored).

        Returns:
            Two lists of bool (P,) masks: the positives and the negatives that were sampled.
        """
        positives, negatives = [], []
        for label, seed in zip(labels, self.seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)
            known = label.cpu()  # once: each search on a GPU would be waited for
            positive, negative = torch.where(known >= 1)[0], torch.where(known == 0)[0]
            most = int(self.batch_size_per_image * self.positive_fraction)
            rest = self.batch_size_per_image - min(most, len(positive))
            masks = torch.zeros(2, len(label), dtype=torch.bool)
            for mask, candidates, count in zip(
                masks, (positive, negative), (most, rest), strict=True
            ):
                chosen = torch.randperm(len(candidates), generator=generator)[:count]
                mask[candidates[chosen]] = True
            both = masks.to(label.device)
            positives.append(both[0])
            negatives.append(both[1])
        return positives, negatives


class SeededRPN(RegionProposalNetwork):
    """torchvision's RPN with the losses of Detectron2's."""

    def filter_proposals(
        self, proposals: Tensor, objectness: Tensor, *args: Any
    ) -> tuple[list[Tensor], list[Tensor]]:
        """As the base class, ranked in float32: from 6.25 on a bfloat16 sigmoid is 1."""
        return super().filter_proposals(proposals, objectness.float(), *args)

    def compute_loss(
        self,
        objectness: Tensor,
        pred_bbox_deltas: Tensor,
        labels: list[Tensor],
        regression_targets: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Binary cross-entropy of the sampled anchors, and the L1 distance of the positive ones.

        Args:
            objectness: float (A, 1), logits of all anchors of all slices.
            pred_bbox_deltas: float (A, 4).
            labels: of each slice's anchors, 1 positive, 0 negative, -1 ignored.
            regression_targets: of each slice's anchors, float (A_b, 4).
        """
        positive, negative = (torch.cat(masks) for masks in self.fg_bg_sampler(labels))
        sampled = positive | negative
        # Not their number: a constant is the same on all processes, and Detectron2's.
        normalizer = self.fg_bg_sampler.batch_size_per_image * len(labels)
        loss = F.binary_cross_entropy_with_logits(
            objectness.flatten()[sampled].float(), torch.cat(labels)[sampled], reduction="sum"
        )
        boxes = F.l1_loss(
            pred_bbox_deltas[positive].float(),
            torch.cat(regression_targets)[positive],
            reduction="sum",
        )
        return loss / normalizer, boxes / normalizer


def build_rpn(cfg: CfgNode) -> SeededRPN:
    """Build what Detectron2 builds from ``MODEL.RPN`` and ``MODEL.ANCHOR_GENERATOR``.

    Raises:
        MrsslError: a key has a value that this engine does not offer.
    """
    node, anchors, levels = cfg.MODEL.RPN, cfg.MODEL.ANCHOR_GENERATOR, len(STRIDES)
    generator = ExactAnchorGenerator(
        tuple(map(tuple, _broadcast(anchors.SIZES, levels))),
        tuple(map(tuple, _broadcast(anchors.ASPECT_RATIOS, levels))),
    )
    rpn = SeededRPN(
        generator,
        RPNHead(cfg.MODEL.FPN.OUT_CHANNELS, generator.num_anchors_per_location()[0]),
        node.IOU_THRESHOLDS[1],
        node.IOU_THRESHOLDS[0],
        node.BATCH_SIZE_PER_IMAGE,
        node.POSITIVE_FRACTION,
        {"training": node.PRE_NMS_TOPK_TRAIN, "testing": node.PRE_NMS_TOPK_TEST},
        {"training": node.POST_NMS_TOPK_TRAIN, "testing": node.POST_NMS_TOPK_TEST},
        node.NMS_THRESH,
    )
    rpn.box_coder = ExactBoxCoder(rpn.box_coder.weights)
    rpn.fg_bg_sampler = SeededSampler(node.BATCH_SIZE_PER_IMAGE, node.POSITIVE_FRACTION)
    return rpn


def _broadcast(values: list[list[float]], levels: int) -> list[list[float]]:
    return list(values) * levels if len(values) == 1 else list(values)
