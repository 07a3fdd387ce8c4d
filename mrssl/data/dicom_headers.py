"""What a DICOM file says of each of its slices: geometry, and what tells series apart.

One :class:`SliceHeader` a slice: a classic file has one, an Enhanced multi-frame file one a frame
(functional groups, DICOM PS3.3 C.7.6.16). Nothing that names a patient leaves this module: the
subject is a digest of PatientID, and UIDs appear in digests only.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mrssl.errors import MrsslError, optional_import

#: Header fields that may be asked for in ``include`` / ``exclude`` and are shown by check_data.
#: Free of anything that identifies a person.
TAGS = (
    "Modality",
    "Manufacturer",
    "MagneticFieldStrength",
    "SeriesNumber",
    "SeriesDescription",
    "ProtocolName",
    "SequenceName",
    "ScanningSequence",
    "ImageType",
    "EchoTime",
    "RepetitionTime",
    "InversionTime",
    "FlipAngle",
    "DiffusionBValue",
    "BodyPartExamined",
    "SliceThickness",
)
_GROUPING = (
    "SOPClassUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "EchoNumbers",
    "ComplexImageComponent",
    "TemporalPositionIdentifier",
)
_GEOMETRY = (
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "SpacingBetweenSlices",
    "InstanceNumber",
    "AcquisitionNumber",
    "TriggerTime",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "PatientID",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
#: Where Enhanced objects keep what classic ones have at the top: macro sequence of the attribute.
_MACROS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "EffectiveEchoTime": "MREchoSequence",
    "DiffusionBValue": "MRDiffusionSequence",
    "FrameType": "MRImageFrameTypeSequence",
    "ComplexImageComponent": "MRImageFrameTypeSequence",
    "TemporalPositionIndex": "FrameContentSequence",
    "FrameAcquisitionNumber": "FrameContentSequence",
    "InversionTimes": "MRModifierSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
}
#: Largest difference of direction cosines within a volume.
_SAME_DIRECTION = 1e-3
#: Frames in one file, at most.
MAX_FRAMES = 100_000


class DicomError(MrsslError):
    """A DICOM file that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Plane:
    """Where a slice lies (PS3.3 C.7.6.2), LPS: x to the Left, y to Posterior, z to Superior.

    Attributes:
        position: (3,) centre of the first voxel, mm.
        columns: (3,) unit vector along which the column index grows.
        rows: (3,) unit vector along which the row index grows.
    """

    position: np.ndarray
    columns: np.ndarray
    rows: np.ndarray

    @property
    def normal(self) -> np.ndarray:
        """(3,) unit vector across the slice: columns x rows."""
        normal = np.cross(self.columns, self.rows)
        return normal / np.linalg.norm(normal)

    def is_parallel(self, other: Plane) -> bool:
        """Whether both have the same directions, to 1e-3."""
        apart = np.abs([self.columns - other.columns, self.rows - other.rows]).max()
        return bool(apart < _SAME_DIRECTION)

    @classmethod
    def from_header(cls, get: Callable[[str], Any]) -> Plane | None:
        """From ImagePositionPatient and ImageOrientationPatient; None if either is no use."""
        position = numbers(get("ImagePositionPatient"), 3)
        cosines = numbers(get("ImageOrientationPatient"), 6)
        if position is None or cosines is None:
            return None
        columns, rows = cosines[:3], cosines[3:]
        lengths = np.linalg.norm(columns), np.linalg.norm(rows)
        if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(columns @ rows) > 0.1:
            return None
        return cls(position, columns, rows)


@dataclass(frozen=True)
class SliceHeader:
    """One slice: where its pixels are, where it lies, and what it belongs to.

    Attributes:
        path: the file.
        frame: index of the frame in a multi-frame file; 0 otherwise.
        shape: (rows, columns).
        spacing: mm between rows and between columns.
        plane: where it lies; None where the file does not say.
        thickness: mm to the next slice according to the header; None where missing.
        rescale: slope and intercept from stored values to intensities.
        number: InstanceNumber, or the frame's index in a multi-frame file.
        group: values that must agree within a volume; none names a person.
        repeat: values that may tell repeats at one position apart, in the order to be tried.
        subject: digest of PatientID, "" where the file has none.
        tags: the fields of :data:`TAGS` that the file has, as text.
    """

    path: str
    frame: int
    shape: tuple[int, int]
    spacing: tuple[float, float]
    plane: Plane | None
    thickness: float | None
    rescale: tuple[float, float]
    number: int
    group: tuple[Any, ...]
    repeat: tuple[Any, ...]
    subject: str
    tags: dict[str, str] = field(repr=False)


def read_dataset(path: str | Path, *, pixels: bool) -> Any:
    """Parse a DICOM file into a pydicom ``Dataset``.

    Args:
        path: the file; one without the preamble is accepted when its content makes sense.
        pixels: read everything; False reads only the fields that this package uses.

    Raises:
        DicomError: not DICOM, truncated or damaged.
    """
    pydicom = optional_import("pydicom", "pip install pydicom")
    wanted = None if pixels else [*TAGS, *_GROUPING, *_GEOMETRY]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(
                os.fspath(path),
                force=not _has_preamble(path),
                stop_before_pixels=not pixels,
                specific_tags=wanted,
            )
    except FileNotFoundError as error:
        raise DicomError(f"{path}: no such file") from error
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise DicomError(f"{path}: not a readable DICOM file ({one_line(error)})") from error
    return dataset


