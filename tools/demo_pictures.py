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
from mrssl.checkpoint import load_checkpoint
from mrssl.config import load_cfg
from mrssl.data.mapper import INTENSITY_SCALE
from mrssl.engines.datasets import RunData
from mrssl.engines.device import with_device
from mrssl.engines.torchvision import load_model
from mrssl.engines.torchvision.batches import collate, to_prediction

SCORE_THRESHOLD = 0.5

Sample = dict[str, Any]
Prediction = dict[str, np.ndarray]


def seen_samples(
    config: Path, overrides: Sequence[str], count: int
) -> tuple[list[Sample], RunData]:
    """Mapped slices, spread over ``DATASETS.TEST``, and the data that they are of."""
    data = RunData(with_device(load_cfg(config, overrides)), training=False)
    return data.picture_samples(count), data


@torch.no_grad()
def predictions(checkpoint: Path, samples: list[Sample], data: RunData) -> list[Prediction]:
    """What the model in ``checkpoint`` finds in ``samples``; detections below 0.5 left out."""
    model = load_model(data, load_checkpoint(checkpoint))
    return [_confident(to_prediction(output)) for output in model(collate(samples))]


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
        seen, names = middle(sample), _type_names(sample["types"], type_names)
        where = Picture(seen, list(sample["masks"]), sample["boxes"], names)
        rows.append([Picture(middle(sample, "clean")), Picture(seen), where])
    return rows


def restoration_rows(
    samples: Sequence[Sample], outputs: Sequence[Prediction], type_names: Sequence[str]
) -> list[list[Picture]]:
    """A row a slice: distorted | found and named | restored | clean."""
    rows = []
    for sample, output in zip(samples, outputs, strict=True):
        seen = middle(sample)
        names = [type_names[int(scores.argmax())] for scores in output["type_scores"]]
        found = Picture(seen, list(output["masks"].astype(bool)), output["boxes"], names)
        restored, clean = Picture(output["restored"]), Picture(middle(sample, "clean"))
        rows.append([Picture(seen), found, restored, clean])
    return rows


def segmentation_rows(
    samples: Sequence[Sample], outputs: Sequence[Sequence[Prediction]]
) -> list[list[Picture]]:
    """A row a slice: the slice | its labels | what each of the models found."""
    rows = []
    for index, sample in enumerate(samples):
        size = (int(sample["width"]), int(sample["height"]))
        image = cv2.resize(middle(sample), size, interpolation=cv2.INTER_LINEAR)
        masks = [sample["masks"], *(found[index]["masks"].astype(bool) for found in outputs)]
        rows.append([Picture(image), *(Picture(image, list(m)) for m in masks)])
    return rows


def _type_names(types: np.ndarray, names: Sequence[str]) -> list[str]:
    """Names of the distortions in (N, K) multi-hot ``types``, a region's joined by "+"."""
    return ["+".join(names[int(k)] for k in np.flatnonzero(row)) for row in types]
