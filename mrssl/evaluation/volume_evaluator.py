"""Segmentation in 3-D: Dice, HD95 and ASSD per subject and class, from slice-wise predictions.

Shape letters: D slices of a volume, H, W rows and columns of a slice, N instances of a slice.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from mrssl.evaluation.evaluator import EvaluationError, Results, SliceEvaluator
from mrssl.evaluation.joining import Instance, instances_of, overlapping_classes, things_of_slice
from mrssl.evaluation.metrics import dice, dice_of_counts, mean_of_finite
from mrssl.evaluation.naming import class_volumes
from mrssl.evaluation.pairing import paired_counts
from mrssl.evaluation.surface import surface_distances
from mrssl.structures import ClassLayout

_logger = logging.getLogger(__name__)

_TASKS = ("dice", "hd95", "assd")
_SLICEWISE = "slicewise"
#: File name and series.
_Volume = tuple[str, str]


class VolumeEvaluator(SliceEvaluator):
    """Dice, HD95 and ASSD of volumes assembled from the instances of their slices.

    The slices of a volume (equal ``file_name`` and ``series``) are stacked by ``slice_index``. With
    a ``layout``, the structures of the volume are named together, as :mod:`mrssl.evaluation.naming`
    says. Without one, in each slice a pixel takes the class of the highest-scoring instance that
    covers it, of those with a score of at least ``score_threshold``. Classes that overlap, such as
    nnU-Net's regions, take no pixels from each other, and where there are any a layout is left
    aside; truth is taken as it is. Reported, for each class a mean over subjects (a subject's
    volumes are averaged first), then a mean over classes:

    - ``dice``: ``dice``, ``dice-<class>``; ``foreground``, all classes merged into one; and
      ``instances``, which forgives a wrong class: in each slice predicted and true instances are
      paired one to one for the largest overlap, and the overlap of the pairs counts,
      ``2 sum |P and T| / (sum |P| + sum |T|)`` over all instances of the volume, paired or not.
      A pixel of several belongs to the surest, and to those whose classes overlap with its. With
      a layout things count whose scores of all classes together reach the threshold, also those
      that it gives no name: structures too many lower ``instances``, and not ``dice``.
      Where ``instances`` is high and ``dice`` low, the outlines are right and the names wrong.
      With a layout also ``slicewise``: ``dice`` as it would be without, the same mean.
    - ``hd95``, ``assd``: mm, by :mod:`mrssl.evaluation.surface`, and per class.

    Conventions: a class absent from truth and prediction of a volume is nan there and left out of
    the means. Absent from only one of them: Dice 0, and HD95 and ASSD are the volume's diagonal, so
    that missing a structure altogether is never better than outlining it badly. ``hd95/missed`` is
    how many times that happened.

    :attr:`per_subject`, after :meth:`evaluate`, is one row a subject: ``{"subject_id", "volumes",
    "dice": {...}, "hd95": {...}, "assd": {...}}``, with the same metrics.

    Where the overlapping classes are given, a volume is scored as soon as all its slices are there,
    and only its figures are kept.

    Reads ``masks``, ``classes``, ``scores``, ``file_name``, ``series``, ``subject_id``,
    ``slice_index``, ``num_slices``, ``spacing``, ``height``, ``width``, and ``axes``, the sides of
    the patient that D, H and W run to, where it is given.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        *,
        score_threshold: float = 0.5,
        layout: ClassLayout | None = None,
        overlapping: Collection[tuple[int, int]] | None = None,
    ) -> None:
        """Score instances of ``class_names``.

        Args:
            class_names: names of the classes 0, 1, ...
            score_threshold: instances with a lower score are left out, in [0, 1].
            layout: of the classes, to name the structures of a volume together.
            overlapping: pairs of classes of which a pixel may be both; None takes those that
                overlap in the truth, of all slices together.

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
        self.overlapping = overlapping
        self.per_subject: list[dict[str, Any]] = []
        self._waiting: dict[_Volume, list[int]] = defaultdict(list)
        self._scored: dict[_Volume, tuple[str, Results]] = {}

    def reset(self) -> None:
        """See :meth:`Evaluator.reset`."""
        super().reset()
        self._waiting.clear()
        self._scored = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """See :meth:`Evaluator.process`."""
        if self.overlapping is None:
            return super().process(inputs, outputs)
        known = set(self._records)
        pairs = zip(inputs, outputs, strict=True)
        new = [pair for pair in pairs if _volume_of(pair[0]) not in self._scored]
        super().process([truth for truth, _ in new], [found for _, found in new])
        for key in self._records.keys() - known:
            record = self._records[key][1]
            ids = self._waiting[record["volume"]]
            ids.append(key)
            if len(ids) == record["num_slices"]:
                slices = [self._records.pop(i)[1] for i in self._waiting.pop(record["volume"])]
                self._scored[record["volume"]] = self._scored_volume(slices)

    def evaluate(self) -> Results:
        """See :meth:`Evaluator.evaluate`."""
        return self._score([]) if self._scored and not self._records else super().evaluate()

    def state(self) -> Any:
        """See :meth:`Evaluator.state`."""
        return super().state(), dict(self._scored)

    def merge(self, states: Iterable[Any]) -> None:
        """See :meth:`Evaluator.merge`."""
        records, scored = zip(*states, strict=True)
        super().merge(records)
        self._scored = {volume: row for rows in scored for volume, row in rows.items()}
        self._records = {
            key: filed
            for key, filed in self._records.items()
            if filed[1]["volume"] not in self._scored
        }

    def _record(self, truth: Mapping[str, Any], prediction: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "volume": _volume_of(truth),
            "subject_id": str(truth["subject_id"]),
            "slice_index": int(truth["slice_index"]),
            "num_slices": int(truth["num_slices"]),
            "spacing": tuple(float(step) for step in truth["spacing"]),
            "axes": str(truth.get("axes", "")),
            "size": (int(truth["height"]), int(truth["width"])),
            "found": instances_of(prediction),
            "true": instances_of({**truth, "scores": np.ones(len(truth["classes"]))}),
        }

    def _score(self, records: list[dict[str, Any]]) -> Results:
        volumes: dict[_Volume, list[dict[str, Any]]] = defaultdict(list)
        for record in records:
            volumes[record["volume"]].append(record)
        overlapping = self._overlapping(records)
        if overlapping and self.layout is not None:
            names = ", ".join(self.class_names[c] for c in sorted(set(chain(*overlapping))))
            _logger.warning("classes overlap (%s): structures are not named together", names)
        scored = self._scored | {
            volume: self._scored_volume(slices, overlapping) for volume, slices in volumes.items()
        }
        subjects: dict[str, list[Results]] = defaultdict(list)
        for _, (subject, row) in sorted(scored.items()):
            subjects[subject].append(row)
        means = {subject: self._mean(rows) for subject, rows in sorted(subjects.items())}
        self.per_subject = [
            {"subject_id": subject, "volumes": len(subjects[subject]), **_reported(mean)}
            for subject, mean in means.items()
        ]
        return _reported(self._mean(list(means.values())))

    def _overlapping(self, records: list[dict[str, Any]]) -> Collection[tuple[int, int]]:
        if self.overlapping is not None:
            return self.overlapping
        return set(chain.from_iterable(overlapping_classes(record["true"]) for record in records))

    def _scored_volume(
        self,
        slices: list[dict[str, Any]],
        overlapping: Collection[tuple[int, int]] | None = None,
    ) -> tuple[str, Results]:
        """Subject and figures of a volume; ``overlapping`` where it is not this evaluator's."""
        overlapping = (self.overlapping or ()) if overlapping is None else overlapping
        layout = None if overlapping else self.layout
        return slices[0]["subject_id"], self._score_volume(slices, overlapping, layout)

    def _score_volume(
        self,
        slices: list[dict[str, Any]],
        overlapping: Collection[tuple[int, int]],
        layout: ClassLayout | None,
    ) -> Results:
        shape, spacing = volume_shape(slices), slices[0]["spacing"]
        layout = layout and layout.along(slices[0]["axes"])
        found, true = (
            {record["slice_index"]: record[key] for record in slices} for key in ("found", "true")
        )
        volumes = partial(
            class_volumes, shape=shape, spacing=spacing, num_classes=len(self.class_names)
        )
        predict = partial(volumes, found, overlapping=overlapping, threshold=self.score_threshold)
        # Nothing takes a pixel from a class of the truth.
        truth = partial(volumes, true, overlapping=[*combinations(range(len(self.class_names)), 2)])
        results: Results = {task: {} for task in _TASKS}
        missed, foreground = 0, np.zeros((2, *shape), bool)
        for name, *masks in zip(self.class_names, predict(layout=layout), truth(), strict=True):
            for task, value in score_masks(masks[0], masks[1], spacing).items():
                results[task][f"{task}-{name}"] = value
            missed += masks[0].any() != masks[1].any()
            foreground |= np.stack(masks)
        if layout is not None:
            results[_SLICEWISE] = {
                f"{_SLICEWISE}-{name}": dice(*masks)
                for name, *masks in zip(self.class_names, predict(), truth(), strict=True)
            }
        results["dice"]["foreground"] = dice(*foreground)
        paired = [
            paired_counts(self._shown(record["found"], layout), record["true"], overlapping)
            for record in slices
        ]
        results["dice"]["instances"] = dice_of_counts(*np.sum(paired, axis=0).tolist())
        results["hd95"]["missed"] = float(missed)
        return results

    def _shown(self, found: Sequence[Instance], layout: ClassLayout | None) -> list[Instance]:
        """What of a slice goes into the volume, under its likeliest name."""
        if layout is not None:
            things = things_of_slice(found, layout.num_classes)
            found = [(int(t.scores.argmax()), float(t.scores.sum()), t.mask) for t in things]
        return [instance for instance in found if instance[1] >= self.score_threshold]

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


