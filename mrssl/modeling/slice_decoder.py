"""The branch that keeps the pyramid informed: restores the whole slice, at little cost.

Shape letters: B slices, C channels of the pyramid, D ``conv_dim``, H, W the padded slice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from mrssl.modeling.layers import ConvNormReLU, add_levels
from mrssl.modeling.restoration_decoder import decoder_options

#: Of the finest level of the pyramid: the side of the block of pixels that one of its cells gives.
STRIDE = 4


class SliceDecoder(nn.Module):
    """From the pyramid to the slice in one step: each cell of the finest level gives a block.

    All levels are added up at the finest, and the last layer's channels are the pixels of a block
    (sub-pixel convolution: Shi et al. 2016, arXiv 1609.05158). A tenth of the cost of
    :class:`~mrssl.modeling.RestorationDecoder`, which works at all resolutions up to the slice's.

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
        conv_dim: int = 32,
        norm: str = "BN",
    ) -> None:
        super().__init__()
        self.in_features = tuple(in_features)
        self.laterals = nn.ModuleList(nn.Conv2d(in_channels, conv_dim, 1) for _ in self.in_features)
        self.smooth = ConvNormReLU(conv_dim, conv_dim, norm=norm)
        self.predictor = nn.Conv2d(conv_dim, STRIDE**2, 1)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SliceDecoder:
        """For the levels of the pyramid that the ROI heads read."""
        return cls(**decoder_options(cfg))

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Restored intensities, float (B, H, W), about [0, 1] but not clipped.

        Args:
            features: level name -> float (B, C, H / stride, W / stride).
        """
        maps = [
            lateral(features[name])
            for name, lateral in zip(self.in_features, self.laterals, strict=True)
        ]
        joined = self.smooth(add_levels(maps))
        return F.pixel_shuffle(self.predictor(joined), STRIDE)[:, 0]


__all__ = ["SliceDecoder"]
