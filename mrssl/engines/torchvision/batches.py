"""The core's samples as this engine's inputs, and its outputs as the evaluators' records."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mrssl.data.loader import STREAM_KEYS
from mrssl.data.mapper import METADATA
from mrssl.engines.samples import ground_truth, restoration_targets, slice_position


def to_input(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample of the core's mapper as an input of :class:`~.model.MaskRCNN`.

    Returns:
        ``image`` float32 tensor (3, H, W) in [0, 255], ``seed``, the metadata, what the stream
        adds, and ``targets`` where the sample has any: ``boxes``, ``labels`` (from 1 up),
        ``masks`` and, while pretraining, ``types``, ``position`` and ``restoration``.
    """
    out = {key: sample[key] for key in (*METADATA, "seed", *STREAM_KEYS) if key in sample}
    out["image"] = torch.from_numpy(np.ascontiguousarray(sample["image"]))
    if "boxes" in sample:
        masks = torch.from_numpy(np.ascontiguousarray(sample["masks"]))
        out["targets"] = {
            "boxes": torch.from_numpy(sample["boxes"]),
            "labels": torch.from_numpy(sample["classes"]) + 1,
            "masks": masks,
        }
        if "clean" in sample:
            out["targets"]["types"] = torch.from_numpy(sample["types"])
            out["targets"]["position"] = slice_position(sample)
            out["targets"]["restoration"] = restoration_targets(sample)
    return out


def collate(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A batch for training: slices differ in size, so a list."""
    return [to_input(sample) for sample in samples]


def collate_with_truth(
    samples: list[dict[str, Any]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A batch for evaluation: the inputs, and the ground truth that evaluators take."""
    return collate(samples), [ground_truth(sample) for sample in samples]


def to_prediction(output: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The model's detections of one slice as arrays."""
    return {key: value.cpu().numpy() for key, value in output.items()}
