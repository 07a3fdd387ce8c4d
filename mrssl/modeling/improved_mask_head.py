"""The mask head of Improved Mask R-CNN: two scales of features, joined by a skip connection.

Felfeliyan et al., Improved-Mask R-CNN, 2022, arXiv:2107.12889, adds to the mask head of Mask R-CNN
(He et al. 2017) three things: a second ROIAlign, an extra decoder layer, and a skip connection that
joins them. Widths and the form of the joint are not known from it: they follow the U-Net
(Ronneberger et al. 2015), whose decoder concatenates, convolves and then halves the channels as it
doubles the resolution.

Shape letters: R ROIs, C channels of the pyramid, P the side of the coarse crop.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mrssl.errors import MrsslError
from mrssl.modeling.layers import ConvNormReLU

#: The heads that ``MODEL.ROI_MASK_HEAD.NAME`` chooses from.
STOCK_MASK_HEAD = "MaskRCNNConvUpsampleHead"
IMPROVED_MASK_HEAD = "ImprovedMaskHead"


class ImprovedMaskHead(nn.Module):
    """Mask logits at four times the resolution of the coarse crop: 56 x 56 from 14 x 14.

    ::

        coarse (P)  -> num_conv x (3 x 3, norm, ReLU) -> up1 (2 x 2, ReLU) --+   as the stock head
        fine (2 P)  -------------------------------------------------- concatenated
                     -> fuse (3 x 3, norm, ReLU) -> up2 (2 x 2, ReLU) -> logits (1 x 1)

    No name of a parameter is one of the stock head's: tools that convert or load by name never
    take one head for the other.

    Args:
        in_channels: C.
        num_classes: channels of the output: the foreground classes, or 1 for all of them.
        conv_dim: channels of the convolutions; the last decoder layer has half as many.
        num_conv: 3 x 3 convolutions of the coarse crop.
        norm: "", "BN", "FrozenBN" or "GN", after the 3 x 3 convolutions.

    Raises:
        MrsslError: a width that cannot be halved, or an unknown norm.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        conv_dim: int = 256,
        num_conv: int = 4,
        norm: str = "",
    ) -> None:
        super().__init__()
        if conv_dim < 2 or conv_dim % 2:
            raise MrsslError(f"MODEL.ROI_MASK_HEAD.CONV_DIM must be even, not {conv_dim}")
        widths = [in_channels] + [conv_dim] * num_conv
        self.convs = nn.Sequential(
            *(ConvNormReLU(before, after, norm=norm) for before, after in pairwise(widths))
        )
        self.up1 = nn.ConvTranspose2d(widths[-1], conv_dim, 2, 2)
        self.fuse = ConvNormReLU(conv_dim + in_channels, conv_dim, norm=norm)
        self.up2 = nn.ConvTranspose2d(conv_dim, conv_dim // 2, 2, 2)
        self.logits = nn.Conv2d(conv_dim // 2, num_classes, 1)
        for layer in (self.up1, self.up2):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        # As the stock predictor: every pixel starts undecided.
        nn.init.normal_(self.logits.weight, std=0.001)
        nn.init.zeros_(self.logits.bias)  # type: ignore[arg-type]

    def forward(self, crops: tuple[Tensor, Tensor]) -> Tensor:
        """Predict the masks of all classes.

        Args:
            crops: float (R, C, P, P) and (R, C, 2 P, 2 P), the coarse and the fine one.

        Returns:
            float (R, classes, 4 P, 4 P), logits.
        """
        coarse, fine = crops
        decoded = F.relu(self.up1(self.convs(coarse)))
        # Under autocast the decoded features are halves and the crop is not.
        decoded = self.fuse(torch.cat([decoded, fine.to(decoded.dtype)], dim=1))
        return self.logits(F.relu(self.up2(decoded)))
