"""The slices of a DICOM file: where each lies, and what tells series apart.

A classic file has one slice, an Enhanced multi-frame file one a frame (functional groups, PS3.3
C.7.6.16), a Siemens mosaic one a tile. Nothing that names a patient leaves this module: the
subject and the study are digests, and UIDs stay inside the grouping values.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrssl.data.dicom_elements import BIG_ENDIAN
from mrssl.data.dicom_headers import (
    CSA_IMAGE_HEADER,
    GROUPING,
    MACROS,
    PHILIPS_SCALE_SLOPE,
    SEGMENTATION_STORAGE,
    TAGS,
    DicomError,
    Header,
    read_header,
)
from mrssl.data.dicom_values import first, number, numbers, positive, tag_text
from mrssl.errors import one_line
from mrssl.privacy import patient_marks, pseudonym

#: Largest difference of direction cosines within a volume.
_SAME_DIRECTION = 1e-3
#: Frames in one file, at most.
MAX_FRAMES = 100_000
#: Farther (mm) from the scanner's origin lies no patient: the differences of such places overflow.
_FARTHEST = 1e6


@dataclass(frozen=True, slots=True)
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
    def from_header(cls, values: Mapping[str | int, Any]) -> Plane | None:
        """From ImagePositionPatient and ImageOrientationPatient; None if either is no use."""
        position = numbers(values.get("ImagePositionPatient"), 3)
        cosines = numbers(values.get("ImageOrientationPatient"), 6)
        if position is None or cosines is None or np.abs(position).max() > _FARTHEST:
            return None
        columns, rows = cosines[:3], cosines[3:]
        lengths = np.linalg.norm(columns), np.linalg.norm(rows)
        if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(columns @ rows) > 0.1:
            return None
        return cls(position, columns, rows)


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How a file stores its pixels (PS3.3 C.7.6.3).

    Attributes:
        frames: pictures in the file.
        shape: (rows, columns) of each.
        bits: allocated for a pixel, and of them used.
        signed: two's complement.
        inverted: MONOCHROME1: the lowest value is shown as white.
        padding: lowest and highest stored value of pixels outside the reconstructed picture (PS3.3
            C.7.5.1.1.2); None for none.
        offset: byte in the file where the first pixel begins; None where they must be decoded.
        big_endian: byte order, for ``offset``.
    """

    frames: int
    shape: tuple[int, int]
    bits: tuple[int, int]
    signed: bool
    inverted: bool
    padding: tuple[int, int] | None
    offset: int | None
    big_endian: bool

    @classmethod
    def from_header(cls, header: Header, frames: int, shape: tuple[int, int]) -> PixelFormat:
        """From a header, the number of frames in it, and the (rows, columns) of each."""
        values = header.values
        allocated = int(values.get("BitsAllocated") or 16)
        stored = int(values.get("BitsStored") or allocated)
        signed = values.get("PixelRepresentation") == 1
        direct = allocated in (16, 32) and 0 < stored <= allocated
        return cls(
            frames=frames,
            shape=shape,
            bits=(allocated, stored),
            signed=signed,
            inverted=values.get("PhotometricInterpretation") == "MONOCHROME1",
            padding=_padding(header, allocated, signed=signed),
            offset=header.offset if direct else None,
            big_endian=header.syntax == BIG_ENDIAN,
        )