def read_slice_headers(path: str | Path) -> list[SliceHeader]:
    """The slices of one file, without their pixels.

    Raises:
        DicomError: not DICOM, damaged, or not an image of numbers in a plane.
    """
    dataset = read_dataset(path, pixels=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _slices(str(path), dataset)
    except DicomError:
        raise
    except Exception as error:  # lazily converted values of damaged files
        raise DicomError(f"{path}: damaged DICOM header ({one_line(error)})") from error


def _slices(path: str, dataset: Any) -> list[SliceHeader]:
    if "Rows" not in dataset or "Columns" not in dataset:
        what = getattr(dataset.get("SOPClassUID"), "name", "")
        raise DicomError(f"{path}: no image in it ({what or 'no SOP class, not DICOM'})")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise DicomError(f"{path}: a colour picture, not MRI")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if not 0 < frames <= MAX_FRAMES:
        raise DicomError(f"{path}: NumberOfFrames {frames} makes no sense")
    shape = (int(dataset.Rows), int(dataset.Columns))
    if min(shape) < 1:
        raise DicomError(f"{path}: {shape[0]} x {shape[1]} pixels")
    shared = _first(dataset.get("SharedFunctionalGroupsSequence"))
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence")
    if frames > 1 and per_frame is None:
        raise DicomError(f"{path}: {frames} frames without a position each")
    if per_frame is not None and len(per_frame) != frames:
        raise DicomError(f"{path}: {frames} frames, but functional groups for {len(per_frame)}")
    subject = subject_digest(dataset.get("PatientID"))
    tags = {name: tag_text(dataset[name].value) for name in TAGS if dataset.get(name) is not None}
    if per_frame is None:
        return [_slice(path, 0, dataset.get, dataset, shape, subject, tags)]
    return [
        _slice(path, i, _frame_getter(dataset, shared, per_frame[i]), dataset, shape, subject, tags)
        for i in range(frames)
    ]


def _slice(
    path: str,
    frame: int,
    get: Callable[[str], Any],
    dataset: Any,
    shape: tuple[int, int],
    subject: str,
    tags: dict[str, str],
) -> SliceHeader:
    spacing = numbers(get("PixelSpacing"), 2)
    echo = _number(get("EchoTime"))
    own = dict(tags)
    for name in ("EchoTime", "DiffusionBValue", "ImageType", "SliceThickness"):
        if get(name) is not None:
            own[name] = tag_text(get(name))
    group = (
        *(str(get(name) or "") for name in _GROUPING),
        own.get("ImageType", ""),
        None if echo is None else round(echo, 2),
        _number(get("DiffusionBValue")),
        _number(get("InversionTime")),
        shape,
        None if spacing is None else tuple(np.round(spacing, 4).tolist()),
    )
    return SliceHeader(
        path=path,
        frame=frame,
        shape=shape,
        spacing=(1.0, 1.0) if spacing is None else (float(spacing[0]), float(spacing[1])),
        plane=Plane.from_header(get),
        thickness=_positive(get("SpacingBetweenSlices")) or _positive(get("SliceThickness")),
        rescale=(_positive(get("RescaleSlope")) or 1.0, _number(get("RescaleIntercept")) or 0.0),
        number=frame if frame else int(_number(dataset.get("InstanceNumber")) or 0),
        group=group,
        repeat=(_number(get("AcquisitionNumber")), _number(get("TriggerTime"))),
        subject=subject,
        tags=own,
    )


def _frame_getter(dataset: Any, shared: Any, frame: Any) -> Callable[[str], Any]:
    """Look an attribute up in the frame's functional groups, the shared ones, then at the top."""
    renamed = {
        "EchoTime": "EffectiveEchoTime",
        "ImageType": "FrameType",
        "TemporalPositionIdentifier": "TemporalPositionIndex",
        "AcquisitionNumber": "FrameAcquisitionNumber",
        "InversionTime": "InversionTimes",
    }

    def get(name: str) -> Any:
        inner = renamed.get(name, name)
        macro = _MACROS.get(inner)
        if macro is not None:
            for group in (frame, shared):
                item = _first(group.get(macro)) if group is not None else None
                if item is not None and item.get(inner) is not None:
                    return item.get(inner)
        return dataset.get(name)

    return get


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None


def _has_preamble(path: str | Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def subject_digest(patient_id: Any) -> str:
    """A pseudonym for PatientID: 12 hexadecimal digits of its SHA-256, "" for none."""
    text = str(patient_id or "").strip()
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12] if text else ""


def tag_text(value: Any) -> str:
    """A tag's value as text; several values joined by a backslash, as DICOM writes them."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        return str(value).strip()
    return "\\".join(str(item).strip() for item in value)


def numbers(value: Any, count: int) -> np.ndarray | None:
    """``count`` finite numbers as float64, or None."""
    try:
        array = np.asarray([float(item) for item in value], dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return array if array.shape == (count,) and np.isfinite(array).all() else None


def _number(value: Any) -> float | None:
    try:
        value = value[0] if hasattr(value, "__iter__") and not isinstance(value, str) else value
        number = float(value)
    except (TypeError, ValueError, IndexError):
        return None
    return number if np.isfinite(number) else None


def _positive(value: Any) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None


def one_line(error: BaseException) -> str:
    """An exception's message on one line, short."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


__all__ = [
    "MAX_FRAMES",
    "TAGS",
    "DicomError",
    "Plane",
    "SliceHeader",
    "numbers",
    "one_line",
    "read_dataset",
    "read_slice_headers",
    "subject_digest",
    "tag_text",
]
