"""Small volumes written as NIfTI and DICOM, with known voxels at known places."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage, generate_uid

SERIES_UID = generate_uid(entropy_srcs=["series"])


def make_slice(pixels: np.ndarray, *, syntax: UID = ExplicitVRLittleEndian, **tags: Any) -> Any:
    """A classic MR image of ``pixels`` (rows, columns) int; ``tags`` set or, None, leave out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = syntax
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    standard: dict[str, Any] = {
        "SOPClassUID": MRImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": generate_uid(entropy_srcs=["study"]),
        "SeriesInstanceUID": SERIES_UID,
        "FrameOfReferenceUID": generate_uid(entropy_srcs=["frame"]),
        "Modality": "MR",
        "PatientID": "id-1",
        "PatientName": "Secret^Person",
        "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "SeriesNumber": 3,
        "InstanceNumber": 1,
        "ImagePositionPatient": [0.0, 0.0, 0.0],
        "ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        "PixelSpacing": [0.5, 0.8],
        "SliceThickness": 3.0,
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": pixels.dtype.itemsize * 8,
        "BitsStored": pixels.dtype.itemsize * 8,
        "HighBit": pixels.dtype.itemsize * 8 - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    for name, value in {**standard, **tags}.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    dataset["PixelData"].VR = "OW"
    return dataset


def make_enhanced(array: np.ndarray) -> Any:
    """An Enhanced MR object of (echoes, D, H, W): frames interleaved, from top to bottom."""
    echoes, depth = array.shape[:2]
    order = [(e, d) for d in reversed(range(depth)) for e in range(echoes)]
    dataset = make_slice(
        array[0, 0],
        PixelSpacing=None,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        SliceThickness=None,
    )
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4.1"
    dataset.NumberOfFrames = len(order)
    dataset.PixelData = np.stack([array[e, d] for e, d in order]).tobytes()

    def item(**values: Any) -> Dataset:
        inner = Dataset()
        for name, value in values.items():
            setattr(inner, name, value)
        return inner

    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.8], SliceThickness=2.5)],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.5 * d])],
            MREchoSequence=[item(EffectiveEchoTime=10.0 * (e + 1))],
            PixelValueTransformationSequence=[item(RescaleSlope=e + 1.0, RescaleIntercept=d * 1.0)],
        )
        for e, d in order
    ]
    return dataset


def save(dataset: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def dicom_slice() -> Callable[..., Any]:
    return make_slice


@pytest.fixture
def write_series(tmp_path: Path) -> Callable[..., Path]:
    """Write (D, H, W) int as slices ``step`` mm apart; file names in the reverse order."""

    def write(
        array: np.ndarray,
        folder: str = "series",
        *,
        prefix: str = "",
        step: tuple[float, float, float] = (0.0, 0.0, 2.5),
        **tags: Any,
    ) -> Path:
        for index, pixels in enumerate(array):
            dataset = make_slice(
                pixels,
                **{
                    "ImagePositionPatient": [
                        -10.0 + step[0] * index,
                        -20.0 + step[1] * index,
                        step[2] * index,
                    ],
                    "InstanceNumber": index + 1,
                    **tags,
                },
            )
            save(dataset, tmp_path / folder / f"{prefix}{len(array) - index:04d}.dcm")
        return tmp_path / folder

    return write


@pytest.fixture
def write_enhanced(tmp_path: Path) -> Callable[[np.ndarray, str], Path]:
    """Write (echoes, D, H, W) int as one file of many frames."""
    return lambda array, name: save(make_enhanced(array), tmp_path / name)


@pytest.fixture
def write_nifti(tmp_path: Path) -> Callable[..., Path]:
    def write(array: np.ndarray, name: str, affine: np.ndarray | None = None) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return write


@pytest.fixture
def labeled_set(tmp_path: Path, write_nifti: Callable[..., Path]) -> Path:
    """A Decathlon data set of 4 subjects of 6 slices, labels 1 and 2, split train / test."""
    rng = np.random.default_rng(0)
    cases = [f"case_{index}" for index in range(4)]
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    for case in cases:
        image = rng.integers(20, 200, (12, 16, 6)).astype(np.uint8)
        label = np.zeros_like(image)
        label[2:5, 3:7, 1:4] = 1
        label[8:10, 3:5, 2:5] = 2
        label[8:10, 9:12, 2:5] = 2
        write_nifti(image, f"imagesTr/{case}.nii.gz", affine)
        write_nifti(label, f"labelsTr/{case}.nii.gz", affine)
    entries = [
        {"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"}
        for case in cases
    ]
    content = {"name": "toy", "labels": {"background": 0, "a": 1, "b": 2}, "training": entries}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    (tmp_path / "split.json").write_text(json.dumps({"train": cases[:3], "test": cases[3:]}))
    return tmp_path / "dataset.json"
