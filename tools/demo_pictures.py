"""What the demonstration's models see and say, as rows of pictures.

Shape letters: H, W rows and columns of a slice, N instances.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from demo_report import Picture
from mrssl.checkpoint import load_checkpoint, load_strict
from mrssl.config import load_cfg
from mrssl.data.mapper import INTENSITY_SCALE
from mrssl.engines.datasets import RunData
from mrssl.engines.torchvision import build_model
from mrssl.engines.torchvision.batches import collate, to_prediction

SCORE_THRESHOLD = 0.5

Sample = dict[str, Any]
Prediction = dict[str, np.ndarray]


def seen_samples(
    config: Path, overrides: Sequence[str], count: int
) -> tuple[list[Sample], RunData]:
    """Mapped slices, spread over ``DATASETS.TEST``, and the data that they are of."""
    data = RunData(load_cfg(config, overrides), training=False)
    return data.picture_samples(count), data


@torch.no_grad()
def predictions(
    config: Path, overrides: Sequence[str], checkpoint: Path, samples: list[Sample], data: RunData
) -> list[Prediction]:
    """What the model in ``checkpoint`` finds in ``samples``; detections below 0.5 left out."""
    cfg = data.with_classes(load_cfg(config, overrides))
    model = build_model(cfg, len(data.type_names))
    load_strict(model, load_checkpoint(checkpoint), names="torchvision")
    outputs = [to_prediction(output) for output in model.eval()(collate(samples))]
    return [_confident(output) for output in outputs]


def _confident(output: Prediction) -> Prediction:
    kept = output["scores"] >= SCORE_THRESHOLD
    return {k: v if k == "restored" else v[kept] for k, v in output.items()}


def middle(sample: Mapping[str, Any], field: str = "image") -> np.ndarray:
    """The slice itself, of the stack of neighbours: float32 (H, W) in [0, 1]."""
    stack = sample[field]
    return stack[len(stack) // 2] / np.float32(INTENSITY_SCALE)


def distortion_rows(samples: Sequence[Sample], type_names: Sequence[str]) -> list[list[Picture]]:
    """A row a slice: clean | distorted | where, and by what."""
    rows = []
    for sample in samples:
        types = ", ".join(_type_names(sample["types"], type_names)) or "left clean"
        distorted = middle(sample)
        rows.append(
            [
                Picture(middle(sample, "clean"), "clean"),
                Picture(distorted, "distorted"),
                Picture(distorted, types, masks=list(sample["masks"]), boxes=sample["boxes"]),
            ]
        )
    return rows


def restoration_rows(
    samples: Sequence[Sample], outputs: Sequence[Prediction], type_names: Sequence[str]
) -> list[list[Picture]]:
    """A row a slice: distorted | found and named | restored | clean."""
    rows = []
    for sample, output in zip(samples, outputs, strict=True):
        best = [int(scores.argmax()) for scores in output["type_scores"]]
        found = ", ".join(type_names[k] for k in best) or "nothing found"
        masks = [mask.astype(bool) for mask in output["masks"]]
        rows.append(
            [
                Picture(middle(sample), "distorted"),
                Picture(middle(sample), found, masks=masks, boxes=output["boxes"]),
                Picture(output["restored"], "restored"),
                Picture(middle(sample, "clean"), "clean"),
            ]
        )
    return rows


def segmentation_rows(
    samples: Sequence[Sample], outputs: Mapping[str, Sequence[Prediction]]
) -> list[list[Picture]]:
    """A row a slice: the slice | its labels | what each of the models found."""
    rows = []
    for index, sample in enumerate(samples):
        size = (int(sample["width"]), int(sample["height"]))
        image = cv2.resize(middle(sample), size, interpolation=cv2.INTER_LINEAR)
        row = [
            Picture(image, "slice"),
            Picture(image, "labels", masks=list(sample["masks"])),
        ]
        for title, found in outputs.items():
            masks = [mask.astype(bool) for mask in found[index]["masks"]]
            row.append(Picture(image, title, masks=masks))
        rows.append(row)
    return rows


def _type_names(types: np.ndarray, names: Sequence[str]) -> list[str]:
    """Names of the distortions in (N, K) multi-hot ``types``, a region's joined by "+"."""
    return ["+".join(names[int(k)] for k in np.flatnonzero(row)) for row in types]
