"""Decoder of whole slices, of the peer pretext on the same backbone and pyramid; their loss.

Shape letters: B slices, C channels of the pyramid, D ``conv_dim``, H, W the padded slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from mrssl.modeling.layers import ConvNormReLU, add_levels, upsample2
from mrssl.structures import RestorationTargets


def decoder_options(cfg: CfgNode) -> dict[str, Any]:
    """What decoders take from a configuration: of the pyramid, the levels the ROI heads read."""
    return {
        "in_features": cfg.MODEL.ROI_HEADS.IN_FEATURES,
        "in_channels": cfg.MODEL.FPN.OUT_CHANNELS,
        "norm": cfg.MRSSL.DISTORTION_HEAD.NORM,
    }


class RestorationDecoder(nn.Module):
    """From the pyramid back to the slice, as the upper half of a U-Net.

    Args:
        in_features: levels of the pyramid from fine to coarse, each of twice the stride of the one
            before; the first has stride 4.
        in_channels: C.
        conv_dim: D.
        norm: "", "BN" or "GN".
    """

    def __init__(
        self,
        *,
        in_features: Sequence[str],
        in_channels: int,
        conv_dim: int = 64,
        norm: str = "BN",
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.levels = nn.ModuleList(
            ConvNormReLU(in_channels, conv_dim, norm=norm) for _ in self.in_features
        )
        self.stride2 = ConvNormReLU(conv_dim, conv_dim // 2, norm=norm)
        self.stride1 = ConvNormReLU(conv_dim // 2, conv_dim // 4, norm=norm)
        self.predictor = nn.Conv2d(conv_dim // 4, 1, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RestorationDecoder:
        """For the levels of the pyramid that the ROI heads read."""
        return cls(**decoder_options(cfg))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Restored intensities, float (B, H, W), about [0, 1] but not clipped.

        Args:
            features: level name -> float (B, C, H / stride, W / stride).
        """
        maps = [
            level(features[name]) for name, level in zip(self.in_features, self.levels, strict=True)
        ]
        x = add_levels(maps)
        return self.predictor(self.stride1(upsample2(self.stride2(upsample2(x)))))[:, 0]


def whole_slice_loss(restored: Tensor, targets: Sequence[RestorationTargets]) -> Tensor:
    """Mean squared error over the pixels of the slices, the padding left out.

    Args:
        restored: float (B, H, W).
        targets: B, which hold the clean slices, (h, w) with h <= H and w <= W.
    """
    errors = []
    for image, target in zip(restored, targets, strict=True):
        clean = target.pixels[1].to(image.device)
        errors.append(F.mse_loss(image[: clean.shape[0], : clean.shape[1]].float(), clean))
    return torch.stack(errors).mean()


__all__ = ["RestorationDecoder", "decoder_options", "whole_slice_loss"]
