"""Pictures of a model at work, for TensorBoard, the demo and the reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from mrssl.data.mapper import INTENSITY_SCALE

#: RGB colours of instances or classes: the qualitative map Set1 of ColorBrewer.
COLORS = np.array(
    [
        (228, 26, 28),
        (55, 126, 184),
        (77, 175, 74),
        (152, 78, 163),
        (255, 127, 0),
        (255, 255, 51),
        (166, 86, 40),
        (247, 129, 191),
    ],
    np.uint8,
)


def gray_to_rgb(image: np.ndarray) -> np.ndarray:
    """Float (H, W) in [0, 1] -> uint8 (H, W, 3)."""
    return np.repeat((np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)[..., None], 3, axis=2)


def draw_masks(
    image: np.ndarray, masks: np.ndarray, colors: Sequence[int] | np.ndarray = ()
) -> np.ndarray:
    """Outline masks, bool (N, H, W), on a picture, uint8 (H, W, 3); ``colors`` indexes COLORS."""
    out = image.copy()
    for i, mask in enumerate(masks):
        color = COLORS[(colors[i] if len(colors) else i) % len(COLORS)]
        contours, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(out, contours, -1, tuple(int(c) for c in color), 1)
    return out


def restoration_grid(
    samples: Sequence[Mapping[str, Any]],
    outputs: Sequence[Mapping[str, np.ndarray]],
    *,
    score_threshold: float = 0.5,
) -> np.ndarray:
    """A row a slice: distorted | restored | clean while pretraining, else found | labelled.

    Args:
        samples: of the core's mapper.
        outputs: predictions of the same slices.
        score_threshold: detections below are not drawn.

    Returns:
        uint8 (rows x H, columns x W, 3); slices are padded to the largest.
    """
    rows = []
    for sample, output in zip(samples, outputs, strict=True):
        middle = len(sample["image"]) // 2
        seen = sample["image"][middle] / INTENSITY_SCALE
        found = output["scores"] >= score_threshold
        masks = output.get("masks", np.zeros((len(found), *seen.shape), bool))[found]
        if "clean" in sample:
            distorted = draw_masks(draw_masks(gray_to_rgb(seen), sample["masks"], [2] * 99), masks)
            restored = gray_to_rgb(output.get("restored", seen))
            clean = gray_to_rgb(sample["clean"][middle] / INTENSITY_SCALE)
            rows.append([distorted, restored, clean])
        else:
            grid = (int(sample["height"]), int(sample["width"]))
            picture = gray_to_rgb(cv2.resize(seen, grid[::-1]))
            truth = draw_masks(picture, sample["masks"], sample["classes"])
            rows.append([draw_masks(picture, masks, output["classes"][found]), truth])
    height = max(cell.shape[0] for row in rows for cell in row)
    width = max(cell.shape[1] for row in rows for cell in row)
    return np.concatenate(
        [np.concatenate([_pad(cell, height, width) for cell in row], axis=1) for row in rows]
    )


def _pad(image: np.ndarray, height: int, width: int) -> np.ndarray:
    below, right = height - image.shape[0], width - image.shape[1]
    return np.pad(image, ((0, below), (0, right), (0, 0)))
