"""COCO average precision by pycocotools, from memory: no files and nothing printed.

Values are shares in [0, 1], as pycocotools gives them; Detectron2 prints the same times 100.

Shape letters: T IoU thresholds, R = 101 recall thresholds, K categories, A area ranges.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

#: IoU thresholds of COCO's AP: 0.50, 0.55, ..., 0.95.
COCO_IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)

#: COCO's area ranges in square pixels.
COCO_AREAS = {
    "": (0.0, 1e10),
    "s": (0.0, 32.0**2),
    "m": (32.0**2, 96.0**2),
    "l": (96.0**2, 1e10),
}


@dataclass
class CocoSlice:
    """One slice's regions and detections in COCO's annotation format, without ids.

    Attributes:
        image_id: unique in the data set.
        size: height and width in pixels.
        truths: dicts with ``category_id``, ``bbox`` (XYWH), ``area``, ``segmentation`` (RLE)
            where masks are scored, and ``iscrowd`` 1 where a detection of it counts as neither
            right nor wrong.
        detections: the same, and ``score``.
    """

    image_id: int
    size: tuple[int, int]
    truths: list[dict[str, Any]] = field(default_factory=list)
    detections: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class CocoScores:
    """What pycocotools found.

    Attributes:
        precision: float64 (T, R, K, A), nan where a category has no ground truth.
        iou_thresholds: float64 (T,).
        matches: at the first IoU threshold, over all categories and areas "all": pairs of the
            position of a detection and of its ground truth, as counted through all slices in the
            order given.
    """

    precision: npt.NDArray[np.float64]
    iou_thresholds: npt.NDArray[np.float64]
    matches: list[tuple[int, int]]

    def ap(self, *, iou: float | None = None, category: int | None = None, area: int = 0) -> float:
        """Average precision: mean over recall, and over what is not chosen; nan if undefined.

        Args:
            iou: one of the IoU thresholds, or None for the mean over all.
            category: position of a category, or None for the mean over those that occur.
            area: position of an area range.
        """
        values = self.precision[..., area]
        if iou is not None:
            values = values[np.isclose(self.iou_thresholds, iou)]
        if category is not None:
            values = values[:, :, category]
        values = values[~np.isnan(values)]
        return float(values.mean()) if values.size else float("nan")


def score_coco(
    slices: Sequence[CocoSlice],
    *,
    num_categories: int,
    iou_type: str = "bbox",
    iou_thresholds: npt.ArrayLike = COCO_IOU_THRESHOLDS,
    areas: Sequence[tuple[float, float]] = (COCO_AREAS[""],),
    max_detections: int = 100,
) -> CocoScores:
    """Match detections to ground truth and take the precision at 101 recall thresholds.

    Args:
        slices: the whole data set; slices without regions count, with their false positives.
        num_categories: categories are 0 to ``num_categories - 1``.
        iou_type: "bbox" or "segm".
        iou_thresholds: (T,).
        areas: A ranges of square pixels, the first being the one that ``matches`` come from.
        max_detections: the highest-scoring ones of a slice and category that count.
    """
    if not any(item.truths for item in slices):
        shape = (np.size(iou_thresholds), 101, num_categories, len(areas))
        return CocoScores(np.full(shape, np.nan), np.asarray(iou_thresholds, float), [])
    with contextlib.redirect_stdout(io.StringIO()):
        truths = _coco([(item, item.truths) for item in slices], num_categories)
        detections = _coco([(item, item.detections) for item in slices], num_categories)
        run = COCOeval(truths, detections, iou_type)
        run.params.iouThrs = np.asarray(iou_thresholds, np.float64)
        run.params.areaRng = [list(area) for area in areas]
        run.params.areaRngLbl = [str(index) for index in range(len(areas))]
        run.params.maxDets = [max_detections]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., 0]
    precision = np.where(precision < 0, np.nan, precision)
    return CocoScores(precision, run.params.iouThrs, _first_matches(run, areas[0]))


def encode_masks(masks: npt.NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Compressed COCO RLE of bool (N, H, W) masks, with the counts as bytes."""
    if not len(masks):
        return []
    return mask_api.encode(np.asfortranarray(np.moveaxis(masks, 0, -1), dtype=np.uint8))


def decode_mask(rle: dict[str, Any]) -> npt.NDArray[np.bool_]:
    """The bool (H, W) mask of a compressed COCO RLE."""
    return mask_api.decode(rle).astype(bool)


def xywh(boxes: npt.NDArray) -> npt.NDArray[np.float64]:
    """COCO's XYWH of (N, 4) XYXY boxes."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _coco(items: list[tuple[CocoSlice, list[dict[str, Any]]]], num_categories: int) -> COCO:
    coco = COCO()
    annotations = [
        {"iscrowd": 0, **annotation, "image_id": item.image_id}
        for item, item_annotations in items
        for annotation in item_annotations
    ]
    for position, annotation in enumerate(annotations):
        annotation["id"] = position + 1  # 0 would read as "not matched"
    coco.dataset = {
        "images": [
            {"id": item.image_id, "height": item.size[0], "width": item.size[1]}
            for item, _ in items
        ],
        "categories": [{"id": index, "name": str(index)} for index in range(num_categories)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _first_matches(run: COCOeval, area: tuple[float, float]) -> list[tuple[int, int]]:
    found = [
        (detection - 1, int(truth) - 1)
        for image in run.evalImgs
        if image is not None and tuple(image["aRng"]) == tuple(area)
        for detection, truth in zip(image["dtIds"], image["dtMatches"][0], strict=True)
        if truth > 0
    ]
    return sorted(found)
