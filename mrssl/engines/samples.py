"""The core's samples and predictions, as both engines and the evaluators take them.

Shape letters: C channels, H, W the slice as the network sees it, R detections, M, S crops' sides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mrssl.data.mapper import INTENSITY_SCALE, METADATA
from mrssl.modeling import restore_slice
from mrssl.structures import RestorationTargets, SlicePosition


def restoration_targets(sample: Mapping[str, Any]) -> RestorationTargets:
    """Distorted and clean pixels of the slice itself, of a sample of the pretext."""
    middle = len(sample["image"]) // 2
    pixels = np.stack([sample["image"][middle], sample["clean"][middle]])
    return RestorationTargets(
        torch.from_numpy(pixels / np.float32(INTENSITY_SCALE)),
        torch.from_numpy(np.ascontiguousarray(sample["masks"])),
    )


def slice_position(sample: Mapping[str, Any]) -> SlicePosition:
    """Where a slice of the pretext lies in its volume."""
    return SlicePosition(torch.from_numpy(sample["to_volume"]), len(sample["boxes"]))


def ground_truth(sample: Mapping[str, Any]) -> dict[str, Any]:
    """What evaluators need of a sample: metadata, boxes, masks and, of the pretext, the pixels."""
    keys = (*METADATA, "boxes", "classes", "masks", "types")
    truth = {key: sample[key] for key in keys if key in sample}
    if "clean" in sample:
        middle = len(sample["image"]) // 2
        truth["clean"] = sample["clean"][middle] / INTENSITY_SCALE
        truth["distorted"] = sample["image"][middle] / INTENSITY_SCALE
    return truth


def restored_slice(
    image: Tensor,
    size: tuple[int, int],
    *,
    residuals: Tensor,
    probabilities: Tensor | None,
    boxes: Tensor,
    scores: Tensor,
) -> Tensor:
    """Add what was found in a slice to it, on the grid of the output.

    Args:
        image: float (C, H, W) in [0, 255], the network's input.
        size: height and width of the output.
        residuals: float (R, S, S), clean minus distorted, of the intensity range [0, 1].
        probabilities: float (R, M, M) in [0, 1], of the masks; without a mask branch None: boxes
            are restored whole.
        boxes: float (R, 4), XYXY pixels of the output.
        scores: float (R,).

    Returns:
        float32 (height, width) in [0, 1].
    """
    middle = image[len(image) // 2] / INTENSITY_SCALE
    if size != tuple(middle.shape):
        middle = F.interpolate(middle[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    if probabilities is None:
        probabilities = residuals.new_ones(residuals.shape)
    return restore_slice(middle, residuals, probabilities, boxes, scores)
