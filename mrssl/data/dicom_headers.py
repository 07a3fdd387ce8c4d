"""DICOM files and their header values, as far as this package reads them.

Only the header fields listed here are read. Of those that name a patient these are PatientID, of
which a digest is made, and PatientName, to recognise it where a folder is named after it.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from mrssl.data.dicom_elements import (
    DEFLATED,
    OddFileError,
    RawHeader,
    raw_items,
    read_file_meta,
    read_raw_header,
)
from mrssl.errors import MrsslError, one_line

#: Private fields: Siemens' description of a mosaic, Philips' factor from stored to real values.
CSA_IMAGE_HEADER = 0x00291010
PHILIPS_SCALE_SLOPE = 0x2005100E
SEGMENTATION_STORAGE = "1.2.840.10008.5.1.4.1.1.66.4"
#: Their VRs, which a file of implicit VR does not state.
_PRIVATE_VRS = {CSA_IMAGE_HEADER: "OB", PHILIPS_SCALE_SLOPE: "FL"}

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
    "SOPInstanceUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "PatientID",
    "PatientName",
    "RescaleSlope",
    "RescaleIntercept",
    CSA_IMAGE_HEADER,
    PHILIPS_SCALE_SLOPE,
)
#: Functional groups of Enhanced objects, of all frames and of each (PS3.3 C.7.6.16).
SEQUENCES = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
#: What they keep where classic objects have it at the top: by macro, the attribute and the classic
#: one that it stands for.
MACROS = {
    "PlanePositionSequence": {"ImagePositionPatient": "ImagePositionPatient"},
    "PlaneOrientationSequence": {"ImageOrientationPatient": "ImageOrientationPatient"},
    "PixelMeasuresSequence": {
        "PixelSpacing": "PixelSpacing",
        "SliceThickness": "SliceThickness",
        "SpacingBetweenSlices": "SpacingBetweenSlices",
    },
    "MREchoSequence": {"EffectiveEchoTime": "EchoTime"},
    "MRDiffusionSequence": {"DiffusionBValue": "DiffusionBValue"},
    "MRModifierSequence": {"InversionTimes": "InversionTime"},
    "MRImageFrameTypeSequence": {
        "FrameType": "ImageType",
        "ComplexImageComponent": "ComplexImageComponent",
    },
    "FrameContentSequence": {
        "TemporalPositionIndex": "TemporalPositionIdentifier",
        "FrameAcquisitionNumber": "AcquisitionNumber",
    },
    "PixelValueTransformationSequence": {
        "RescaleSlope": "RescaleSlope",
        "RescaleIntercept": "RescaleIntercept",
    },
}
_CHARACTER_SET = 0x00080005
_PADDINGS, _SIGNED = (0x00280120, 0x00280121), 0x00280103

#: First groups of a file without preamble: file meta information, or the identifying group.
_FIRST_GROUPS = frozenset((b"\x02\0", b"\0\x02", b"\x08\0", b"\0\x08"))
#: Bytes that the file meta information is looked for in.
_META_BYTES = 1 << 14
#: What a deflated file may inflate to: so many times its size, where that is within these bytes.
_MAX_INFLATION, _MIN_INFLATED, _MAX_INFLATED = 32, 1 << 23, 1 << 28


class DicomError(MrsslError):
    """A DICOM file that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a file that this package uses.

    Attributes:
        values: by keyword (private ones by tag), converted by pydicom; empty ones are left out.
            The items of a sequence are dictionaries, or ``Dataset`` objects, of the same names.
        syntax: UID of the transfer syntax; "" where the file does not say.
        offset: byte of the file where uncompressed pixels begin; None where they must be decoded.
    """

    values: dict[str | int, Any]
    syntax: str
    offset: int | None


def read_header(path: str | Path) -> Header:
    """The fields that this package uses, without the pixels.

    Raises:
        DicomError: not DICOM, truncated or damaged.
    """
    with _reading(path) as stream:
        with suppress(OddFileError):
            raw = read_raw_header(stream, _wanted().keys())
            return Header(_converted(raw), raw.syntax, raw.offset)
        stream.seek(0)
        dataset = _parse(path, stream, stop_before_pixels=True, specific_tags=list(_wanted()))
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
        values = {_wanted()[e.tag]: e.value for e in dataset if e.tag in _wanted()}
        return Header({k: v for k, v in values.items() if v not in (None, "")}, syntax, None)


def read_dataset(path: str | Path) -> Any:
    """Parse a DICOM file, pixels and all, into a pydicom ``Dataset``.

    Args:
        path: the file; one without the preamble is accepted when its content makes sense.

    Raises:
        DicomError: not DICOM, truncated or damaged.
    """
    with _reading(path) as stream:
        return _parse(path, stream)


@contextmanager
def _reading(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file; whatever goes wrong while it is parsed is a DicomError that names it."""
    try:
        with warnings.catch_warnings(), open(path, "rb") as stream:
            warnings.simplefilter("ignore")
            yield stream
    except FileNotFoundError as error:
        raise DicomError(f"{path}: no such file") from error
    except DicomError:
        raise
    except Exception as error:  # pydicom raises many kinds on damaged files
        raise DicomError(f"{path}: not a readable DICOM file ({one_line(error)})") from error


