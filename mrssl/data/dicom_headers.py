"""DICOM files and their values, as far as this package reads them.

Only the header fields listed here are read, and of those that name a patient only PatientID, of
which a digest is made.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mrssl.errors import MrsslError, optional_import

#: Private fields: Siemens' description of a mosaic, Philips' factor from stored to real values.
CSA_IMAGE_HEADER = 0x00291010
PHILIPS_SCALE_SLOPE = 0x2005100E

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
GROUPING = (
    "SOPClassUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "EchoNumbers",
    "ComplexImageComponent",
    "TemporalPositionIdentifier",
)
GEOMETRY = (
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
    CSA_IMAGE_HEADER,
    PHILIPS_SCALE_SLOPE,
)


class DicomError(MrsslError):
    """A DICOM file that cannot be used; the message names the file and the reason."""


def read_dataset(path: str | Path, *, pixels: bool) -> Any:
    """Parse a DICOM file into a pydicom ``Dataset``.

    Args:
        path: the file; one without the preamble is accepted when its content makes sense.
        pixels: read everything; False reads only the fields that this package uses.

    Raises:
        DicomError: not DICOM, truncated or damaged.
    """
    pydicom = optional_import("pydicom", "pip install pydicom")
    wanted = None if pixels else [*TAGS, *GROUPING, *GEOMETRY]
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


def first(sequence: Any) -> Any:
    """The first item of a sequence, or None."""
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


def number(value: Any) -> float | None:
    """The (first) value as a finite number, or None."""
    try:
        value = value[0] if hasattr(value, "__iter__") and not isinstance(value, str) else value
        found = float(value)
    except (TypeError, ValueError, IndexError):
        return None
    return found if np.isfinite(found) else None


def positive(value: Any) -> float | None:
    """The (first) value as a number above 0, or None."""
    found = number(value)
    return found if found is not None and found > 0 else None


def one_line(error: BaseException) -> str:
    """An exception's message on one line, short."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


__all__ = [
    "CSA_IMAGE_HEADER",
    "PHILIPS_SCALE_SLOPE",
    "TAGS",
    "DicomError",
    "first",
    "number",
    "numbers",
    "one_line",
    "positive",
    "read_dataset",
    "subject_digest",
    "tag_text",
]
