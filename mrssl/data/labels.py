"""Label volumes: aligned with their image, and cut into instance masks a slice."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import cv2
import numpy as np

from mrssl.errors import MrsslError
from mrssl.structures.volume import Volume, matching_transform, transformed_geometry

INSTANCE_MODES = ("class", "component")

#: The label values of one class: one value, or several that make it up together (nnU-Net regions).
ClassValues = int | tuple[int, ...]

#: Label and image may disagree about a voxel's place by this share of a voxel.
_PLACE_TOLERANCE = 0.5


def check_label_geometry(
    image_shape: tuple[int, ...],
    image_affine: np.ndarray,
    label_shape: tuple[int, int, int],
    label_affine: np.ndarray,
) -> tuple[np.ndarray, float]:
    """How to turn a label volume's axes to its image's, and how well their places agree.

    Returns:
        (3, 2) orientation array for :meth:`Volume.reoriented`, and how far the label's voxels lie
        from the image's, mm, at most; 0 where that is within a voxel's half.

    Raises:
        MrsslError: shapes that differ after turning.
    """
    turn = matching_transform(label_affine, image_affine)
    shape, affine = transformed_geometry(label_shape, label_affine, turn)
    if shape != tuple(image_shape):
        raise MrsslError(f"label of shape {shape}, image of shape {tuple(image_shape)}")
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    corners = np.vstack([corners, np.ones(corners.shape[1])])
    apart = np.linalg.norm(((affine - image_affine) @ corners)[:3], axis=0).max()
    voxel = float(np.linalg.norm(image_affine[:3, :3], axis=0).min())
    return turn, float(apart) if apart > _PLACE_TOLERANCE * voxel else 0.0


def align_label(
    label: Volume, image_affine: np.ndarray, image_shape: tuple[int, ...]
) -> np.ndarray:
    """Label values on the image's grid.

    Returns:
        (D, H, W) int32.

    Raises:
        MrsslError: another shape, or values that are not whole numbers.
    """
    turn, _ = check_label_geometry(image_shape, image_affine, label.shape, label.affine)
    array = label.reoriented(turn).array
    values = np.rint(array)
    if np.abs(values - array).max() > 1e-3:
        raise MrsslError("label values are not whole numbers: this looks like an image")
    return np.ascontiguousarray(values, dtype=np.int32)


def values_of_class(values: ClassValues) -> tuple[int, ...]:
    """The label values of a class, of which there are one or several."""
    return values if isinstance(values, tuple) else (values,)


def overlapping_classes(class_values: Sequence[ClassValues]) -> list[tuple[int, int]]:
    """Pairs of classes, 0-based, that share a label value, such as nnU-Net's nested regions."""
    sets = [set(values_of_class(values)) for values in class_values]
    return [(a, b) for a, b in combinations(range(len(sets)), 2) if sets[a] & sets[b]]


def instances_of_slice(
    label: np.ndarray,
    class_values: Sequence[ClassValues],
    mode: str = "class",
    min_pixels: int = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """Instance masks of one slice.

    Args:
        label: (H, W) int, label values.
        class_values: the label value (or values) of each class, in class order.
        mode: "class": all pixels of a class are one instance; "component": each 8-connected
            component is one.
        min_pixels: smaller instances are left out.

    Returns:
        masks (N, H, W) bool, and classes (N,) int64, 0-based; by class, then from top to bottom.

    Raises:
        MrsslError: an unknown mode.
    """
    if mode not in INSTANCE_MODES:
        raise MrsslError(f"instances {mode!r}: one of {', '.join(INSTANCE_MODES)} is needed")
    masks: list[np.ndarray] = []
    classes: list[int] = []
    present = set(np.unique(label).tolist())
    for index, values in enumerate(class_values):
        values = values_of_class(values)
        if present.isdisjoint(values):
            continue
        mask = label == values[0] if len(values) == 1 else np.isin(label, values)
        for part in _components(mask) if mode == "component" else [mask]:
            if np.count_nonzero(part) >= max(1, min_pixels):
                masks.append(part)
                classes.append(index)
    stacked = np.stack(masks) if masks else np.zeros((0, *label.shape), bool)
    return stacked, np.array(classes, dtype=np.int64)


def _components(mask: np.ndarray) -> list[np.ndarray]:
    count, numbered = cv2.connectedComponents(mask.view(np.uint8), connectivity=8)
    return [numbered == number for number in range(1, count)]


def boxes_of_masks(masks: np.ndarray) -> np.ndarray:
    """Tight boxes around masks (N, H, W): (N, 4) float32 XYXY, right and bottom exclusive."""
    boxes = np.zeros((len(masks), 4), np.float32)
    for box, mask in zip(boxes, masks, strict=True):
        x, y, width, height = cv2.boundingRect(np.ascontiguousarray(mask, bool).view(np.uint8))
        box[:] = x, y, x + width, y + height
    return boxes


def annotations_of_slice(masks: np.ndarray, classes: np.ndarray) -> list[dict[str, Any]]:
    """Instances as Detectron2's annotation dicts, masks as COCO RLE with text counts."""
    from pycocotools import mask as coco

    annotations = []
    for mask, box, category in zip(masks, boxes_of_masks(masks), classes, strict=True):
        rle = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
        annotations.append(
            {
                "category_id": int(category),
                "bbox": [float(value) for value in box],
                "bbox_mode": 0,  # XYXY_ABS
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
                "iscrowd": 0,
            }
        )
    return annotations


__all__ = [
    "INSTANCE_MODES",
    "ClassValues",
    "align_label",
    "annotations_of_slice",
    "boxes_of_masks",
    "check_label_geometry",
    "instances_of_slice",
    "overlapping_classes",
    "values_of_class",
]
