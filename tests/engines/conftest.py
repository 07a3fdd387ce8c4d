from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Detectron2 adds a handler for each folder of a run to loggers that live on."""
    yield
    if "detectron2" not in sys.modules:
        return
    from detectron2.utils.logger import setup_logger

    for name in ("detectron2", "fvcore"):
        for handler in list(logging.getLogger(name).handlers):
            handler.close()
            logging.getLogger(name).removeHandler(handler)
    setup_logger.cache_clear()


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset.json of four subjects: textured ellipsoids with two labelled balls inside."""
    folder = tmp_path_factory.mktemp("phantom")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in (64, 60, 8)], indexing="ij"))
    training = []
    for number in range(4):
        shift = rng.uniform(-0.1, 0.1, (3, 1, 1, 1))
        x, y, z = grid - shift
        image = 200.0 * (x**2 + y**2 + 0.3 * z**2 < 0.8) + 40 * np.sin(9 * x) * np.cos(7 * y)
        label = np.zeros(image.shape, np.uint8)
        for value, centre in ((1, -0.35), (2, 0.4)):
            ball = (x - centre) ** 2 + y**2 + 0.2 * z**2 < 0.06
            image[ball] += 80 * value
            label[ball] = value
        image = np.abs(image + rng.normal(0, 4, image.shape))
        affine = np.diag([1.0, 1.0, 3.0, 1.0])
        name = f"subject{number}.nii.gz"
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / "images" / name)
        nib.save(nib.Nifti1Image(label, affine), folder / "labels" / name)
        training.append({"image": f"./images/{name}", "label": f"./labels/{name}"})
    description = {
        "name": "phantom",
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "small": 1, "large": 2},
        "file_ending": ".nii.gz",
        "numTraining": len(training),
        "training": training,
    }
    (folder / "dataset.json").write_text(json.dumps(description))
    split = {"train": [f"subject{i}" for i in range(3)], "test": ["subject3"]}
    (folder / "split.json").write_text(json.dumps(split))
    return folder / "dataset.json"