def _padding(header: Header, allocated: int, *, signed: bool) -> tuple[int, int] | None:
    value = number(header.values.get("PixelPaddingValue"))
    if value is None:
        return None
    limit = number(header.values.get("PixelPaddingRangeLimit"))
    ends = [int(value), int(value if limit is None else limit)]
    if signed:  # may be written as if it were unsigned
        ends = [end - 2**allocated if end >= 2 ** (allocated - 1) else end for end in ends]
    return min(ends), max(ends)


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """One slice: where its pixels are, where it lies, and what it belongs to.

    Attributes:
        path: the file.
        frame: index of the frame in a multi-frame file; 0 otherwise.
        shape: (rows, columns).
        pixels: how the file stores them.
        spacing: mm between rows and between columns; None where the file does not say.
        plane: where it lies; None where the file does not say.
        thickness: mm to the next slice according to the header; None where missing.
        rescale: slope and intercept from stored values to intensities.
        scale: Philips' scale slope, where the file has one.
        mosaic: tiles along a side of the stored picture, of which ``frame`` is one; 1 = none.
        number: InstanceNumber, or the frame's index in a multi-frame file.
        identity: header values that must agree within a volume; none names a person.
        repeat: values that may tell repeats at one position apart, in the order to be tried.
        subject: digest of PatientID, "" where the file has none.
        marks: by which the patient's name and ID are recognised, see :mod:`mrssl.privacy`.
        tags: the fields of :data:`TAGS` that the file has, ``SOPClass`` and ``Kind``, as text.
    """

    path: str
    frame: int
    shape: tuple[int, int]
    pixels: PixelFormat
    spacing: tuple[float, float] | None
    plane: Plane | None
    thickness: float | None
    rescale: tuple[float, float]
    scale: float | None
    mosaic: int
    number: int
    identity: tuple[Any, ...]
    repeat: tuple[Any, ...]
    subject: str
    marks: frozenset[str] = field(repr=False)
    tags: dict[str, str] = field(repr=False)

    @property
    def study(self) -> str:
        """Digest of StudyInstanceUID, "" where the file has none."""
        return pseudonym(self.identity[GROUPING.index("StudyInstanceUID")])

    @property
    def group(self) -> tuple[Any, ...]:
        """All that must agree within a volume: a file of several frames stands for itself."""
        return (*self.identity, self.path) if self.pixels.frames > 1 else self.identity


