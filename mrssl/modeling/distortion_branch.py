"""What the pretext adds to Mask R-CNN: both branches, and the region encoder that feeds them.

Either engine owns one :class:`DistortionBranch` as ``roi_heads.distortion_branch``; it needs
nothing of a detector but its input images, its pyramid and boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from mrssl.errors import MrsslError
from mrssl.modeling.layers import graph_zero
from mrssl.modeling.region_encoder import RegionEncoder
from mrssl.modeling.restoration_head import RestorationHead, restoration_loss
from mrssl.modeling.roi_ops import crop_rois, expand_boxes, select_rois
from mrssl.modeling.type_head import DistortionTypeHead, distortion_type_loss
from mrssl.structures import RestorationTargets


class DistortionBranch(nn.Module):
    """The distortion-type and the restoration branch over the ROIs of a batch.

    Args:
        in_features: names of the fine and the context level of the pyramid.
        strides: their strides, in input pixels.
        encoder: what both branches see of a region.
        type_head: None leaves the branch out (an ablation).
        restoration_head: None leaves the branch out.
        resolution: S, side of the restored crops.
        margin: cells of surroundings that the crops show on each side besides; T = S + 2 margin
            is a multiple of 8.
        max_rois: positive proposals a slice that the branches are trained on.
        type_weight, restoration_weight: weights of the two losses.
        restoration_terms: keyword arguments of
            :func:`~mrssl.modeling.restoration_head.restoration_loss`.
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        strides: Sequence[int],
        encoder: RegionEncoder,
        type_head: DistortionTypeHead | None,
        restoration_head: RestorationHead | None,
        resolution: int = 48,
        margin: int = 8,
        max_rois: int = 4,
        type_weight: float = 1.0,
        restoration_weight: float = 1.0,
        restoration_terms: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if (resolution + 2 * margin) % 8:
            raise MrsslError(
                f"MRSSL.RESTORATION_HEAD.RESOLUTION {resolution} and twice "
                f"MRSSL.DISTORTION_HEAD.MARGIN {margin} must add up to a multiple of 8"
            )
        self.in_features = tuple(in_features)
        self.strides = tuple(strides)
        self.encoder = encoder
        self.type_head = type_head
        self.restoration_head = restoration_head
        self.resolution = resolution
        self.margin = margin
        self.max_rois = max_rois
        self.type_weight = type_weight
        self.restoration_weight = restoration_weight
        self.restoration_terms = dict(restoration_terms or {})

    @classmethod
    def from_config(
        cls, cfg: CfgNode, *, channels: int, strides: Mapping[str, int], num_types: int
    ) -> DistortionBranch:
        """Build from the node ``MRSSL``.

        Args:
            cfg: the configuration.
            channels: channels of every pyramid level.
            strides: stride of each pyramid level by its Detectron2 name.
            num_types: K.

        Raises:
            MrsslError: the two levels are none of the pyramid's.
        """
        node, names = cfg.MRSSL, cfg.MRSSL.DISTORTION_HEAD.IN_FEATURES
        if len(names) != 2 or not set(names) <= set(strides):
            raise MrsslError(
                f"MRSSL.DISTORTION_HEAD.IN_FEATURES {list(names)}: a fine and a coarse level of "
                + ", ".join(strides)
            )
        width = node.DISTORTION_HEAD.CONV_DIM
        type_head = restoration_head = None
        if node.TYPE_HEAD.LOSS_WEIGHT > 0:
            type_head = DistortionTypeHead(
                in_channels=2 * width,
                num_types=num_types,
                conv_dim=node.TYPE_HEAD.CONV_DIM,
                norm=node.DISTORTION_HEAD.NORM,
            )
        if node.RESTORATION_HEAD.LOSS_WEIGHT > 0:
            restoration_head = RestorationHead(conv_dim=width, norm=node.DISTORTION_HEAD.NORM)
        return cls(
            in_features=names,
            strides=[strides[name] for name in names],
            encoder=RegionEncoder(
                pixel_channels=len(cfg.MODEL.PIXEL_MEAN),
                fine_channels=channels,
                context_channels=channels,
                conv_dim=width,
                norm=node.DISTORTION_HEAD.NORM,
            ),
            type_head=type_head,
            restoration_head=restoration_head,
            resolution=node.RESTORATION_HEAD.RESOLUTION,
            margin=node.DISTORTION_HEAD.MARGIN,
            max_rois=node.DISTORTION_HEAD.MAX_ROIS,
            type_weight=node.TYPE_HEAD.LOSS_WEIGHT,
            restoration_weight=node.RESTORATION_HEAD.LOSS_WEIGHT,
            restoration_terms={
                "l1_weight": node.RESTORATION_HEAD.L1_WEIGHT,
                "ssim_weight": node.RESTORATION_HEAD.SSIM_WEIGHT,
                "l2_weight": node.RESTORATION_HEAD.L2_WEIGHT,
            },
        )

    def crop(
        self, images: Tensor, features: Mapping[str, Tensor], boxes: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (R, 3, T, T), fine (R, C, T/4, T/4) and context (R, C, T/8, T/8) of the boxes.

        The crops show the boxes and their surroundings.
        """
        side = self.resolution + 2 * self.margin
        boxes = [expand_boxes(b, side / self.resolution) for b in boxes]
        fine, context = (features[name] for name in self.in_features)
        # A cell of the crops is about a cell of the pyramid: one sample says all there is, at a
        # quarter of the cost of the backward pass.
        return (
            crop_rois(images, boxes, side, 1),
            crop_rois(fine, boxes, side // 4, self.strides[0], samples=1),
            crop_rois(context, boxes, side // 8, self.strides[1], samples=1),
        )

    def losses(
        self,
        images: Tensor,
        features: Mapping[str, Tensor],
        boxes: Sequence[Tensor],
        targets: Sequence[RestorationTargets],
        types: Sequence[Tensor],
        *,
        mean_count: Callable[[int], float | Tensor] = float,
    ) -> dict[str, Tensor]:
        """Losses of the positive proposals of a batch of B slices.

        Args:
            images: float (B, 3, H, W), as the backbone gets them.
            features: pyramid levels by name, (B, C, H / stride, W / stride).
            boxes: B tensors (P_b, 4), XYXY input pixels.
            targets: B targets of P_b instances each.
            types: B tensors (P_b, K), multi-hot.
            mean_count: the ROIs of this process -> their mean over all processes.

        Returns:
            ``loss_type`` and ``loss_restoration``, scalars, each only where its branch is there.
        """
        keep = [select_rois(t.index, t.masks.sum((1, 2)), self.max_rois) for t in targets]
        boxes = [b[k].detach() for b, k in zip(boxes, keep, strict=True)]
        crops = self.crop(images, features, boxes)
        normalizer = mean_count(len(crops[0]))
        if len(crops[0]) == 0:  # batch norm would fail on nothing
            heads = {"loss_type": self.type_head, "loss_restoration": self.restoration_head}
            zero = graph_zero(*self.parameters())
            return {name: zero for name, head in heads.items() if head is not None}
        half, quarter = self.encoder(*crops)
        losses = {}
        if self.type_head is not None:
            wanted = torch.cat([t[k] for t, k in zip(types, keep, strict=True)])
            loss = distortion_type_loss(self.type_head(quarter), wanted, normalizer=normalizer)
            losses["loss_type"] = self.type_weight * loss
        if self.restoration_head is not None:
            pixels = [
                target[k].crop_and_resize(b, self.resolution)
                for target, k, b in zip(targets, keep, boxes, strict=True)
            ]
            distorted, clean, mask = (torch.cat(parts) for parts in zip(*pixels, strict=True))
            loss = restoration_loss(
                self._restore(half, quarter),
                distorted,
                clean,
                mask,
                normalizer=normalizer,
                **self.restoration_terms,
            )
            losses["loss_restoration"] = self.restoration_weight * loss
        return losses

    def forward(
        self, images: Tensor, features: Mapping[str, Tensor], boxes: Sequence[Tensor]
    ) -> tuple[list[Tensor] | None, list[Tensor] | None]:
        """Type probabilities and residuals of detected boxes.

        Returns:
            B tensors (R_b, K) in [0, 1], and B tensors (R_b, S, S) of clean minus distorted in
            units of the [0, 1] intensity range; None for a branch that is left out.
        """
        counts = [len(b) for b in boxes]
        crops = self.crop(images, features, boxes)
        half, quarter = self.encoder(*crops)
        types = residuals = None
        if self.type_head is not None:
            types = list(self.type_head(quarter).sigmoid().split(counts))
        if self.restoration_head is not None:
            residuals = list(self._restore(half, quarter).float().split(counts))
        return types, residuals

    def _restore(self, half: Tensor, quarter: Tensor) -> Tensor:
        """Residuals (R, S, S) of the boxes themselves, without their surroundings."""
        assert self.restoration_head is not None
        inside = slice(self.margin, self.margin + self.resolution)
        return self.restoration_head(half, quarter)[:, inside, inside]