def _parse(path: str | Path, stream: BinaryIO, **options: Any) -> Any:
    import pydicom

    head = stream.read(_META_BYTES)
    stream.seek(0)
    preamble = head[128:132] == b"DICM"
    if not preamble and head[:2] not in _FIRST_GROUPS:
        raise DicomError(f"{path}: neither DICOM nor NIfTI")
    syntax, end = read_file_meta(head)
    if syntax == DEFLATED:
        stream = _inflated(stream.read(), end)
    elif not syntax and DEFLATED.encode() in stream.read():
        raise ValueError("deflated, and its file meta information is damaged")
    stream.seek(0)
    return pydicom.dcmread(stream, force=not preamble, **options)


def _inflated(data: bytes, start: int) -> BinaryIO:
    """A deflated file (PS3.5 A.5), its data set inflated; one that swells too much is refused."""
    limit = min(max(_MIN_INFLATED, _MAX_INFLATION * len(data)), _MAX_INFLATED)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    dataset = inflater.decompress(data[start:], limit)
    if inflater.unconsumed_tail:
        raise ValueError(f"deflated: {len(data)} bytes that swell to over {limit}")
    plain = b"1.2.840.10008.1.2.1".ljust(len(DEFLATED), b"\0")
    return io.BytesIO(data[:start].replace(DEFLATED.encode(), plain) + dataset)


@lru_cache(maxsize=1)
def _wanted() -> dict[int, str | int]:
    """Tag -> the name of its value, of all that is read."""
    from pydicom.datadict import tag_for_keyword

    inner = (name for names in MACROS.values() for name in names)
    fields = ("SpecificCharacterSet", *TAGS, *GROUPING, *GEOMETRY)
    names: tuple[str | int, ...] = (*fields, *SEQUENCES, *MACROS, *inner)
    tags = (name if isinstance(name, int) else tag_for_keyword(name) for name in names)
    return {tag: name for tag, name in zip(tags, names, strict=True) if tag is not None}


def _converted(raw: RawHeader) -> dict[str | int, Any]:
    """Values by name, through pydicom.

    From slice to slice most fields repeat, so converted values are kept and found again by their
    bytes: this saves most of the time that conversion takes.
    """
    character_set = raw.elements.get(_CHARACTER_SET)
    values: dict[str | int, Any] = {}
    new: list[tuple[int, Any]] = []
    for tag, (vr, content) in raw.elements.items():
        name = _wanted()[tag]
        if name in SEQUENCES or name in MACROS:
            if vr == "UN":  # PS3.5 6.2.2: coded in a way of its own
                raise OddFileError
            values[name] = [_converted(i) for i in raw_items(content, raw, _wanted().keys())]
            continue
        key = (tag, vr, raw.little_endian, character_set, content)
        if (value := _CONVERTED.get(key)) is not None:
            values[name] = value
        else:
            new.append((tag, key))
    if new:
        dataset = _dataset(raw, {_CHARACTER_SET, _SIGNED, *(tag for tag, _ in new)})
        for tag, key in new:
            values[_wanted()[tag]] = value = dataset[tag].value
            # Padding is read as PixelRepresentation says, which is no part of the key.
            if len(key[-1]) <= _MAX_KEPT_BYTES and tag not in _PADDINGS:
                _CONVERTED[key] = value
        if len(_CONVERTED) > _MAX_CONVERTED:
            _CONVERTED.clear()
    return values


def forget_values() -> None:
    """Convert every value anew from here on."""
    _CONVERTED.clear()


_CONVERTED: dict[Any, Any] = {}
_MAX_CONVERTED, _MAX_KEPT_BYTES = 20_000, 256


def _dataset(raw: RawHeader, tags: Iterable[int]) -> Any:
    """A pydicom ``Dataset`` of some of the elements, which converts them when it is asked."""
    from pydicom import Dataset
    from pydicom.dataelem import RawDataElement
    from pydicom.tag import BaseTag

    elements: dict[Any, Any] = {}
    for tag in tags:
        if tag in raw.elements:
            vr, content = raw.elements[tag]
            coding = raw.implicit, raw.little_endian
            vr = vr or _PRIVATE_VRS.get(tag)
            key = BaseTag(tag)
            elements[key] = RawDataElement(key, vr, len(content), content, 0, *coding)
    return Dataset(elements)


__all__ = [
    "CSA_IMAGE_HEADER",
    "MACROS",
    "PHILIPS_SCALE_SLOPE",
    "SEGMENTATION_STORAGE",
    "TAGS",
    "DicomError",
    "Header",
    "forget_values",
    "read_dataset",
    "read_header",
]
