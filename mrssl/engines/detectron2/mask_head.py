"""The improved mask head in ``ROI_MASK_HEAD_REGISTRY``, for Detectron2's own ``StandardROIHeads``.

Importing this module registers it. A configuration chooses it by::

    MODEL:
      ROI_MASK_HEAD:
        NAME: "ImprovedMaskHead"
        POOLER_TYPE: ""  # the head pools by itself, at two scales

Without a pooler type ``StandardROIHeads`` hands its mask head the pyramid instead of crops: that
is the documented way for a head to see more of it than one crop a box.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads import BaseMaskRCNNHead
from detectron2.structures import Instances
from torch import Tensor

from mrssl.errors import MrsslError
from mrssl.modeling import TwoScalePooler
from mrssl.modeling import improved_mask_head as core


@ROI_MASK_HEAD_REGISTRY.register()
class ImprovedMaskHead(core.ImprovedMaskHead, BaseMaskRCNNHead):
    """:class:`mrssl.modeling.ImprovedMaskHead` with Detectron2's loss and inference.

    Args:
        pooler: crops the boxes, coarse and fine.
        loss_weight: factor on the loss.
        vis_period: iterations between pictures of the masks in the event storage; 0 = never.
        layers: keyword arguments of the core's head.
    """

    @configurable
    def __init__(
        self,
        *,
        pooler: TwoScalePooler,
        loss_weight: float = 1.0,
        vis_period: int = 0,
        **layers: Any,
    ) -> None:
        super().__init__(**layers)
        self.pooler = pooler
        self.loss_weight = loss_weight
        self.vis_period = vis_period

    @classmethod
    def from_config(
        cls, cfg: CfgNode, input_shape: ShapeSpec | Mapping[str, ShapeSpec]
    ) -> dict[str, Any]:
        """Stock keys only: ``MODEL.ROI_MASK_HEAD`` and what ``StandardROIHeads`` reads besides.

        Raises:
            MrsslError: ``MODEL.ROI_MASK_HEAD.POOLER_TYPE`` is not "", so that crops would come
                instead of the pyramid.
        """
        node = cfg.MODEL.ROI_MASK_HEAD
        if isinstance(input_shape, ShapeSpec):
            raise MrsslError(
                f"MODEL.ROI_MASK_HEAD.POOLER_TYPE {node.POOLER_TYPE!r}: {cls.__name__} pools by "
                "itself and wants ''"
            )
        names = [name for name in cfg.MODEL.ROI_HEADS.IN_FEATURES if name in input_shape]
        return {
            "pooler": TwoScalePooler(
                names,
                [input_shape[name].stride for name in names],
                node.POOLER_RESOLUTION,
                node.POOLER_SAMPLING_RATIO,
            ),
            "in_channels": input_shape[names[0]].channels,
            "num_classes": 1 if node.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "conv_dim": node.CONV_DIM,
            "num_conv": node.NUM_CONV,
            "norm": node.NORM,
            "vis_period": cfg.VIS_PERIOD,
        }

    def layers(self, x: tuple[Tensor, Tensor]) -> Tensor:
        """Two crops of each box -> logits, what the base class calls a head's layers."""
        return core.ImprovedMaskHead.forward(self, x)

    def forward(  # type: ignore[override]
        self, x: Mapping[str, Tensor], instances: list[Instances]
    ) -> dict[str, Tensor] | list[Instances]:
        """The loss in training; otherwise the instances, with ``pred_masks`` (R_b, 1, M, M).

        Args:
            x: level name -> float (B, C, H / stride, W / stride).
            instances: B, with ``proposal_boxes`` and the targets in training, else ``pred_boxes``.
        """
        field = "proposal_boxes" if self.training else "pred_boxes"
        boxes = [part.get(field).tensor for part in instances]
        return BaseMaskRCNNHead.forward(self, self.pooler(x, boxes), instances)
