"""The loss of the mask branch, as Detectron2 computes it.

Shape letters: R positive ROIs, M the side of the predicted masks, N instances of a slice.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mrssl.modeling.layers import graph_zero


def mask_targets(masks: Tensor, boxes: Tensor, index: Tensor, size: int) -> Tensor:
    """Crop each ROI's instance mask, as Detectron2's ``BitMasks.crop_and_resize``.

    Args:
        masks: bool (N, H, W).
        boxes: float (R, 4), XYXY pixels of the masks.
        index: int64 (R,) in [0, N), the instance of each ROI.
        size: side M.

    Returns:
        bool (R, M, M), True where at least half of the cell belongs to the instance.
    """
    from torchvision.ops import roi_align

    rois = torch.cat([index.to(boxes.dtype)[:, None], boxes], dim=1).float()
    return roi_align(masks[:, None].float(), rois, size, 1.0, 0, aligned=True)[:, 0] >= 0.5


def mask_rcnn_loss(
    logits: Tensor, classes: Tensor, targets: Tensor, *, normalizer: float | Tensor | None = None
) -> Tensor:
    """Binary cross-entropy of the mask of each ROI's own class (He et al. 2017, section 3).

    Args:
        logits: float (R, classes, M, M).
        classes: int64 (R,), the channel of ``logits`` that belongs to each ROI.
        targets: bool (R, M, M).
        normalizer: what the sum over ROIs of the mean over pixels is divided by; R if None.

    Returns:
        A scalar; zero, but tied to the graph, where R is 0.
    """
    if len(logits) == 0:
        return graph_zero(logits)
    own = logits[torch.arange(len(logits), device=logits.device), classes].float()
    loss = F.binary_cross_entropy_with_logits(own, targets.float(), reduction="none")
    return loss.mean((1, 2)).sum() / (len(logits) if normalizer is None else normalizer)
