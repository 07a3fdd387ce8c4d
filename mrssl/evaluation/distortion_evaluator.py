"""The pretext's first two questions: where is the slice distorted, and by what.

Shape letters: N regions or detections of a slice, K types, M matched detections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from mrssl.evaluation.coco_scoring import CocoSlice, score_coco, xywh
from mrssl.evaluation.evaluator import Results, SliceEvaluator
from mrssl.evaluation.metrics import average_precision, mean_of_finite

_MATCH_IOU = 0.5


class DistortionEvaluator(SliceEvaluator):
    """Average precision of finding distorted regions and of naming their distortion types.

    ``localization``, all types being the one category "distorted":

    - ``AP``, ``AP50``, ``AP75`` of COCO over the boxes;
    - ``AP50-<type>``: of the regions that have the type, over the slices with such a region; the
      detections of other regions count as neither right nor wrong there (COCO's crowds). nan where
      the type does not occur;
    - ``recall``, ``recall-<type>``: share of the regions matched at IoU 0.5 by a detection of at
      least ``score_threshold``;
    - ``false-detections``: of at least that score and matched to no region, per slice.

    ``type``: two questions, kept apart.

    - ``mAP``, with ``AP-<type>``: finding *and* naming. A ground-truth region is a ground truth of
      the category k for each of its types k; a detection becomes K detections, in category k with
      the score ``score * type_scores[k]``. AP at IoU 0.5 for each category, mean over the types
      that occur.
    - ``mAP-matched``, ``accuracy``: naming alone, over the detections that COCO's matching assigns
      to a ground truth at IoU 0.5 in ``localization``. For each type, the average precision of
      ``type_scores[k]`` as in multi-label classification, mean over the types that occur among
      them; and the share of them whose highest-scoring type is one of their region's.

    Of a detector without the type branch, whose predictions have no ``type_scores``, only
    ``localization`` is reported.

    Reads ``boxes``, ``types``, ``scores``, ``type_scores``.
    """

    def __init__(self, type_names: Sequence[str], *, score_threshold: float = 0.5) -> None:
        """Score detections.

        Args:
            type_names: in the order of the predicted ``type_scores``.
            score_threshold: of the detections that ``recall`` and ``false-detections`` count.
        """
        super().__init__()
        self.type_names = list(type_names)
        self.score_threshold = score_threshold

    def _record(self, truth: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
        num_types = len(self.type_names)
        record: dict[str, Any] = {
            "image_id": int(truth["image_id"]),
            "size": (int(truth["height"]), int(truth["width"])),
            "truth_boxes": xywh(truth["boxes"]),
            "types": np.asarray(truth["types"], bool).reshape(-1, num_types),
            "boxes": xywh(prediction["boxes"]),
            "scores": np.array(prediction["scores"], np.float64),
        }
        if len(record["types"]) != len(record["truth_boxes"]):
            raise ValueError(f"{len(record['truth_boxes'])} boxes, {len(record['types'])} types")
        if "type_scores" in prediction:
            scores = np.array(prediction["type_scores"], np.float64).reshape(-1, num_types)
            record["type_scores"] = scores
        counts = {len(record[key]) for key in ("boxes", "scores", "type_scores") if key in record}
        if len(counts) > 1:
            raise ValueError("predicted boxes, scores and type_scores differ in number")
        return record

    def _score(self, records: list[dict[str, Any]]) -> Results:
        localization = score_coco([_as_distorted(record) for record in records], num_categories=1)
        results = {
            "localization": {
                "AP": localization.ap(),
                "AP50": localization.ap(iou=0.5),
                "AP75": localization.ap(iou=0.75),
                **self._recall(records, localization.matches),
                **self._localization_by_type(records),
            }
        }
        if all("type_scores" in record for record in records):
            results["type"] = {
                **self._detection_precision(records),
                **_matched_precision(records, localization.matches),
            }
        return results

    def _recall(
        self, records: list[dict[str, Any]], matches: list[tuple[int, int]]
    ) -> dict[str, float]:
        sure = np.concatenate([record["scores"] for record in records]) >= self.score_threshold
        types = np.concatenate([record["types"] for record in records])  # (N, K)
        matched = [(detection, region) for detection, region in matches if sure[detection]]
        found = np.zeros(len(types))
        found[[region for _, region in matched]] = 1.0
        return {
            "recall": mean_of_finite(found),
            "false-detections": float(sure.sum() - len(matched)) / len(records),
            **{
                f"recall-{name}": mean_of_finite(found[types[:, index]])
                for index, name in enumerate(self.type_names)
            },
        }

    def _localization_by_type(self, records: list[dict[str, Any]]) -> dict[str, float]:
        return {
            f"AP50-{name}": _precision([_of_type(r, index) for r in records if _has(r, index)])
            for index, name in enumerate(self.type_names)
        }

    def _detection_precision(self, records: list[dict[str, Any]]) -> dict[str, float]:
        # A type at a time: all at once would hold every detection K times.
        per_type = {
            f"AP-{name}": _precision([_as_type(record, index) for record in records])
            for index, name in enumerate(self.type_names)
        }
        return {"mAP": mean_of_finite(list(per_type.values())), **per_type}


def _precision(slices: list[CocoSlice]) -> float:
    """AP at IoU 0.5 of slices with one category; nan without ground truth."""
    return score_coco(slices, num_categories=1, iou_thresholds=[_MATCH_IOU]).ap()


def _has(record: dict[str, Any], index: int) -> bool:
    return bool(record["types"][:, index].any())


def _as_distorted(record: dict[str, Any]) -> CocoSlice:
    return _item(record, record["truth_boxes"], record["scores"])


def _of_type(record: dict[str, Any], index: int) -> CocoSlice:
    """Regions with the type to be found, whatever the detections call them."""
    item = _as_distorted(record)
    for region, present in zip(item.truths, record["types"][:, index], strict=True):
        region["iscrowd"] = int(not present)
    return item


def _as_type(record: dict[str, Any], index: int) -> CocoSlice:
    """Regions with the type to be found and to be called by it."""
    return _item(
        record,
        record["truth_boxes"][record["types"][:, index]],
        record["scores"] * record["type_scores"][:, index],
    )


def _item(
    record: dict[str, Any], regions: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]
) -> CocoSlice:
    return CocoSlice(
        record["image_id"],
        record["size"],
        [_annotation(box) for box in regions],
        [
            {**_annotation(box), "score": float(score)}
            for box, score in zip(record["boxes"], scores, strict=True)
        ],
    )


def _annotation(box: npt.NDArray[np.float64]) -> dict[str, Any]:
    return {"category_id": 0, "bbox": box.tolist(), "area": float(box[2] * box[3])}


def _matched_precision(
    records: list[dict[str, Any]], matches: list[tuple[int, int]]
) -> dict[str, float]:
    detected, present = np.array(matches, int).reshape(-1, 2).T
    scores = np.concatenate([record["type_scores"] for record in records])[detected]  # (M, K)
    labels = np.concatenate([record["types"] for record in records])[present]  # (M, K)
    if not len(scores):
        return {"mAP-matched": float("nan"), "accuracy": float("nan")}
    per_type = [average_precision(scores[:, k], labels[:, k]) for k in range(labels.shape[1])]
    right = labels[np.arange(len(labels)), scores.argmax(axis=1)]
    return {"mAP-matched": mean_of_finite(per_type), "accuracy": float(right.mean())}
