"""What is exported works where this package is not imported: in ``stock_program.py``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrssl.checkpoint import export_checkpoint
from mrssl.data import load_dataset
from mrssl.data.cache import VolumeCache

pytestmark = pytest.mark.detectron2

PROGRAM = Path(__file__).with_name("stock_program.py")


def write_coco(data: Path, folder: Path) -> Path:
    """Slices as 8-bit PNG files with COCO annotations."""
    dataset = load_dataset(f"{data}:test", labeled=True, with_annotations=True)
    cache, images, annotations = VolumeCache(), [], []
    for record in dataset.dicts:
        name = f"{record['image_id']}.png"
        pixels = (cache.image(record)[record["slice_index"]] * 255).astype(np.uint8)
        cv2.imwrite(str(folder / name), pixels)
        images.append(
            {"id": record["image_id"], "file_name": name}
            | {key: record[key] for key in ("height", "width")}
        )
        for annotation in record["annotations"]:
            x0, y0, x1, y1 = annotation["bbox"]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record["image_id"],
                    "category_id": annotation["category_id"] + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "segmentation": annotation["segmentation"],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(dataset.class_names)]
    path = folder / "coco.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return path


def test_a_stock_program_fine_tunes_what_is_exported(
    phantom: Path, pretrained: Path, tmp_path: Path
) -> None:
    report = export_checkpoint(
        pretrained / "model_final.pth", tmp_path / "detector.pth", to="detectron2"
    )
    images = tmp_path / "images"
    images.mkdir()
    annotations = write_coco(phantom, images)
    output = tmp_path / "output"
    output.mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, PROGRAM, report.config, report.output, images, annotations, output],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((output / "report.json").read_text())
    assert found["imported"] == []
    # Nothing of backbone, FPN, RPN, box head or mask head is missing or of another shape: only
    # what predicts per class, whose classes are others.
    predictors = ("roi_heads.box_predictor.", "roi_heads.mask_head.predictor.")
    assert found["unexpected"] == []
    assert found["mismatched"]
    assert sorted(found["missing"]) == sorted(found["mismatched"])  # what does not fit is missing
    assert all(name.startswith(predictors) for name in found["mismatched"])
    assert found["tasks"] == ["bbox", "segm"]
    assert found["iterations"] == 3
