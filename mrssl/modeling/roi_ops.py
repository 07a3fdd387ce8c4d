"""Between slices and regions of interest: choosing, cropping and pasting.

Shape letters: B slices, R ROIs of the whole batch, C channels, S the crop's side, H, W the slice.
Boxes are XYXY in absolute pixels of the network's input, pixel centres at half-integers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


def crop_rois(
    maps: Tensor, boxes: Sequence[Tensor], size: int, stride: float, samples: int = 2
) -> Tensor:
    """Crop boxes from images or feature maps by an aligned ROIAlign.

    Args:
        maps: float (B, C, H / stride, W / stride).
        boxes: B tensors (R_b, 4).
        size: side S of the crops.
        stride: input pixels per cell of ``maps``.
        samples: bilinear samples along each side of a cell.

    Returns:
        float (R, C, S, S), R = sum of R_b, in the order of the slices.
    """
    from torchvision.ops import roi_align

    # ROIAlign has no bfloat16 kernel on every device, and halves need no other care.
    boxes = [b.float() for b in boxes]
    if samples == 1 and maps.device.type != "mps":  # which lacks grid_sample's borders before 2.13
        crops = _sample_rois(maps.float(), boxes, size, stride)
    else:
        crops = roi_align(maps.float(), boxes, size, 1.0 / stride, samples, aligned=True)
    return crops.to(maps.dtype)


def _sample_rois(maps: Tensor, boxes: Sequence[Tensor], size: int, stride: float) -> Tensor:
    """ROIAlign with one sample a cell, by ``grid_sample``.

    On a CPU its backward pass takes a quarter of ROIAlign's. All slices are sampled at once, those
    with fewer boxes than others at empty ones besides, which are left out afterwards.
    """
    counts = [len(b) for b in boxes]
    most = max(counts)
    edges = pad_sequence(list(boxes), batch_first=True)[..., None] / stride  # (B, most, 4, 1)
    middles = (torch.arange(size, device=maps.device) + 0.5) / size
    points = edges[:, :, :2] + (edges[:, :, 2:] - edges[:, :, :2]) * middles  # (B, most, 2, S)
    extent = points.new_tensor([[maps.shape[3]], [maps.shape[2]]])
    x, y = (2.0 * points / extent - 1.0).unbind(2)
    grid = torch.stack(torch.broadcast_tensors(x[:, :, None, :], y[:, :, :, None]), dim=-1)
    crops = F.grid_sample(
        maps, grid.flatten(1, 2), padding_mode="border", align_corners=False
    )  # (B, C, most S, S)
    # As ROIAlign has it: the border goes on for half a cell, and beyond it all is zero.
    seen_x, seen_y = ((points - extent / 2).abs() <= extent / 2 + 0.5).unbind(2)
    seen = (seen_y[:, :, :, None] & seen_x[:, :, None, :])[:, :, None]
    crops = (crops.unflatten(2, (most, size)).transpose(1, 2) * seen).flatten(0, 1)
    if min(counts) == most:
        return crops
    kept = [slice_ * most + roi for slice_, n in enumerate(counts) for roi in range(n)]
    return crops.index_select(0, torch.tensor(kept, dtype=torch.int64, device=maps.device))


def expand_boxes(boxes: Tensor, factor: float) -> Tensor:
    """Boxes (R, 4), XYXY, about their own centres ``factor`` times as wide and high."""
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) * (factor / 2)
    return torch.cat([centre - half, centre + half], dim=1)


#: Of multiplicative hashing (Knuth, The Art of Computer Programming 3, 6.4), and a prime.
_MULTIPLIER, _MODULUS = 2654435761, 65521


def select_rois(region: Tensor, areas: Tensor, limit: int) -> Tensor:
    """At most ``limit`` proposals, shared out evenly among the regions they belong to.

    Large regions attract most positive proposals; without the sharing small ones would hardly be
    seen. The last proposals of each region are taken, one round after another; the true boxes,
    which detectors append to the proposals, are among the last. Which regions do without in the
    last round is as good as drawn, and yet the same in any process: by the remainders of products
    with their areas. By their order it would always be the last ones, which are the smallest.

    Args:
        region: int64 (P,), the region index of each positive proposal.
        areas: int64 (M,), pixels of each region.
        limit: proposals to keep.

    Returns:
        int64 (min(P, limit),), positions in ``region``, ascending.
    """
    if len(region) <= limit:
        return torch.arange(len(region), device=region.device)
    rank = F.one_hot(region).flip(0).cumsum(0).flip(0).gather(1, region[:, None])[:, 0]
    drawn = (areas * _MULTIPLIER % _MODULUS)[region]
    return torch.argsort(rank * _MODULUS + drawn, stable=True)[:limit].sort().values


def paste_rois(crops: Tensor, boxes: Tensor, height: int, width: int) -> Tensor:
    """Resample square crops back into their boxes on an otherwise zero slice.

    Bilinear at the exact, unrounded box, as Detectron2's ``paste_masks_in_image`` does.

    Args:
        crops: float (R, S, S).
        boxes: float (R, 4), pixels of the slice.
        height: H of the slice.
        width: W of the slice.

    Returns:
        float32 (R, H, W).
    """
    if len(crops) == 0:
        return crops.new_zeros((0, height, width), dtype=torch.float32)
    x0, y0, x1, y1 = boxes.float().unbind(1)
    ys = torch.arange(height, device=crops.device, dtype=torch.float32) + 0.5
    xs = torch.arange(width, device=crops.device, dtype=torch.float32) + 0.5
    ys = (ys[None] - y0[:, None]) / (y1 - y0).clamp(min=1e-6)[:, None] * 2 - 1
    xs = (xs[None] - x0[:, None]) / (x1 - x0).clamp(min=1e-6)[:, None] * 2 - 1
    grid = torch.stack(
        [xs[:, None, :].expand(-1, height, -1), ys[:, :, None].expand(-1, -1, width)], dim=3
    )
    return F.grid_sample(crops[:, None].float(), grid, align_corners=False)[:, 0]


def restore_slice(
    distorted: Tensor, residuals: Tensor, masks: Tensor, boxes: Tensor, scores: Tensor
) -> Tensor:
    """Add the residual of every found region to the slice.

    Where detections overlap, their residuals are averaged with weights score x mask probability;
    the sum fades out where that weight, at its largest, falls below 1/4 (a detection and a mask
    both at 1/2), so that a doubtful detection changes little.

    Args:
        distorted: float (H, W) in [0, 1].
        residuals: float (R, S, S), clean minus distorted, in the units of ``distorted``.
        masks: float (R, T, T), mask probabilities in [0, 1].
        boxes: float (R, 4).
        scores: float (R,) in [0, 1].

    Returns:
        float32 (H, W) in [0, 1].
    """
    if len(boxes) == 0:
        return distorted.float()
    height, width = distorted.shape
    weight = paste_rois(masks, boxes, height, width) * scores.float()[:, None, None]
    residual = (paste_rois(residuals, boxes, height, width) * weight).sum(0)
    residual = residual / weight.sum(0).clamp(min=1e-6)
    gate = (weight.max(0).values * 4.0).clamp(max=1.0)
    return (distorted.float() + gate * residual).clamp(0.0, 1.0)
