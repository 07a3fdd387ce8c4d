"""DICOM files and their values, as far as this package reads them.

Only the header fields listed here are read, and of those that name a patient only PatientID, of
which a digest is made.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mrssl.errors import MrsslError, optional_import

#: Private fields: Siemens' description of a mosaic, Philips' factor from stored to real values.
CSA_IMAGE_HEADER = 0x00291010
PHILIPS_SCALE_SLOPE = 0x2005100E
SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"

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
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PatientID",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    CSA_IMAGE_HEADER,
    PHILIPS_SCALE_SLOPE,
)


#: Transfer syntaxes whose pixels lie in the file as they are: (explicit VR, byte order).
_NATIVE = {
    "1.2.840.10008.1.2": (False, "<"),
    "1.2.840.10008.1.2.1": (True, "<"),
    "1.2.840.10008.1.2.2": (True, ">"),
}


class DicomError(MrsslError):
    """A DICOM file that cannot be used; the message names the file and the reason."""


def read_dataset(path: str | Path) -> Any:
    """Parse a DICOM file, pixels and all, into a pydicom ``Dataset``.

    Args:
        path: the file; one without the preamble is accepted when its content makes sense.

    Raises:
        DicomError: not DICOM, truncated or damaged.
    """
    return _parse(path)[0]


def read_header(path: str | Path) -> tuple[Any, int | None]:
    """The fields that this package uses, and where uncompressed pixels begin.

    Returns:
        a pydicom ``Dataset`` without pixels, and the offset of the first pixel's first byte in
        the file, or None where the pixels are not simply there.

    Raises:
        DicomError: not DICOM, truncated or damaged.
    """
    return _parse(path, stop_before_pixels=True, specific_tags=[*TAGS, *GROUPING, *GEOMETRY])


def _parse(path: str | Path, **options: Any) -> tuple[Any, int | None]:
    pydicom = optional_import("pydicom", "pip install pydicom")
    try:
        with warnings.catch_warnings(), open(path, "rb") as stream:
            warnings.simplefilter("ignore")
            force = stream.read(132)[128:] != b"DICM"
            stream.seek(0)
            dataset = pydicom.dcmread(stream, force=force, **options)
            return dataset, _native_offset(stream, dataset) if options else None
    except FileNotFoundError as error:
        raise DicomError(f"{path}: no such file") from error
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise DicomError(f"{path}: not a readable DICOM file ({one_line(error)})") from error


def _native_offset(stream: Any, dataset: Any) -> int | None:
    """Where the value of PixelData begins, if the stream stands before it (PS3.5 7.1, A.4)."""
    syntax = str(getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", ""))
    if syntax not in _NATIVE:
        return None
    explicit, order = _NATIVE[syntax]
    position = stream.tell()
    head = stream.read(12 if explicit else 8)
    if head[:4] != struct.pack(f"{order}HH", 0x7FE0, 0x0010):
        return None
    (length,) = struct.unpack(f"{order}I", head[-4:])
    return None if length == 0xFFFFFFFF else position + len(head)


def header_values(dataset: Any) -> dict[str | int, Any]:
    """The values of a dataset by keyword (private ones by tag); sequences are left out.

    From slice to slice most fields repeat, so converted values are kept and found again by their
    bytes: this halves the time that a folder's headers take.
    """
    from pydicom.datadict import keyword_for_tag

    values: dict[str | int, Any] = {}
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        if raw.VR == "SQ":
            continue
        name = keyword_for_tag(tag) or int(tag)
        content = raw.value
        if type(content) is not bytes or len(content) > 256 or not content.isascii():
            values[name] = dataset[tag].value
            continue
        key = (tag, raw.VR, raw.is_little_endian, content)
        if key not in _CONVERTED:
            if len(_CONVERTED) >= _MAX_CONVERTED:
                _CONVERTED.clear()
            _CONVERTED[key] = dataset[tag].value
        values[name] = _CONVERTED[key]
    return values


_CONVERTED: dict[Any, Any] = {}
_MAX_CONVERTED = 20_000


def first(sequence: Any) -> Any:
    """The first item of a sequence, or None."""
    return sequence[0] if sequence else None


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
    "SEGMENTATION_STORAGE",
    "TAGS",
    "DicomError",
    "first",
    "header_values",
    "number",
    "numbers",
    "one_line",
    "positive",
    "read_dataset",
    "read_header",
    "subject_digest",
    "tag_text",
]
