"""The distortion-type branch: which of the K registered distortions befell a region.

Shape letters: R ROIs, T the side of the pixel crops, D ``conv_dim`` of the encoder, K types.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrssl.modeling.layers import ConvNormReLU, graph_zero


class DistortionTypeHead(nn.Module):
    """Multi-label classifier of each ROI: distortions compose, so the K types are independent.

    It reads what :class:`~mrssl.modeling.region_encoder.RegionEncoder` makes of the pixels and the
    pyramid: types such as noise differ in texture that the pyramid alone may have lost.

    Args:
        in_channels: channels of the encoder's output, 2 D.
        num_types: K.
        conv_dim: channels of the convolutions.
        norm: "", "BN" or "GN".
    """

    def __init__(
        self, *, in_channels: int, num_types: int, conv_dim: int = 64, norm: str = "BN"
    ) -> None:
        super().__init__()
        self.conv1 = ConvNormReLU(in_channels, conv_dim, stride=2, norm=norm)
        self.conv2 = ConvNormReLU(conv_dim, conv_dim, norm=norm)
        self.predictor = nn.Linear(2 * conv_dim, num_types)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.constant_(self.predictor.bias, -2.0)  # a type is rare: start near p = 0.12

    def forward(self, quarter: Tensor) -> Tensor:
        """Logits of the K types.

        Args:
            quarter: float (R, 2 D, T/4, T/4), the encoder's view of pixels and pyramid.

        Returns:
            float (R, K).
        """
        x = self.conv2(self.conv1(quarter))
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
