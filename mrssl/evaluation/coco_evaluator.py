"""Box and mask average precision of labelled slices, overall and per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pycocotools import mask as mask_api

from mrssl.evaluation.coco_scoring import (
    COCO_AREAS,
    CocoScores,
    CocoSlice,
    encode_masks,
    score_coco,
    xywh,
)
from mrssl.evaluation.evaluator import Results, SliceEvaluator


class CocoEvaluator(SliceEvaluator):
    """COCO's AP by pycocotools, from ground truth in memory.

    Reports, under ``bbox`` and ``segm``, Detectron2's metrics, as shares in [0, 1]: ``AP`` (mean
    over IoU 0.50 to 0.95 and the classes that occur), ``AP50``, ``AP75``, ``APs``, ``APm``, ``APl``
    (regions up to 32 x 32 pixels, up to 96 x 96, and larger) and ``AP-<class>``. A class without
    ground truth is nan and left out of the means.

    Reads ``boxes``, ``classes``, ``scores`` and, for ``segm``, ``masks``.
    """

    def __init__(
        self, class_names: Sequence[str], *, iou_types: Sequence[str] = ("bbox", "segm")
    ) -> None:
        """Score detections of ``class_names``.

        Args:
            class_names: names of the classes 0, 1, ...
            iou_types: "bbox", "segm" or both.
        """
        super().__init__()
        self.class_names = list(class_names)
        self.iou_types = tuple(iou_types)

    def _record(self, truth: Mapping[str, Any], prediction: Mapping[str, Any]) -> CocoSlice:
        truths, detections = self._annotations(truth), self._annotations(prediction)
        for annotation, score in zip(detections, prediction["scores"], strict=True):
            annotation["score"] = float(score)
        size = (int(truth["height"]), int(truth["width"]))
        # As in COCO, a true region's area is its mask's in both; a detection's follows the type.
        return CocoSlice(int(truth["image_id"]), size, _with_mask_areas(truths), detections)

    def _annotations(self, regions: Mapping[str, Any]) -> list[dict[str, Any]]:
        annotations: list[dict[str, Any]] = [
            {"category_id": int(category), "bbox": box.tolist(), "area": float(box[2] * box[3])}
            for category, box in zip(regions["classes"], xywh(regions["boxes"]), strict=True)
        ]
        if "segm" in self.iou_types:
            masks = encode_masks(np.asarray(regions["masks"]))
            for annotation, rle in zip(annotations, masks, strict=True):
                annotation["segmentation"] = rle
        return annotations

    def _score(self, records: list[CocoSlice]) -> Results:
        return {iou_type: self._score_type(records, iou_type) for iou_type in self.iou_types}

    def _score_type(self, records: list[CocoSlice], iou_type: str) -> dict[str, float]:
        if iou_type == "segm":
            records = [
                replace(record, detections=_with_mask_areas(record.detections))
                for record in records
            ]
        scores = score_coco(
            records,
            num_categories=len(self.class_names),
            iou_type=iou_type,
            areas=list(COCO_AREAS.values()),
        )
        return self._metrics(scores)

    def _metrics(self, scores: CocoScores) -> dict[str, float]:
        metrics = {"AP": scores.ap(), "AP50": scores.ap(iou=0.5), "AP75": scores.ap(iou=0.75)}
        for position, suffix in enumerate(COCO_AREAS):
            metrics[f"AP{suffix}"] = scores.ap(area=position)
        for category, name in enumerate(self.class_names):
            metrics[f"AP-{name}"] = scores.ap(category=category)
        return metrics


def _with_mask_areas(annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**annotation, "area": float(mask_api.area(annotation["segmentation"]))}
        if "segmentation" in annotation
        else annotation
        for annotation in annotations
    ]
