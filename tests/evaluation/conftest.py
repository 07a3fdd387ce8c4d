"""Slices made by hand for the evaluators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

Slice = dict[str, Any]


def _boxes_to_masks(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.astype(int), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


@pytest.fixture
def make_truth() -> Callable[..., Slice]:
    """Ground truth of a 64 x 64 slice whose regions are filled boxes."""

    def make(image_id: int = 0, boxes: Any = (), classes: Any = None, **fields: Any) -> Slice:
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        size = fields.pop("size", (64, 64))
        truth = {
            "image_id": image_id,
            "file_name": "a.nii.gz",
            "series": "",
            "slice_index": image_id,
            "num_slices": 1,
            "subject_id": "a",
            "spacing": [1.0, 1.0, 1.0],
            "height": size[0],
            "width": size[1],
            "boxes": boxes,
            "classes": np.zeros(len(boxes), np.int64) if classes is None else np.array(classes),
            "masks": _boxes_to_masks(boxes, size),
        }
        return {**truth, **fields}

    return make


@pytest.fixture
def make_prediction() -> Callable[..., Slice]:
    """Detections in a 64 x 64 slice, with filled boxes as masks."""

    def make(boxes: Any = (), scores: Any = (), classes: Any = None, **fields: Any) -> Slice:
        boxes = np.array(boxes, np.float32).reshape(-1, 4)
        prediction = {
            "boxes": boxes,
            "scores": np.array(scores, np.float32),
            "classes": np.zeros(len(boxes), np.int64) if classes is None else np.array(classes),
            "masks": _boxes_to_masks(boxes, fields.pop("size", (64, 64))),
        }
        return {**prediction, **fields}

    return make


@pytest.fixture
def random_slices(
    make_truth: Callable[..., Slice], make_prediction: Callable[..., Slice]
) -> Callable[..., tuple[list[Slice], list[Slice]]]:
    """Two volumes of four slices, 3 classes and types, with detections near and far, and ties."""

    def make(seed: int = 0) -> tuple[list[Slice], list[Slice]]:
        rng = np.random.default_rng(seed)
        truths, predictions = [], []
        for image_id in range(8):
            count = int(rng.integers(0, 4))
            corners = rng.integers(0, 40, (count, 2))
            boxes = np.concatenate([corners, corners + rng.integers(4, 24, (count, 2))], axis=1)
            clean = rng.random((64, 64), np.float32)
            truth = make_truth(
                image_id,
                boxes,
                rng.integers(0, 3, count),
                file_name=f"{image_id // 4}.nii.gz",
                subject_id=f"subject {image_id // 4}",
                slice_index=image_id % 4,
                num_slices=4,
                spacing=[3.0, 0.7, 0.9],
                types=np.eye(3, dtype=np.float32)[rng.integers(0, 3, count)],
                clean=clean,
                distorted=np.clip(clean + 0.2 * rng.random((64, 64), np.float32), 0, 1),
            )
            moved = np.clip(
                np.repeat(boxes, 2, axis=0) + rng.integers(-3, 4, (2 * count, 4)), 0, 64
            )
            moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
            prediction = make_prediction(
                moved,
                rng.integers(1, 11, len(moved)) / 10,
                rng.integers(0, 3, len(moved)),
                type_scores=rng.random((len(moved), 3)),
                restored=rng.random((64, 64), np.float32),
            )
            truths.append(truth)
            predictions.append(prediction)
        return truths, predictions

    return make
