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
    of few channels at full resolution. What the pyramid adds starts at zero: before it has learnt
    anything it would only drown the pixels. A region of typical size covers about T/4 cells of the
    fine level (stride 4) and fewer of the context level: larger crops of them would gain nothing.

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
        self.fine = nn.Conv2d(fine_channels, wide, 1)
        self.quarter = ConvNormReLU(wide, wide, norm=norm)
        self.down_again = ConvNormReLU(wide, wide, stride=2, norm=norm)
        self.context = nn.Conv2d(context_channels, wide, 1)
        # At T/8 a few convolutions span the crop: what was lost in the middle is guessed from all
        # around it.
        self.eighth = nn.Sequential(*(ConvNormReLU(wide, wide, norm=norm) for _ in range(2)))
        self.joint = ConvNormReLU(wide, wide, norm=norm)
        for level in (self.fine, self.context):
            nn.init.zeros_(level.weight)
            nn.init.zeros_(level.bias)  # type: ignore[arg-type]

    def forward(self, pixels: Tensor, fine: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Encode the ROIs.

        Args:
            pixels: float (R, 3, T, T), as the backbone gets them.
            fine: float (R, C, T/4, T/4).
            context: float (R, C, T/8, T/8).

        Returns:
            float (R, D, T/2, T/2), of the pixels alone, and float (R, 2 D, T/4, T/4), of all three.
        """
        # With channels last, few of them as here, a CPU resamples five times as fast and convolves
        # faster; all that comes of these tensors, in the heads too, keeps their format.
        blocks, fine, context = (
            x.contiguous(memory_format=torch.channels_last)
            for x in (space_to_depth(pixels), fine, context)
        )
        half = self.pixels(blocks)
        quarter = self.quarter(self.down(half) + self.fine(fine))
        eighth = self.eighth(self.down_again(quarter) + self.context(context))
        return half, self.joint(quarter + upsample2(eighth))
