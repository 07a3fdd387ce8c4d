"""What both branches of the pretext see of a region: its pixels, and two levels of the pyramid.

Shape letters: R ROIs, T the side of the pixel crops (a multiple of 8), C channels of the pyramid,
D ``conv_dim``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrssl.modeling.layers import ConvNormReLU, space_to_depth, upsample2


class RegionEncoder(nn.Module):
    """Join the pixels of each ROI with the fine and the context level of the pyramid.

    The pixels' own path matters: pyramid features alone blur whatever was sharp. Pixels enter in
    blocks of 2 x 2 as channels, which loses nothing and is several times as fast as convolutions
    of few channels at full resolution. A region of typical size covers about T/4 cells of the fine
    level (stride 4) and fewer of the context level, so nothing is gained by larger crops of them.

    Args:
        pixel_channels: channels of the input image (neighbouring slices).
        fine_channels: C of the fine pyramid level.
        context_channels: C of the context level.
        conv_dim: D.
        norm: "", "BN" or "GN".
    """

    def __init__(
        self,
        *,
        pixel_channels: int,
        fine_channels: int,
        context_channels: int,
        conv_dim: int = 32,
        norm: str = "BN",
    ) -> None:
        super().__init__()
        wide = 2 * conv_dim
        self.pixels = ConvNormReLU(4 * pixel_channels, conv_dim, norm=norm)
        self.down = ConvNormReLU(conv_dim, wide, stride=2, norm=norm)
        self.fuse = ConvNormReLU(wide + fine_channels, wide, norm=norm)
        self.context = nn.Conv2d(context_channels, wide, 1)
        self.middle = ConvNormReLU(wide, wide, norm=norm)

    def forward(self, pixels: Tensor, fine: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the ROIs.

        Args:
            pixels: float (R, 3, T, T), as the backbone gets them.
            fine: float (R, C, T/4, T/4).
            context: float (R, C, T/8, T/8).

        Returns:
            float (R, D, T/2, T/2), of the pixels alone, and float (R, 2 D, T/4, T/4), of all three.
        """
        half = self.pixels(space_to_depth(pixels))
        quarter = self.fuse(torch.cat([self.down(half), fine], dim=1))
        return half, self.middle(quarter + upsample2(self.context(context)))
