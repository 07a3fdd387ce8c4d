"""The evaluators' protocol, Detectron2's reset / process / evaluate, on plain dictionaries.

An evaluator reduces each slice to a small record at once and keeps no image. Records are filed by
``image_id``, so a slice that a distributed sampler hands out twice counts once, and the result does
not depend on the order of the slices or on how many processes shared them. Two slices of one
``image_id``, as of two data sets that each count from 0, are an error: one would hide the other.

In a distributed run every process calls :meth:`Evaluator.process` on its share, the states are
gathered, and one process merges them::

    states = gather(evaluator.state())          # of all processes
    if rank == 0:
        evaluator.merge(states)
        results = evaluator.evaluate()
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from mrssl.errors import MrsslError

#: ``{task: {metric: value}}``.
Results = dict[str, dict[str, float]]
#: By image id, a slice (file name, series, index) and its record.
_Filed = dict[int, tuple[tuple[str, str, int], Any]]


class EvaluationError(MrsslError):
    """There is nothing to evaluate, or the predictions cannot be scored."""


class Evaluator(ABC):
    """Scores the predictions of a data set.

    Ground truth (``inputs``) is one dict a slice, with ``image_id``, ``file_name``, ``series``,
    ``slice_index``, ``num_slices``, ``subject_id``, ``spacing`` (mm along D, H, W), ``height``,
    ``width``, ``boxes`` float32 (N, 4) XYXY, ``classes`` int64 (N,), ``masks`` bool (N, H, W), and
    after pretraining ``types`` (N, K) multi-hot, ``clean`` and ``distorted`` float32 (H, W) in
    [0, 1]. Predictions (``outputs``) hold ``boxes``, ``scores`` (N,), ``classes``, ``masks``, and
    after pretraining ``type_scores`` (N, K) in [0, 1] and ``restored`` (H, W) in [0, 1]. Arrays are
    NumPy's. Each evaluator reads only the fields that it names.

    Attributes:
        per_subject: after :meth:`evaluate`, one row a subject, where the evaluator scores subjects.
    """

    per_subject: Sequence[Mapping[str, Any]] = ()

    @abstractmethod
    def reset(self) -> None:
        """Forget all slices."""

    @abstractmethod
    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take in a batch of slices: the ground truth, and the predictions in the same order.

        Raises:
            EvaluationError: a prediction is not finite, or two slices have the same ``image_id``.
        """

    @abstractmethod
    def evaluate(self) -> Results:
        """Score what has been processed.

        Returns:
            ``{task: {metric: value}}``; nan where a metric is not defined.

        Raises:
            EvaluationError: no slice has been processed.
        """

    @abstractmethod
    def state(self) -> Any:
        """What has been processed so far, fit for pickling."""

    @abstractmethod
    def merge(self, states: Iterable[Any]) -> None:
        """Replace what is held by the union of ``states``, this evaluator's own among them.

        Raises:
            EvaluationError: two slices have the same ``image_id``.
        """


class SliceEvaluator(Evaluator):
    """An evaluator that reduces each slice to a record of its own; the base of all of ours."""

    def __init__(self) -> None:
        self._records: _Filed = {}

    def reset(self) -> None:
        """See :meth:`Evaluator.reset`."""
        self._records = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """See :meth:`Evaluator.process`."""
        for truth, prediction in zip(inputs, outputs, strict=True):
            for field in ("boxes", "scores", "type_scores", "restored"):
                _check_finite(truth, prediction, field)
            record = self._record(truth, prediction)
            _file(self._records, int(truth["image_id"]), (_slice_of(truth), record))

    def evaluate(self) -> Results:
        """See :meth:`Evaluator.evaluate`."""
        if not self._records:
            raise EvaluationError(
                f"{type(self).__name__}: no slice to evaluate (is DATASETS.TEST empty?)"
            )
        return self._score([self._records[key][1] for key in sorted(self._records)])

    def state(self) -> Any:
        """See :meth:`Evaluator.state`."""
        return dict(self._records)

    def merge(self, states: Iterable[Any]) -> None:
        """See :meth:`Evaluator.merge`."""
        merged: _Filed = {}
        for key, filed in chain.from_iterable(state.items() for state in states):
            _file(merged, key, filed)
        self._records = merged

    @abstractmethod
    def _record(self, truth: Mapping[str, Any], prediction: Mapping[str, Any]) -> Any:
        """Reduce a slice to what the score needs."""

    @abstractmethod
    def _score(self, records: list[Any]) -> Results:
        """Score the records of all slices, in the order of their ``image_id``."""


class Evaluators(Evaluator):
    """Several evaluators run as one; their tasks must differ."""

    def __init__(self, evaluators: Sequence[Evaluator]) -> None:
        self.evaluators = list(evaluators)

    def reset(self) -> None:
        """See :meth:`Evaluator.reset`."""
        for evaluator in self.evaluators:
            evaluator.reset()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """See :meth:`Evaluator.process`."""
        for evaluator in self.evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> Results:
        """See :meth:`Evaluator.evaluate`."""
        results: Results = {}
        for evaluator in self.evaluators:
            for task, metrics in evaluator.evaluate().items():
                if task in results:
                    raise ValueError(f"two evaluators report the task {task!r}")
                results[task] = metrics
        self.per_subject = [row for member in self.evaluators for row in member.per_subject]
        return results

    def state(self) -> Any:
        """See :meth:`Evaluator.state`."""
        return [evaluator.state() for evaluator in self.evaluators]

    def merge(self, states: Iterable[Any]) -> None:
        """See :meth:`Evaluator.merge`."""
        for evaluator, own in zip(self.evaluators, zip(*states, strict=True), strict=True):
            evaluator.merge(own)


def _slice_of(truth: Mapping[str, Any]) -> tuple[str, str, int]:
    return (
        str(truth.get("file_name", "")),
        str(truth.get("series", "")),
        int(truth.get("slice_index", 0)),
    )


def _file(records: _Filed, image_id: int, filed: tuple[tuple[str, str, int], Any]) -> None:
    before = records.setdefault(image_id, filed)[0]
    if before != filed[0]:
        one, other = (
            f"slice {s[2]} of {s[0]}{s[1] and ' series ' + s[1]}" for s in (before, filed[0])
        )
        raise EvaluationError(
            f"image_id {image_id} is both {one} and {other}: evaluate one data set at a time, or "
            "number the slices anew"
        )
    records[image_id] = filed


def _check_finite(truth: Mapping[str, Any], prediction: Mapping[str, Any], field: str) -> None:
    if field in prediction and not np.isfinite(prediction[field]).all():
        raise EvaluationError(
            f"{truth.get('file_name', '')}, image_id {truth['image_id']}: the predicted {field} "
            "are not finite (has the training diverged?)"
        )
