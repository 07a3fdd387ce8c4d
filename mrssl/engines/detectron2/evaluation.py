"""The core's evaluators as Detectron2 ``DatasetEvaluator``s, for ``inference_on_dataset``.

Shape letters: N detections, H, W the output's grid, K distortion types.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from torch import Tensor

from mrssl import evaluation as core
from mrssl.engines.distributed import gather_on_main, is_main_process
from mrssl.engines.samples import restored_slice
from mrssl.evaluation import Evaluator, Results


class SliceDatasetEvaluator(DatasetEvaluator):
    """Any evaluator of :mod:`mrssl.evaluation` under Detectron2's protocol.

    Inputs are those of :class:`~mrssl.engines.detectron2.dataset_mapper.MRIDatasetMapper` without
    ``is_train``. Over several processes each scores its slices, and the first merges.

    Args:
        evaluator: the core's, or several as one.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator

    def reset(self) -> None:
        """Forget all slices."""
        self.evaluator.reset()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Take in a batch of the model's inputs and outputs."""
        self.evaluator.process(
            [x["ground_truth"] for x in inputs],
            [to_prediction(x, y["instances"]) for x, y in zip(inputs, outputs, strict=True)],
        )

    def evaluate(self) -> Results | None:
        """``{task: {metric: value}}`` on the main process, None on the others."""
        states = gather_on_main(self.evaluator.state())
        if not is_main_process():
            return None
        self.evaluator.merge(states)
        return self.evaluator.evaluate()


class DistortionEvaluator(SliceDatasetEvaluator):
    """Where the distortions are and which they are: ``localization`` and ``type``."""

    def __init__(self, type_names: Sequence[str]) -> None:
        super().__init__(core.DistortionEvaluator(type_names))


class RestorationEvaluator(SliceDatasetEvaluator):
    """How much of the lost pixels came back: ``restoration``."""

    def __init__(self, type_names: Sequence[str]) -> None:
        super().__init__(core.RestorationEvaluator(type_names))


class VolumeEvaluator(SliceDatasetEvaluator):
    """Dice, HD95 and ASSD in 3-D: ``dice``, ``hd95``, ``assd``; rows in :attr:`per_subject`."""

    def __init__(self, class_names: Sequence[str], **options: Any) -> None:
        """Score instances of ``class_names``; options are those of the core's evaluator."""
        super().__init__(core.VolumeEvaluator(class_names, **options))

    @property
    def per_subject(self) -> Sequence[Mapping[str, Any]]:
        """One row a subject, after :meth:`evaluate`; see the core's evaluator."""
        return self.evaluator.per_subject


def to_prediction(model_input: Mapping[str, Any], found: Instances) -> dict[str, np.ndarray]:
    """Detections of one slice as the core's evaluators take them.

    Args:
        model_input: with ``image`` float (3, H', W') in [0, 255].
        found: of the model, after Detectron2's postprocessing.

    Returns:
        ``boxes`` float32 (N, 4), ``scores`` (N,), ``classes`` int64 (N,), ``masks`` bool
        (N, H, W) and, after pretraining, ``type_scores`` (N, K) and ``restored`` (H, W) in [0, 1].
    """
    tensors: dict[str, Tensor] = {
        "boxes": found.pred_boxes.tensor.float(),
        "scores": found.scores.float(),
        "classes": found.pred_classes,
    }
    if found.has("pred_masks"):
        tensors["masks"] = found.pred_masks
    if found.has("pred_types"):
        tensors["type_scores"] = found.pred_types.float()
    if found.has("pred_residuals"):
        tensors["restored"] = restore(model_input, found)
    return {name: tensor.cpu().numpy() for name, tensor in tensors.items()}


def restore(model_input: Mapping[str, Any], found: Instances) -> Tensor:
    """The slice with every found region restored, float32 (H, W) in [0, 1].

    Args:
        model_input: with ``image``, as the model got it.
        found: of a model with ``DistortionROIHeads``, after Detectron2's postprocessing.
    """
    height, width = found.image_size
    masks = found.pred_mask_probs.float() if found.has("pred_mask_probs") else None
    return restored_slice(
        model_input["image"].to(found.scores.device),
        (int(height), int(width)),
        residuals=found.pred_residuals,
        probabilities=masks,
        boxes=found.pred_boxes.tensor.float(),
        scores=found.scores.float(),
    )


__all__ = [
    "DistortionEvaluator",
    "RestorationEvaluator",
    "SliceDatasetEvaluator",
    "VolumeEvaluator",
    "restore",
    "to_prediction",
]
