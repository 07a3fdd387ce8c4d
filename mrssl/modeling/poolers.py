"""ROIAlign from a feature pyramid, at one scale or at two.

Shape letters: B slices, R ROIs of the batch, C channels of the pyramid, P the crop's side.
Boxes are XYXY in absolute pixels of the network's input, pixel centres at half-integers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PyramidPooler(nn.Module):
    """ROIAlign from the pyramid level that fits each box, as Detectron2's ``ROIPooler``.

    The level is eq. 1 of Lin et al. 2017 (FPN): a box of 224 pixels belongs to ``canonical_level``,
    one of half the side to the level below, and so on; the nearest where there is no such level.

    Args:
        in_features: names of the levels, finest first, such as ``("p2", "p3")``.
        strides: their strides, in input pixels: consecutive powers of two.
        resolution: side P of the crops.
        sampling_ratio: samples a cell along each axis; 0 takes as many as the cell is wide.
        canonical_level: base-2 logarithm of the stride of the level for a box of 224 pixels.

    Raises:
        ValueError: strides that are no consecutive powers of two, or of another number.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        strides: Sequence[int],
        resolution: int,
        sampling_ratio: int,
        *,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        first = int(math.log2(strides[0]))
        if list(strides) != [2 ** (first + i) for i in range(len(in_features))]:
            raise ValueError(f"{list(in_features)} of strides {list(strides)} make no pyramid")
        self.in_features = tuple(in_features)
        self.strides = tuple(strides)
        self.resolution = resolution
        self.sampling_ratio = sampling_ratio
        self.canonical_level = canonical_level

    def levels(self, boxes: Tensor) -> Tensor:
        """Float (R, 4) -> int64 (R,), the position in ``in_features`` of each box's level."""
        width, height = (boxes[:, 2:] - boxes[:, :2]).unbind(1)
        level = torch.floor(
            self.canonical_level + torch.log2((width * height).sqrt() / 224 + 1e-8)
        ) - math.log2(self.strides[0])
        return level.clamp(min=0, max=len(self.strides) - 1).long()

    def forward(
        self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], image_shapes: object = None
    ) -> Tensor:
        """Crop the boxes.

        Args:
            features: level name -> float (B, C, H / stride, W / stride).
            boxes: B tensors (R_b, 4).
            image_shapes: torchvision hands it over; it is not needed.

        Returns:
            float32 (R, C, P, P), R = sum of R_b, in the order of the slices.
        """
        from torchvision.ops import roi_align

        rois = torch.cat([F.pad(b.float(), (1, 0), value=i) for i, b in enumerate(boxes)])
        level = self.levels(rois[:, 1:])
        channels = features[self.in_features[0]].shape[1]
        pooled = rois.new_zeros(len(rois), channels, self.resolution, self.resolution)
        for number, (name, stride) in enumerate(zip(self.in_features, self.strides, strict=True)):
            chosen = torch.where(level == number)[0]
            crops = roi_align(
                features[name].float(),  # box coordinates would not survive half precision
                rois[chosen],
                self.resolution,
                1.0 / stride,
                self.sampling_ratio,
                aligned=True,
            )
            pooled.index_copy_(0, chosen, crops)
        return pooled


class TwoScalePooler(nn.Module):
    """Each box twice: as the stock mask pooler crops it, and at twice the resolution.

    The fine crop comes from the level one finer (where there is one), so that its cells are as
    large, in cells of the level, as those of the coarse crop: a second crop from the same level
    would only interpolate between what the first has already seen.

    Args:
        in_features, strides, sampling_ratio: as for :class:`PyramidPooler`.
        resolution: side P of the coarse crop; the fine one has 2 P.
    """

    def __init__(
        self,
        in_features: Sequence[str],
        strides: Sequence[int],
        resolution: int,
        sampling_ratio: int,
    ) -> None:
        super().__init__()
        self.coarse = PyramidPooler(in_features, strides, resolution, sampling_ratio)
        self.fine = PyramidPooler(
            in_features, strides, 2 * resolution, sampling_ratio, canonical_level=3
        )

    def forward(
        self, features: Mapping[str, Tensor], boxes: Sequence[Tensor], image_shapes: object = None
    ) -> tuple[Tensor, Tensor]:
        """As :class:`PyramidPooler`; float32 (R, C, P, P) and (R, C, 2 P, 2 P)."""
        features = {name: features[name].float() for name in self.coarse.in_features}
        return self.coarse(features, boxes), self.fine(features, boxes)
