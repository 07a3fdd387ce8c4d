"""Evaluation: metrics as free functions, and evaluators with reset, process, evaluate.

:func:`pretext_evaluator` and :func:`segmentation_evaluator` give what the two tasks are scored
with; :mod:`mrssl.evaluation.results` prints, writes and compares the outcome.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mrssl.evaluation.coco_evaluator import CocoEvaluator
from mrssl.evaluation.distortion_evaluator import DistortionEvaluator
from mrssl.evaluation.evaluator import (
    EvaluationError,
    Evaluator,
    Evaluators,
    Results,
    SliceEvaluator,
)
from mrssl.evaluation.rehearsal import rehearse
from mrssl.evaluation.restoration_evaluator import RestorationEvaluator
from mrssl.evaluation.results import (
    format_results,
    get_metric,
    is_better,
    print_table,
    write_results,
)
from mrssl.evaluation.statistics import Interval, paired_interval, t_interval
from mrssl.evaluation.volume_evaluator import VolumeEvaluator
from mrssl.structures import ClassLayout


def pretext_evaluator(type_names: Sequence[str]) -> Evaluators:
    """After pretraining: ``localization``, ``type`` and ``restoration``."""
    return Evaluators([DistortionEvaluator(type_names), RestorationEvaluator(type_names)])


def segmentation_evaluator(
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.5,
    layout: ClassLayout | None = None,
    overlapping: Collection[tuple[int, int]] | None = None,
) -> Evaluators:
    """After fine-tuning: ``bbox``, ``segm``, ``dice``, ``hd95`` and ``assd``."""
    volumes = VolumeEvaluator(
        class_names, score_threshold=score_threshold, layout=layout, overlapping=overlapping
    )
    return Evaluators([CocoEvaluator(class_names), volumes])


__all__ = [
    "CocoEvaluator",
    "DistortionEvaluator",
    "EvaluationError",
    "Evaluator",
    "Evaluators",
    "Interval",
    "RestorationEvaluator",
    "Results",
    "SliceEvaluator",
    "VolumeEvaluator",
    "format_results",
    "get_metric",
    "is_better",
    "paired_interval",
    "pretext_evaluator",
    "print_table",
    "rehearse",
    "segmentation_evaluator",
    "t_interval",
    "write_results",
]
