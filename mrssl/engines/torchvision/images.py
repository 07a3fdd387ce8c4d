"""What every model of this engine does with its input images."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

SIZE_DIVISIBILITY = 32


class SliceModel(nn.Module):
    """Normalises and pads a batch of slices.

    Args:
        pixel_mean, pixel_std: one number a channel, in the range [0, 255] of the images.
    """

    def __init__(self, *, pixel_mean: list[float], pixel_std: list[float]) -> None:
        super().__init__()
        shape = (-1, 1, 1)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(shape), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(shape), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def preprocess(self, inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise the images and pad them at the right and bottom to one size."""
        images = [x["image"].to(self.device, non_blocking=True) for x in inputs]
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        height, width = (
            -(-max(side) // SIZE_DIVISIBILITY) * SIZE_DIVISIBILITY
            for side in zip(*sizes, strict=True)
        )
        mean, std = self.pixel_mean, self.pixel_std
        padded = [
            F.pad((image - mean) / std, (0, width - image.shape[-1], 0, height - image.shape[-2]))
            for image in images
        ]
        return ImageList(torch.stack(padded), sizes)


__all__ = ["SIZE_DIVISIBILITY", "SliceModel"]
