"""Where a slice lies in its volume, carried by its instances like Detectron2's ``BitMasks``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


class SlicePosition:
    """From the pixels of a slice to millimetres in the volume; the same for its N instances.

    ``len``, indexing and ``to`` are what Detectron2's ``Instances`` asks of a field, so an object
    of this class rides along as ``gt_position``, with N = 0 too.

    Args:
        matrix: float (3, 3): times (x, y, 1) in pixels, mm from the volume's centre along columns,
            rows and slices.
        count: N.
    """

    def __init__(self, matrix: Tensor, count: int) -> None:
        self.matrix = matrix
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, item: int | slice | Tensor | Sequence[int]) -> SlicePosition:
        """Pick instances; an int keeps the instance axis, as ``BitMasks`` does."""
        if isinstance(item, Tensor):
            picked = int(item.sum()) if item.dtype == torch.bool else item.numel()
        else:
            picked = torch.arange(self.count)[item].numel()
        return SlicePosition(self.matrix, picked)

    def pin_memory(self) -> SlicePosition:
        """For copies to a GPU that nothing waits for; a loader calls it."""
        return SlicePosition(self.matrix.pin_memory(), self.count)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SlicePosition:
        """The same on ``device``."""
        return SlicePosition(self.matrix.to(device, non_blocking=non_blocking), self.count)

    def of_boxes(self, boxes: Tensor) -> Tensor:
        """Where the centres of boxes lie.

        Args:
            boxes: float (P, 4), XYXY pixels of the slice.

        Returns:
            float (P, 3), mm.
        """
        centres = F.pad((boxes[:, :2] + boxes[:, 2:]) / 2, (0, 1), value=1.0)
        # Half precision would round a place in the field of view to the next millimetre or so.
        with torch.autocast(boxes.device.type, enabled=False):
            return centres.float() @ self.matrix.T
