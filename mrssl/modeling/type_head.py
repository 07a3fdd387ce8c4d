"""The distortion-type branch: which of the K registered distortions befell a region.

Shape letters: R ROIs, S the side of the pixel crops, C channels of the pyramid, K types.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrssl.modeling.layers import ConvNormReLU, graph_zero


class DistortionTypeHead(nn.Module):
    """Multi-label classifier of each ROI: distortions compose, so the K types are independent.

    It sees the same three inputs as the restoration branch (pixels, fine, context), each reduced
    by strided convolutions: types such as noise differ in texture that the pyramid may have lost.

    Args:
        pixel_channels: channels of the input image.
        fine_channels, context_channels: C of the two pyramid levels.
        num_types: K.
        conv_dim: channels of the convolutions.
        norm: "", "BN" or "GN".
    """

    def __init__(
        self,
        *,
        pixel_channels: int,
        fine_channels: int,
        context_channels: int,
        num_types: int,
        conv_dim: int = 64,
        norm: str = "BN",
    ) -> None:
        super().__init__()
        thin = max(conv_dim // 4, 8)
        self.pixels = nn.Sequential(
            ConvNormReLU(pixel_channels, thin, norm=norm),
            ConvNormReLU(thin, 2 * thin, stride=2, norm=norm),
        )
        self.conv1 = ConvNormReLU(fine_channels + 2 * thin, conv_dim, stride=2, norm=norm)
        self.conv2 = ConvNormReLU(context_channels + conv_dim, conv_dim, stride=2, norm=norm)
        self.conv3 = ConvNormReLU(conv_dim, conv_dim, norm=norm)
        self.predictor = nn.Linear(2 * conv_dim, num_types)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.constant_(self.predictor.bias, -2.0)  # a type is rare: start near p = 0.12

    def forward(self, pixels: Tensor, fine: Tensor, context: Tensor) -> Tensor:
        """Logits of the K types.

        Args:
            pixels: float (R, 3, S, S).
            fine: float (R, C, S/2, S/2).
            context: float (R, C, S/4, S/4).

        Returns:
            float (R, K).
        """
        x = self.conv1(torch.cat([self.pixels(pixels), fine], dim=1))
        x = self.conv3(self.conv2(torch.cat([x, context], dim=1)))
        return self.predictor(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))


def distortion_type_loss(
    logits: Tensor, types: Tensor, *, normalizer: float | Tensor | None = None
) -> Tensor:
    """Binary cross-entropy over the K types, summed over the types, averaged over the ROIs.

    Args:
        logits: float (R, K).
        types: float (R, K), 1 where the type befell the region, 0 elsewhere.
        normalizer: as in :func:`~mrssl.modeling.restoration_head.restoration_loss`.

    Returns:
        A scalar; zero, but tied to the graph, where R is 0.
    """
    if len(logits) == 0:
        return graph_zero(logits)
    loss = F.binary_cross_entropy_with_logits(logits.float(), types.float(), reduction="sum")
    return loss / (len(logits) if normalizer is None else normalizer)
