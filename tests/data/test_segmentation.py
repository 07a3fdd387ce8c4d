"""DICOM segmentation objects as labels: frames go where their positions say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from mrssl.data import VolumeCache, find_volumes, load_dataset, read_volume
from mrssl.data.label_files import read_label
from mrssl.errors import MrsslError


def item(**values: Any) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for name, value in values.items():
        setattr(dataset, name, value)
    return dataset


@pytest.fixture
def labels() -> np.ndarray:
    values = np.zeros((5, 8, 16), np.uint8)
    values[1:3, 2:5, 3:9] = 1
    values[2:5, 5:7, 10:14] = 2
    return values


@pytest.fixture
def segmented(
    write_series: Callable, dicom_slice: Callable, tmp_path: Path, labels: np.ndarray
) -> Path:
    """A series, and a segmentation with frames in a random order, empty ones left out."""
    array = np.random.default_rng(0).integers(0, 999, labels.shape).astype(np.int16)
    write_series(array)
    frames = [(s, d) for s in (1, 2) for d in range(5) if (labels[d] == s).any()]
    frames = [frames[i] for i in np.random.default_rng(1).permutation(len(frames))]
    dataset = dicom_slice(labels[0], PixelSpacing=None, ImagePositionPatient=None)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.Modality, dataset.SegmentationType = "SEG", "BINARY"
    dataset.BitsAllocated = dataset.BitsStored = 1
    dataset.HighBit, dataset.NumberOfFrames = 0, len(frames)
    bits = np.stack([labels[d] == s for s, d in frames]).astype(np.uint8)
    dataset.PixelData = pydicom.pixels.utils.pack_bits(bits.ravel())
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
            PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.8])],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[-10.0, -20.0, 2.5 * d])],
            SegmentIdentificationSequence=[item(ReferencedSegmentNumber=s)],
        )
        for s, d in frames
    ]
    dataset.save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    return tmp_path / "seg.dcm"


def test_frames_go_where_their_positions_say(segmented: Path, labels: np.ndarray) -> None:
    volume = read_volume(segmented.parent / "series")
    assert np.array_equal(read_label(str(segmented), volume.affine, volume.shape), labels)
    turned = volume.take_slices("W")
    again = read_label(str(segmented), turned.affine, turned.shape)
    assert np.array_equal(
        np.sort(np.unique(again, return_counts=True)[1]),
        np.sort(np.unique(labels, return_counts=True)[1]),
    )
    for value in (1, 2):  # image and label are turned alike
        assert turned.array[again == value].sum() == volume.array[labels == value].sum()


def test_a_data_set_may_use_it(segmented: Path, labels: np.ndarray) -> None:
    path = segmented.with_name("dataset.json")
    entry = {"image": "series", "label": "seg.dcm"}
    path.write_text(json.dumps({"labels": {"a": 1, "b": 2}, "training": [entry]}))
    dataset = load_dataset(path, with_annotations=True)
    assert [len(d["annotations"]) for d in dataset.dicts] == [0, 1, 2, 1, 1]
    assert np.array_equal(VolumeCache().label(dataset.dicts[0]), labels)


def test_it_is_no_image(segmented: Path) -> None:
    found = find_volumes(segmented)
    assert not found.volumes
    assert "a segmentation" in found.refused[0].reason


def test_another_grid_is_refused(segmented: Path) -> None:
    volume = read_volume(segmented.parent / "series")
    shifted = volume.affine.copy()
    shifted[2, 3] += 1.0
    with pytest.raises(MrsslError, match=r"seg\.dcm: a frame does not lie on"):
        read_label(str(segmented), shifted, volume.shape)
    with pytest.raises(MrsslError, match=r"seg\.dcm: a frame lies outside"):
        read_label(str(segmented), volume.affine, (3, 8, 16))


def test_an_image_with_gaps_is_not_segmented_by_places(segmented: Path) -> None:
    """Frames behind the gap would fall on other slices."""
    (segmented.parent / "series" / "0003.dcm").unlink()
    path = segmented.with_name("dataset.json")
    entry = {"image": "series", "label": "seg.dcm"}
    path.write_text(json.dumps({"labels": {"a": 1, "b": 2}, "training": [entry]}))
    with pytest.raises(MrsslError, match="cannot be laid on an image whose slices are not all"):
        load_dataset(path)