def _volume_of(truth: Mapping[str, Any]) -> _Volume:
    return str(truth["file_name"]), str(truth.get("series", ""))


def _reported(means: Results) -> Results:
    """The tasks; of what slices named by themselves score, the mean over classes beside Dice's."""
    results = {task: dict(means[task]) for task in _TASKS}
    if _SLICEWISE in means:
        results["dice"][_SLICEWISE] = means[_SLICEWISE][_SLICEWISE]
    return results


def volume_shape(slices: list[dict[str, Any]]) -> tuple[int, int, int]:
    """D, H, W of the volume that records of slices belong to.

    Those that were not evaluated are said, and count as empty.

    Raises:
        EvaluationError: slices of different size, or a slice beyond the volume.
    """
    first = slices[0]
    shape = (first["num_slices"], *first["size"])
    for record in slices:
        if record["size"] != first["size"] or not 0 <= record["slice_index"] < shape[0]:
            raise EvaluationError(
                f"{record['volume'][0]}: slice {record['slice_index']} of size {record['size']} "
                f"does not fit into a volume of shape {shape}"
            )
    if len(slices) < shape[0]:
        _logger.warning("%s: %d of %d slices evaluated", first["volume"][0], len(slices), shape[0])
    return shape


def score_masks(
    predicted: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_], spacing: Sequence[float]
) -> dict[str, float]:
    """``dice``, ``hd95`` and ``assd`` of a class, by the conventions of :class:`VolumeEvaluator`.

    Args:
        predicted: bool (D, H, W), the whole volume.
        true: the same.
        spacing: mm along D, H, W.
    """
    present = (predicted.any(), true.any())
    if all(present):
        distances = surface_distances(predicted, true, spacing)
        values = (dice(predicted, true), distances.hd95, distances.assd)
    elif any(present):
        diagonal = float(np.linalg.norm(np.multiply(true.shape, spacing)))
        values = (0.0, diagonal, diagonal)
    else:
        values = (float("nan"),) * 3
    return dict(zip(_TASKS, values, strict=True))