def read_slice_headers(path: str | Path) -> list[SliceHeader]:
    """The slices of one file, without their pixels.

    Raises:
        DicomError: not DICOM, damaged, or not an image of numbers in a plane.
    """
    header = read_header(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _slices(str(path), header)
    except DicomError:
        raise
    except Exception as error:  # lazily converted values of damaged files
        raise DicomError(f"{path}: damaged DICOM header ({one_line(error)})") from error


def _slices(path: str, header: Header) -> list[SliceHeader]:
    values = header.values
    if "Rows" not in values or "Columns" not in values:
        what = getattr(values.get("SOPClassUID"), "name", "")
        raise DicomError(
            f"{path}: {f'no image in it ({what})' if what else 'neither DICOM nor NIfTI'}"
        )
    if values.get("SOPClassUID") == SEGMENTATION_STORAGE:
        raise DicomError(f"{path}: a segmentation, no image: name it as a label")
    if int(values.get("SamplesPerPixel") or 1) != 1:
        raise DicomError(f"{path}: a colour picture, not MRI")
    frames = int(values.get("NumberOfFrames") or 1)
    if not 0 < frames <= MAX_FRAMES:
        raise DicomError(f"{path}: NumberOfFrames {frames} makes no sense")
    shape = (int(values["Rows"]), int(values["Columns"]))
    if min(shape) < 1:
        raise DicomError(f"{path}: {shape[0]} x {shape[1]} pixels")
    shared = first(values.get("SharedFunctionalGroupsSequence"))
    per_frame = values.get("PerFrameFunctionalGroupsSequence")
    if frames > 1 and per_frame is None:
        raise DicomError(f"{path}: {frames} frames without a position each")
    if per_frame is not None and len(per_frame) != frames:
        raise DicomError(f"{path}: {frames} frames, but functional groups for {len(per_frame)}")
    pixels = PixelFormat.from_header(header, frames, shape)
    if per_frame is not None:
        if shared is not None:
            values |= _group_values(shared)
        return [
            replace(item, frame=i, number=i if frames > 1 else item.number)
            for i, group in enumerate(per_frame)
            for item in [_slice(path, values | _group_values(group), pixels)]
        ]
    item = _slice(path, values, pixels)
    return _mosaic_tiles(item, values) if "MOSAIC" in item.tags.get("ImageType", "") else [item]


def _slice(path: str, values: Mapping[str | int, Any], pixels: PixelFormat) -> SliceHeader:
    get = values.get
    spacing = numbers(get("PixelSpacing"), 2)
    if spacing is not None and not (spacing > 0).all():
        spacing = None
    echo = number(get("EchoTime"))
    tags = {name: tag_text(value) for name in TAGS if (value := get(name)) is not None}
    tags |= _told_apart(values, tags.get("ImageType", ""))
    subject = pseudonym(get("PatientID"))
    identity = (
        *(str(get(name) or "") for name in GROUPING),
        subject,
        tags.get("ImageType", ""),
        None if echo is None else round(echo, 2),
        number(get("DiffusionBValue")),
        number(get("InversionTime")),
        str(get("SOPInstanceUID") or "") if pixels.frames > 1 else "",
        pixels.shape,
        None if spacing is None else tuple(np.round(spacing, 4).tolist()),
    )
    return SliceHeader(
        path=path,
        frame=0,
        shape=pixels.shape,
        pixels=pixels,
        spacing=None if spacing is None else (float(spacing[0]), float(spacing[1])),
        plane=Plane.from_header(values),
        thickness=positive(get("SpacingBetweenSlices")) or positive(get("SliceThickness")),
        rescale=(number(get("RescaleSlope")) or 1.0, number(get("RescaleIntercept")) or 0.0),
        scale=positive(get(PHILIPS_SCALE_SLOPE)),
        mosaic=1,
        number=int(number(get("InstanceNumber")) or 0),
        identity=identity,
        repeat=(number(get("AcquisitionNumber")), number(get("TriggerTime"))),
        subject=subject,
        marks=patient_marks(str(get("PatientName") or ""), str(get("PatientID") or "")),
        tags=tags,
    )


def _told_apart(values: Mapping[str | int, Any], image_type: str) -> dict[str, str]:
    """Two fields to choose by that no header has: the kind of object, and the kind of picture."""
    words = set(image_type.upper().split("\\"))
    kinds = {
        "localizer": {"LOCALIZER", "SCOUT"},
        "phase": {"P", "PHASE", "PHASE MAP", "VELOCITY MAP", "PHASE CONTRAST"},
        "real": {"R", "REAL"},
        "imaginary": {"I", "IMAGINARY"},
        "derived": {"DERIVED"},
    }
    kind = next((name for name, marks in kinds.items() if marks & words), "magnitude")
    return {"SOPClass": str(getattr(values.get("SOPClassUID"), "name", "")), "Kind": kind}


def _group_values(group: Any) -> dict[str | int, Any]:
    """What one item of the functional groups says, under the classic names."""
    found: dict[str | int, Any] = {}
    for macro, names in MACROS.items():
        item = first(group.get(macro)) if macro in group else None
        if item is None:
            continue
        for inner, name in names.items():
            if (value := item.get(inner)) is not None:
                found[name] = value
    return found


def _mosaic_tiles(item: SliceHeader, values: Mapping[str | int, Any]) -> list[SliceHeader]:
    """The slices of a Siemens mosaic: one picture that holds a volume's slices as tiles.

    ImagePositionPatient is that of a single slice as large as the whole mosaic about the same
    centre (https://nipy.org/nibabel/dicom/dicom_mosaic.html).

    Raises:
        DicomError: no description of the tiles, or one that does not fit the picture.
    """
    from nibabel.nicom import csareader

    content = values.get(CSA_IMAGE_HEADER)
    csa = csareader.read(content) if isinstance(content, bytes) and content else None
    count = csareader.get_n_mosaic(csa) if csa else None
    if not count:
        raise DicomError(f"{item.path}: a mosaic whose number of tiles is not stated")
    side = math.ceil(math.sqrt(count))
    if item.shape[0] % side or item.shape[1] % side:
        raise DicomError(f"{item.path}: {count} tiles do not fit {item.shape[0]} x {item.shape[1]}")
    shape = (item.shape[0] // side, item.shape[1] // side)
    normal = numbers(csareader.get_slice_normal(csa), 3)
    if item.plane is None or normal is None or item.spacing is None or item.thickness is None:
        raise DicomError(f"{item.path}: a mosaic without geometry")
    corner = (
        item.plane.position
        + item.plane.rows * item.spacing[0] * (item.shape[0] - shape[0]) / 2
        + item.plane.columns * item.spacing[1] * (item.shape[1] - shape[1]) / 2
    )
    return [
        replace(
            item,
            frame=index,
            shape=shape,
            plane=replace(item.plane, position=corner + normal * item.thickness * index),
            mosaic=side,
            number=item.number * count + index,
        )
        for index in range(count)
    ]


__all__ = ["MAX_FRAMES", "PixelFormat", "Plane", "SliceHeader", "read_slice_headers"]
