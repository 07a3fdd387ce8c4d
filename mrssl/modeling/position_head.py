"""The position branch: where in the scanned volume a region lies.

No distortion teaches what tells one vertebra from the next: where it lies among the others. Where
windows of the slices are shown (``INPUT.CROP``), the way to know it is to know the anatomy, as in
Blendowski, Nickisch & Heinrich, MICCAI 2019, and Lei et al., MICCAI 2021 (relative positions of
patches) and Yan, Lu & Summers, 2018, arXiv 1707.03891 (height of axial slices in the body). Here
it is asked of every region that the box head sees, and so of the very features that will name it.

Shape letters: R sampled proposals of a batch, D width of the box head.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from mrssl.modeling.layers import graph_zero

#: Millimetres of one unit of the predictions: about the spread of positions in a field of view.
UNIT_MM = 100.0


class PositionHead(nn.Module):
    """Predict a region's centre from what the box head makes of it.

    Args:
        in_channels: D.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.predictor = nn.Linear(in_channels, 3)
        nn.init.normal_(self.predictor.weight, std=0.001)  # begins near the middle
        nn.init.zeros_(self.predictor.bias)

    def forward(self, box_features: Tensor) -> Tensor:
        """Float (R, D) -> (R, 3), in units of 100 mm along columns, rows and slices."""
        return self.predictor(box_features)

    def millimetres(self, box_features: Tensor) -> Tensor:
        """Float (R, D) -> (R, 3), in mm from the volume's centre."""
        return self(box_features).float() * UNIT_MM


def position_loss(
    predicted: Tensor, wanted: Tensor, *, normalizer: float | Tensor | None = None
) -> Tensor:
    """Distance along the three axes, in units of 100 mm, summed over axes, averaged over ROIs.

    Smooth L1, quadratic below 10 mm: nothing but a guess can be better, since scans of two
    subjects are hardly ever centred alike.

    Args:
        predicted: float (R, 3), in units of 100 mm.
        wanted: float (R, 3), mm.
        normalizer: as in :func:`~mrssl.modeling.restoration_head.restoration_loss`.

    Returns:
        A scalar; zero, but tied to the graph, where R is 0.
    """
    if len(predicted) == 0:
        return graph_zero(predicted)
    loss = F.smooth_l1_loss(predicted.float(), wanted / UNIT_MM, beta=0.1, reduction="sum")
    return loss / (len(predicted) if normalizer is None else normalizer)
