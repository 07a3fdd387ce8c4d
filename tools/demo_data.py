"""The demonstration's data: slabs of the ICBM 152 template, some of them labelled.

The template is one volume, the average of 152 brains. It is cut along its axial slices into slabs
that take the place of subjects. A training slab and the scored slab beside it are parted by slices
that nobody sees, because neighbouring slices are nearly the same picture.

The template (symmetric, non-linear, 2009a) and its tissue maps come with the nilearn wheel, so
nothing is downloaded. Copyright (C) 1993-2004 Louis Collins, McConnell Brain Imaging Centre,
Montreal Neurological Institute, McGill University; free to use, copy, modify and distribute with
this notice.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mrssl.errors import optional_import

#: Axial slices from the cerebellum to the crown, in voxels of 1 mm. A training slab, a gap, a
#: scored slab, a gap, and so on; a training slab closes the row.
FIRST_SLICE, LAST_SLICE = 28, 144
TRAIN_SLICES, SCORED_SLICES, GAP_SLICES = 12, 6, 4

#: One class: grey matter would fill nearly the same box, and a detector tells things apart by box.
LABELS = {"background": 0, "white matter": 1}
MARGIN = 4  # voxels left about the head, in plane


@dataclass(frozen=True)
class DemoData:
    """Where the demonstration's data lies, ready for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.

    Attributes:
        unlabeled: folder of the training slabs, images only.
        labeled: the few labelled slices, one of each training slab.
        scored: the slabs on which all models are scored.
        slices: how many slices each of them holds.
    """

    unlabeled: str
    labeled: str
    scored: str
    slices: dict[str, int]


def slabs() -> tuple[list[range], list[range]]:
    """Slice ranges of the training slabs and of the scored slabs, a gap between any two."""
    train, scored = [], []
    start = FIRST_SLICE
    while start + TRAIN_SLICES <= LAST_SLICE:
        train.append(range(start, start + TRAIN_SLICES))
        start += TRAIN_SLICES + GAP_SLICES
        if start + SCORED_SLICES + GAP_SLICES + TRAIN_SLICES <= LAST_SLICE:
            scored.append(range(start, start + SCORED_SLICES))
        start += SCORED_SLICES + GAP_SLICES
    return train, scored


def load_template() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The template, its labels and its affine, cropped in plane to the head.

    Returns:
        ``image`` float32 (X, Y, Z) in [0, 1], axes running to Right, Anterior, Superior;
        ``labels`` uint8 (X, Y, Z), values as in :data:`LABELS`; ``affine`` float64 (4, 4) from
        voxels to mm.

    Raises:
        MissingDependencyError: nilearn is not installed.
    """
    datasets = optional_import("nilearn.datasets", "pip install -e '.[demo]' in mrssl's checkout")
    template = datasets.load_mni152_template(resolution=1)
    image = template.get_fdata(dtype=np.float32)
    grey = datasets.load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32)
    labels = ((white > grey) & (white > 0.5)).astype(np.uint8)

    head = (image > 0)[:, :, FIRST_SLICE:LAST_SLICE].any(axis=2)
    (x0, y0), (x1, y1) = (f(np.argwhere(head), axis=0) for f in (np.min, np.max))
    x0, y0 = max(int(x0) - MARGIN, 0), max(int(y0) - MARGIN, 0)
    crop = np.s_[x0 : int(x1) + MARGIN + 1, y0 : int(y1) + MARGIN + 1]
    affine = template.affine @ nib.affines.from_matvec(np.eye(3), [x0, y0, 0])
    return image[crop], labels[crop], affine


def write_demo_data(folder: Path) -> DemoData:
    """Write the slabs as NIfTI: a folder of images, and a labelled data set with its split.

    Args:
        folder: is created; what was there before is replaced.
    """
    image, labels, affine = load_template()
    train, scored = slabs()
    building = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    for part in ("unlabeled", "labeled/imagesTr", "labeled/labelsTr"):
        (building / part).mkdir(parents=True)

    pixels = np.round(image * 255).astype(np.uint8)

    def save(volume: np.ndarray, slices: range, path: str) -> None:
        slab = volume[:, :, slices.start : slices.stop]
        offset = affine @ nib.affines.from_matvec(np.eye(3), [0, 0, slices.start])
        nib.save(nib.Nifti1Image(slab, offset), building / path)

    for slices in train:
        save(pixels, slices, f"unlabeled/{_name(slices)}.nii.gz")
    middles = [range(s[len(s) // 2], s[len(s) // 2] + 1) for s in train]
    for slices in (*middles, *scored):
        save(pixels, slices, f"labeled/imagesTr/{_name(slices)}.nii.gz")
        save(labels, slices, f"labeled/labelsTr/{_name(slices)}.nii.gz")
    split = {"train": [_name(s) for s in middles], "test": [_name(s) for s in scored]}
    _write_description(building / "labeled", split)

    shutil.rmtree(folder, ignore_errors=True)
    os.replace(building, folder)
    description = folder / "labeled" / "dataset.json"
    return DemoData(
        unlabeled=str(folder / "unlabeled"),
        labeled=f"{description}:train",
        scored=f"{description}:test",
        slices={
            "unlabeled": sum(map(len, train)),
            "labeled": len(middles),
            "scored": sum(map(len, scored)),
        },
    )


def _name(slices: range) -> str:
    return f"slab_{slices.start:03d}_{slices.stop - 1:03d}"


def _write_description(folder: Path, split: dict[str, list[str]]) -> None:
    """Write ``dataset.json`` in the form of nnU-Net and the Decathlon, and ``split.json``."""
    names = [name for part in split.values() for name in part]
    description: dict[str, Any] = {
        "name": "icbm152_slabs",
        "description": "Slabs of the ICBM 152 T1 template, labelled from its tissue maps",
        "channel_names": {"0": "T1"},
        "labels": LABELS,
        "file_ending": ".nii.gz",
        "numTraining": len(names),
        "training": [
            {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
            for name in names
        ],
    }
    (folder / "dataset.json").write_text(json.dumps(description, indent=1), encoding="utf-8")
    (folder / "split.json").write_text(json.dumps(split, indent=1), encoding="utf-8")
