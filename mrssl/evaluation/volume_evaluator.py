"""Segmentation in 3-D: Dice, HD95 and ASSD per subject and class, from slice-wise predictions.

Shape letters: D slices of a volume, H, W rows and columns of a slice, N instances of a slice.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from mrssl.evaluation.coco_scoring import decode_mask, encode_masks
from mrssl.evaluation.evaluator import EvaluationError, Results, SliceEvaluator
from mrssl.evaluation.joining import instances_of
from mrssl.evaluation.metrics import dice, dice_of_counts, mean_of_finite
from mrssl.evaluation.naming import label_volume, slicewise_volume
from mrssl.evaluation.surface import surface_distances
from mrssl.structures import ClassLayout

_logger = logging.getLogger(__name__)

_TASKS = ("dice", "hd95", "assd")
_SLICEWISE = "slicewise"


class VolumeEvaluator(SliceEvaluator):
    """Dice, HD95 and ASSD of volumes assembled from the instances of their slices.

    The slices of a volume (equal ``file_name`` and ``series``) are stacked by ``slice_index``. With
    a ``layout``, the structures of the volume are named together, as :mod:`mrssl.evaluation.naming`
    says. Without one, in each slice a pixel takes the class of the highest-scoring instance that
    covers it, of those with a score of at least ``score_threshold``. Reported, for each class a
    mean over subjects (a subject's volumes are averaged first), then a mean over classes:

    - ``dice``: ``dice``, ``dice-<class>``; ``foreground``, all classes merged into one; and
      ``instances``, which forgives a wrong class: in each slice predicted and true instances are
      paired one to one for the largest overlap, and the overlap of the pairs counts,
      ``2 sum |P and T| / (sum |P| + sum |T|)`` over all instances of the volume, paired or not.
      Where ``instances`` is high and ``dice`` low, the outlines are right and the names wrong.
      With a layout also ``slicewise``: ``dice`` as it would be without, the same mean.
    - ``hd95``, ``assd``: mm, by :mod:`mrssl.evaluation.surface`, and per class.

    Conventions: a class absent from truth and prediction of a volume is nan there and left out of
    the means. Absent from only one of them: Dice 0, and HD95 and ASSD are the volume's diagonal, so
    that missing a structure altogether is never better than outlining it badly. ``hd95/missed`` is
    how many times that happened.

    :attr:`per_subject`, after :meth:`evaluate`, is one row a subject: ``{"subject_id", "volumes",
    "dice": {...}, "hd95": {...}, "assd": {...}}``, with the same metrics.

    Reads ``masks``, ``classes``, ``scores``, ``file_name``, ``series``, ``subject_id``,
    ``slice_index``, ``num_slices``, ``spacing``, ``height``, ``width``.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        score_threshold: float = 0.5,
        layout: ClassLayout | None = None,
    ) -> None:
        """Score instances of ``class_names``.

        Args:
            class_names: names of the classes 0, 1, ...
            score_threshold: instances with a lower score are left out, in [0, 1].
            layout: of the classes, to name the structures of a volume together.

        Raises:
            EvaluationError: the layout is of another number of classes.
        """
        super().__init__()
        if layout is not None and layout.num_classes != len(class_names):
            raise EvaluationError(
                f"a layout of {layout.num_classes} classes for {len(class_names)} classes"
            )
        self.class_names = list(class_names)
        self.score_threshold = score_threshold
        self.layout = layout
        self.per_subject: list[dict[str, Any]] = []

    def _record(self, truth: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
        size = (int(truth["height"]), int(truth["width"]))
        scores = np.asarray(prediction["scores"])
        masks = np.asarray(prediction["masks"], bool)
        order = np.argsort(-scores, kind="stable")
        predicted = flatten_instances(masks[order[scores[order] >= self.score_threshold]], size)
        true = flatten_instances(np.asarray(truth["masks"], bool), size)
        return {
            "volume": (str(truth["file_name"]), str(truth.get("series", ""))),
            "subject_id": str(truth["subject_id"]),
            "slice_index": int(truth["slice_index"]),
            "num_slices": int(truth["num_slices"]),
            "spacing": tuple(float(step) for step in truth["spacing"]),
            "size": size,
            "found": instances_of(prediction),
            "true": _encode_classes(true, np.asarray(truth["classes"])),
            "instances": _paired_counts(predicted, true),
        }

    def _score(self, records: list[dict[str, Any]]) -> Results:
        volumes: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for record in records:
            volumes[record["volume"]].append(record)
        subjects: dict[str, list[Results]] = defaultdict(list)
        for _, slices in sorted(volumes.items()):
            subjects[slices[0]["subject_id"]].append(self._score_volume(slices))
        means = {subject: self._mean(rows) for subject, rows in sorted(subjects.items())}
        self.per_subject = [
            {"subject_id": subject, "volumes": len(subjects[subject]), **_reported(mean)}
            for subject, mean in means.items()
        ]
        return _reported(self._mean(list(means.values())))

    def _score_volume(self, slices: list[dict[str, Any]]) -> Results:
        true = true_volume(slices)
        spacing = slices[0]["spacing"]
        found = {record["slice_index"]: record["found"] for record in slices}
        predicted = label_volume(
            found, true.shape, spacing, layout=self.layout, threshold=self.score_threshold
        )
        results: Results = {task: {} for task in _TASKS}
        if self.layout is not None:
            separate = slicewise_volume(found, true.shape, threshold=self.score_threshold)
            results[_SLICEWISE] = {
                f"{_SLICEWISE}-{name}": dice(separate == c + 1, true == c + 1)
                for c, name in enumerate(self.class_names)
            }
        scores = score_labels(predicted, true, spacing, len(self.class_names))
        for task in _TASKS:
            for name, value in zip(self.class_names, scores[task], strict=True):
                results[task][f"{task}-{name}"] = value
        results["dice"]["foreground"] = dice(predicted > 0, true > 0)
        paired = np.sum([record["instances"] for record in slices], axis=0)
        results["dice"]["instances"] = dice_of_counts(*paired.tolist())
        results["hd95"]["missed"] = scores["missed"]
        return results

    def _mean(self, rows: Sequence[Mapping[str, Any]]) -> Results:
        """Mean of each metric over ``rows``, and of each task's classes; ``missed`` is summed."""
        means: Results = {}
        for task in rows[0]:
            columns = {
                metric: [row[task][metric] for row in rows]
                for metric in rows[0][task]
                if metric != task
            }
            metrics = {metric: mean_of_finite(column) for metric, column in columns.items()}
            classes = [metrics[f"{task}-{name}"] for name in self.class_names]
            means[task] = {task: mean_of_finite(classes), **metrics}
            if "missed" in columns:
                means[task]["missed"] = float(sum(columns["missed"]))
        return means


def _reported(means: Results) -> Results:
    """The tasks; of what slices named by themselves score, the mean over classes beside Dice's."""
    results = {task: dict(means[task]) for task in _TASKS}
    if _SLICEWISE in means:
        results["dice"][_SLICEWISE] = means[_SLICEWISE][_SLICEWISE]
    return results


def flatten_instances(masks: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.int32]:
    """Let each pixel belong to the first of the (N, H, W) masks that covers it.

    Returns:
        int32 (H, W): 0 where there is none, else the position of the mask plus 1.
    """
    labels = np.zeros(size, np.int32)
    for index in reversed(range(len(masks))):
        labels[masks[index]] = index + 1
    return labels


def true_volume(slices: list[dict[str, Any]]) -> npt.NDArray[np.uint16]:
    """Stack the records of a volume's slices to its true label map.

    Slices that were not evaluated are empty.

    Returns:
        uint16 (D, H, W): 0 background, else the class plus 1.

    Raises:
        EvaluationError: slices of different size, or a slice beyond the volume.
    """
    first = slices[0]
    shape = (first["num_slices"], *first["size"])
    labels = np.zeros(shape, np.uint16)
    for record in slices:
        if record["size"] != first["size"] or not 0 <= record["slice_index"] < shape[0]:
            raise EvaluationError(
                f"{record['volume'][0]}: slice {record['slice_index']} of size {record['size']} "
                f"does not fit into a volume of shape {shape}"
            )
        for category, rle in record["true"]:
            labels[record["slice_index"]][decode_mask(rle)] = category + 1
    if len(slices) < shape[0]:
        _logger.warning("%s: %d of %d slices evaluated", first["volume"][0], len(slices), shape[0])
    return labels


def score_labels(
    predicted: npt.NDArray[np.integer],
    true: npt.NDArray[np.integer],
    spacing: Sequence[float],
    num_classes: int,
) -> dict[str, Any]:
    """Dice, HD95 and ASSD of each class of two label maps.

    Args:
        predicted: int (D, H, W): 0 background, else the class plus 1.
        true: the same.
        spacing: mm along D, H, W.
        num_classes: classes are 0 to ``num_classes - 1``.

    Returns:
        ``dice``, ``hd95``, ``assd``: lists of ``num_classes`` values, by the conventions of
        :class:`VolumeEvaluator`; ``missed``: the number of classes in only one of the maps.
    """
    diagonal = float(np.linalg.norm(np.multiply(true.shape, spacing)))
    scores: dict[str, Any] = {"dice": [], "hd95": [], "assd": [], "missed": 0}
    for category in range(num_classes):
        masks = [labels == category + 1 for labels in (predicted, true)]
        present = [mask.any() for mask in masks]
        values = (float("nan"),) * 3
        if all(present):
            distances = surface_distances(masks[0], masks[1], spacing)
            values = (dice(masks[0], masks[1]), distances.hd95, distances.assd)
        elif any(present):
            values = (0.0, diagonal, diagonal)
            scores["missed"] += 1
        for task, value in zip(_TASKS, values, strict=True):
            scores[task].append(value)
    return scores


def _encode_classes(
    labels: npt.NDArray[np.int32], classes: npt.NDArray[np.integer]
) -> list[tuple[int, dict[str, Any]]]:
    """Run lengths of each class of a map of instances: ``(class, RLE)``."""
    class_map = np.concatenate([[-1], classes]).astype(np.int64)[labels]
    present = np.unique(class_map[class_map >= 0])
    rles = encode_masks(class_map[None] == present[:, None, None])
    return [(int(category), rle) for category, rle in zip(present, rles, strict=True)]


def _paired_counts(
    predicted: npt.NDArray[np.int32], true: npt.NDArray[np.int32]
) -> tuple[int, int, int]:
    """Pixels in common of the best one-to-one pairs of instances, predicted, and true pixels."""
    columns = int(true.max(initial=0)) + 1
    rows = int(predicted.max(initial=0)) + 1
    pairs = predicted.ravel().astype(np.int64) * columns + true.ravel()
    overlaps = np.bincount(pairs, minlength=rows * columns).reshape(rows, columns)
    overlaps = overlaps[1:, 1:]
    common = overlaps[linear_sum_assignment(overlaps, maximize=True)].sum()
    return int(common), int(np.count_nonzero(predicted)), int(np.count_nonzero(true))
