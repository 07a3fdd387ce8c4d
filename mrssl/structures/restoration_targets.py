"""Restoration targets of the instances of one slice, carried like Detectron2's ``BitMasks``.

Shape letters: M regions of the slice, N instances (proposals), H, W the slice, S the crop's side.
"""

from __future__ import annotations

import torch
from torch import Tensor


class RestorationTargets:
    """Distorted and clean pixels of a slice, and which of its regions each instance belongs to.

    Proposals outnumber the regions by far, so the pixels and masks are stored once and indexing
    only picks among ``index``. ``len``, indexing and ``to`` are what Detectron2's ``Instances``
    asks of a field, so an object of this class rides along as ``gt_restoration``.

    Args:
        pixels: float32 (2, H, W) in [0, 1]: the distorted slice, then the clean one.
        masks: bool (M, H, W); True where the region's pixels were changed.
        index: int64 (N,) in [0, M), the region of each instance; by default one each.

    Raises:
        ValueError: shapes that do not fit together.
    """

    def __init__(self, pixels: Tensor, masks: Tensor, index: Tensor | None = None) -> None:
        if pixels.ndim != 3 or pixels.shape[0] != 2:
            raise ValueError(f"pixels must be (2, H, W), got {tuple(pixels.shape)}")
        if masks.ndim != 3 or masks.shape[1:] != pixels.shape[1:]:
            raise ValueError(f"masks {tuple(masks.shape)} do not fit pixels {tuple(pixels.shape)}")
        self.pixels = pixels
        self.masks = masks
        self.index = torch.arange(len(masks), device=pixels.device) if index is None else index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, item: int | slice | Tensor) -> RestorationTargets:
        """Pick instances; an int keeps the instance axis, as ``BitMasks`` does."""
        if isinstance(item, int):
            item = slice(item, item + 1) if item >= 0 else slice(item, item + 1 or None)
        return RestorationTargets(self.pixels, self.masks, self.index[item])

    def __repr__(self) -> str:
        height, width = self.pixels.shape[1:]
        return f"{type(self).__name__}(instances={len(self)}, height={height}, width={width})"

    @property
    def device(self) -> torch.device:
        """Device of the pixels."""
        return self.pixels.device

    def to(self, device: torch.device | str, non_blocking: bool = False) -> RestorationTargets:
        """The same targets on ``device``."""
        return RestorationTargets(
            self.pixels.to(device, non_blocking=non_blocking),
            self.masks.to(device, non_blocking=non_blocking),
            self.index.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> RestorationTargets:
        """For copies to a GPU that nothing waits for; a loader calls it."""
        pinned = (tensor.pin_memory() for tensor in (self.pixels, self.masks, self.index))
        return RestorationTargets(*pinned)

    def crop_and_resize(self, boxes: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Crop each instance's box, resampled by an aligned ROIAlign of exact averaging.

        Args:
            boxes: float (N, 4), XYXY absolute pixels of the slice.
            size: side S of the square crop.

        Returns:
            ``distorted``, ``clean`` float32 (N, S, S) in [0, 1], and ``mask`` float32 (N, S, S),
            the share in [0, 1] of each cell that the region changed. The exact mean over a cell
            needs ``sampling_ratio=0``, as Detectron2's ``BitMasks.crop_and_resize`` has it.

        Raises:
            ValueError: a number of boxes other than the number of instances.
        """
        from torchvision.ops import roi_align

        if len(boxes) != len(self):
            raise ValueError(f"{len(boxes)} boxes for {len(self)} instances")
        boxes = boxes.to(self.pixels.dtype)
        first = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
        crops = roi_align(self.pixels[None], first, size, 1.0, 0, aligned=True)
        rois = torch.cat([self.index.to(boxes.dtype)[:, None], boxes], dim=1)
        masks = self.masks[:, None].to(self.pixels.dtype)
        mask = roi_align(masks, rois, size, 1.0, 0, aligned=True)
        return crops[:, 0], crops[:, 1], mask[:, 0]
