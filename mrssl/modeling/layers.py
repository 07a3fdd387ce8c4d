"""The few layers that the heads share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mrssl.errors import MrsslError

#: Detectron2's names for the norms both engines offer.
NORMS = ("", "BN", "FrozenBN", "GN")


def get_norm(name: str, channels: int) -> nn.Module:
    """The normalisation layer that Detectron2's configuration calls ``name``.

    Group normalisation takes 32 groups (Wu & He 2018, and Detectron2), or as many as divide
    ``channels`` where it is narrower or odd.

    Raises:
        MrsslError: an unknown name.
    """
    if name == "":
        return nn.Identity()
    if name == "BN":
        return nn.BatchNorm2d(channels)
    if name == "GN":
        groups = next(g for g in range(min(32, channels), 0, -1) if channels % g == 0)
        return nn.GroupNorm(groups, channels)
    if name == "FrozenBN":
        from torchvision.ops import FrozenBatchNorm2d

        return FrozenBatchNorm2d(channels)
    raise MrsslError(f"unknown norm {name!r}; known are {', '.join(map(repr, NORMS))}")


class ConvNormReLU(nn.Sequential):
    """3 x 3 convolution, norm, ReLU; the convolution has a bias only where no norm follows."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: str = ""):
        conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=norm == "")
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        super().__init__(conv, get_norm(norm, out_channels), nn.ReLU(inplace=True))


def upsample2(x: Tensor) -> Tensor:
    """Twice the height and width, bilinear."""
    return nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def add_levels(maps: Sequence[Tensor]) -> Tensor:
    """The levels of a pyramid at the finest, added up, each upsampled to the next finer.

    Args:
        maps: from fine to coarse, float (B, D, H / 2^i, W / 2^i) of level i.
    """
    *finer, x = maps
    for level in reversed(finer):
        x = upsample2(x) + level
    return x


def space_to_depth(x: Tensor) -> Tensor:
    """Blocks of 2 x 2 pixels as channels: (R, C, H, W) -> (R, 4 C, H/2, W/2).

    As ``F.pixel_unshuffle``, which gives an empty batch the wrong shape.
    """
    rois, channels, height, width = x.shape
    blocks = x.reshape(rois, channels, height // 2, 2, width // 2, 2).permute(0, 1, 3, 5, 2, 4)
    return blocks.reshape(rois, 4 * channels, height // 2, width // 2)


def depth_to_space(x: Tensor) -> Tensor:
    """The inverse of :func:`space_to_depth`: (R, 4 C, H, W) -> (R, C, 2 H, 2 W)."""
    rois, channels, height, width = x.shape
    blocks = x.reshape(rois, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    return blocks.reshape(rois, channels // 4, 2 * height, 2 * width)


def graph_zero(*tensors: Tensor) -> Tensor:
    """A zero that keeps ``tensors`` in the graph: the loss of a batch without any instance.

    Without it, distributed training would wait forever for gradients of the unused parameters.
    """
    total = torch.zeros((), device=tensors[0].device)
    for tensor in tensors:
        total = total + tensor.sum() * 0.0
    return total
