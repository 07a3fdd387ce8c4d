"""What an evaluator will report, told before there is anything to evaluate."""

from __future__ import annotations

import numpy as np

from mrssl.evaluation.evaluator import Evaluator, Results

_SIDE = 32


def rehearse(evaluator: Evaluator, num_types: int = 0, *, names_types: bool = True) -> Results:
    """Let an evaluator score one made-up slice with one region, found as it is.

    Args:
        evaluator: reset before and after.
        num_types: columns of ``types`` and ``type_scores``.
        names_types: the detector has a type branch, so that there are ``type_scores``.

    Returns:
        ``{task: {metric: value}}`` with the names that every evaluation will have; the values say
        nothing.
    """
    masks = np.zeros((1, _SIDE, _SIDE), bool)
    masks[0, 8:24, 8:24] = True
    region = {
        "boxes": np.array([[8, 8, 24, 24]], np.float32),
        "classes": np.zeros(1, np.int64),
        "masks": masks,
    }
    pixels = np.zeros((_SIDE, _SIDE), np.float32)
    truth = {
        **region,
        "image_id": 0,
        "file_name": "",
        "series": "",
        "subject_id": "",
        "slice_index": 0,
        "num_slices": 1,
        "spacing": (1.0, 1.0, 1.0),
        "height": _SIDE,
        "width": _SIDE,
        "types": np.ones((1, num_types), bool),
        "clean": pixels,
        "distorted": pixels,
    }
    found = {**region, "scores": np.ones(1, np.float32), "restored": pixels}
    if names_types:
        found["type_scores"] = np.ones((1, num_types), np.float32)
    evaluator.reset()
    evaluator.process([truth], [found])
    results = evaluator.evaluate()
    evaluator.reset()
    return results


__all__ = ["rehearse"]
