from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pycocotools import mask as coco

from mrssl.data import find_volumes, read_volume
from mrssl.data.label_files import check_label, read_label
from mrssl.data.labels import (
    align_label,
    annotations_of_slice,
    boxes_of_masks,
    check_label_geometry,
    instances_of_slice,
)
from mrssl.data.preparing import prepare_store
from mrssl.errors import MrsslError
from mrssl.structures import Volume

LABEL = np.array(
    [
        [1, 1, 0, 0, 3],
        [0, 0, 0, 0, 3],
        [2, 0, 1, 0, 0],
        [2, 0, 0, 1, 1],
    ]
)


def test_one_instance_a_class() -> None:
    masks, classes = instances_of_slice(LABEL, [1, 2, 3])
    assert classes.dtype == np.int64
    assert classes.tolist() == [0, 1, 2]
    for mask, value in zip(masks, (1, 2, 3), strict=True):
        assert np.array_equal(mask, value == LABEL)


def test_one_instance_a_component() -> None:
    masks, classes = instances_of_slice(LABEL, [1, 3], "component")
    assert classes.tolist() == [0, 0, 1]
    assert [int(mask.sum()) for mask in masks] == [2, 3, 2]  # corners touch: 8-connected
    assert np.array_equal(np.bitwise_or.reduce(masks[:2]), LABEL == 1)


def test_a_class_of_several_values_and_small_ones() -> None:
    masks, classes = instances_of_slice(LABEL, [(1, 2), 3], min_pixels=3)
    assert classes.tolist() == [0]
    assert np.array_equal(masks[0], (LABEL == 1) | (LABEL == 2))
    masks, classes = instances_of_slice(np.zeros((4, 5), int), [1])
    assert masks.shape == (0, 4, 5)
    assert len(classes) == 0


def test_unknown_mode_is_named() -> None:
    with pytest.raises(MrsslError, match="'blob'"):
        instances_of_slice(LABEL, [1], "blob")


def test_boxes_are_tight_and_exclusive() -> None:
    masks, _ = instances_of_slice(LABEL, [1, 2, 3])
    assert boxes_of_masks(masks).tolist() == [[0, 0, 5, 4], [0, 2, 1, 4], [4, 0, 5, 2]]


def test_annotations_decode_to_the_masks() -> None:
    masks, classes = instances_of_slice(LABEL, [1, 2, 3])
    annotations = annotations_of_slice(masks, classes)
    for mask, annotation in zip(masks, annotations, strict=True):
        assert np.array_equal(coco.decode(annotation["segmentation"]), mask)
        assert isinstance(annotation["segmentation"]["counts"], str)


def test_label_in_other_axes_is_turned_to_its_image() -> None:
    values = np.arange(24).reshape(2, 3, 4)
    image = Volume(values, np.diag([1.0, 2.0, 3.0, 1.0]))
    label = image.take_slices("H")
    assert np.array_equal(align_label(label, image.affine, image.shape), values)


@pytest.mark.parametrize("shape", [(12, 10, 4), (8, 8, 8)])
@pytest.mark.parametrize("tilted", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("sign", [-1, 1])
def test_label_of_a_volume_tilted_by_45_degrees(
    write_nifti: Callable, shape: tuple[int, int, int], tilted: tuple[int, int], sign: int
) -> None:
    """Two axes are equally close to one of the patient's: image and label are turned alike."""
    tilt = np.eye(3)
    tilt[np.ix_(tilted, tilted)] = np.sqrt(0.5) * np.array([[1, -sign], [sign, 1]])
    affine = nib.affines.from_matvec(tilt * [1.0, 1.0, 3.0 if shape[2] == 4 else 1.0])
    image = np.random.default_rng(0).integers(0, 999, shape).astype(np.int16)
    label = write_nifti((image > 600).astype(np.uint8), "label.nii", affine)
    volume = read_volume(write_nifti(image, "image.nii", affine))
    for axis in "DHW":
        shown = volume.take_slices(axis)
        found = read_label(str(label), shown.affine, shown.shape)
        assert np.array_equal(found, shown.array > 600)


def test_label_elsewhere_is_a_fault_and_of_another_shape_an_error() -> None:
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    moved = affine.copy()
    moved[0, 3] = 5
    assert check_label_geometry((2, 3, 4), affine, (2, 3, 4), affine)[1] == 0
    assert check_label_geometry((2, 3, 4), affine, (2, 3, 4), moved)[1] == 5
    with pytest.raises(MrsslError, match="shape"):
        check_label_geometry((2, 3, 4), affine, (2, 3, 5), affine)


def test_a_label_that_may_be_mirrored_is_refused(write_nifti: Callable) -> None:
    """Of another orientation and another place: as a mask saved with no affine of its own."""
    values = np.zeros((4, 5, 6), np.uint8)
    values[1, 2, 3] = 1
    image = write_nifti(values.astype(np.int16), "image.nii", np.diag([-1.0, -1.0, 1.0, 1.0]))
    same = write_nifti(values, "same.nii", np.diag([-1.0, -1.0, 1.0, 1.0]))
    moved = np.diag([-1.0, -1.0, 1.0, 1.0])
    moved[0, 3] = 20
    elsewhere = write_nifti(values, "elsewhere.nii", moved)
    bare = write_nifti(values, "bare.nii", np.eye(4))
    volume = read_volume(image)
    (source,) = find_volumes(image).volumes
    assert check_label(str(same), source) == ""
    assert "20 mm beside its image: matched by index" in check_label(str(elsewhere), source)
    for path in (same, elsewhere):
        found = read_label(str(path), volume.affine, volume.shape)
        assert np.array_equal(found, volume.array)
    with pytest.raises(MrsslError, match=r"\(RAS; the image's: LPS\), so it may be mirrored"):
        check_label(str(bare), source)


def test_a_label_beside_its_image_is_refused_or_told(
    write_nifti: Callable[..., Path], tmp_path: Path
) -> None:
    """In the store both have one affine, so that nobody could see it any more."""
    values = np.zeros((4, 5, 6), np.uint8)
    values[1, 2, 3] = 1
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    moved = affine.copy()
    moved[0, 3] = 20
    cases = []
    for name, of_label in (("good", affine), ("beside", moved), ("bare", np.eye(4))):
        image = write_nifti(values.astype(np.int16), f"{name}.nii", affine)
        label = write_nifti(values, f"labels/{name}.nii", of_label)
        cases.append({"image": image.name, "label": f"labels/{label.name}"})
    listed = {"labels": {"background": 0, "organ": 1}, "training": cases}
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    report = prepare_store(tmp_path / "dataset.json", tmp_path / "store")
    assert report.written == 2
    ((name, reason),) = report.refused
    assert name.endswith("bare.nii")
    assert "may be mirrored" in reason
    index = json.loads((tmp_path / "store" / "dataset.json").read_text())
    faults = {entry["case"]: entry["faults"] for entry in index["volumes"]}
    assert faults["good"] == []
    assert "20 mm beside its image" in faults["beside"][0]


def test_fractions_are_no_labels() -> None:
    volume = Volume(np.full((2, 2, 2), 0.4), np.eye(4))
    with pytest.raises(MrsslError, match="whole numbers"):
        align_label(volume, volume.affine, volume.shape)
