"""NIfTI volumes, through nibabel, oriented to the closest canonical axes (RAS+).

A header is believed only as far as the bytes of its file bear it out: nothing is allocated on the
word of a header alone.
"""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    io_orientation,
    ornt_transform,
)

from mrssl.errors import MrsslError, one_line
from mrssl.structures.volume import Volume, affine_axes, check_affine, transformed_geometry

NIFTI_SUFFIXES = (".nii", ".nii.gz")

#: Bytes that deflate can make of one byte, at most (zlib's technical notes: 1032 : 1).
_MAX_DEFLATE_RATIO = 1032
#: Voxels of one 3-D volume, at most: 2 GiB as float32.
MAX_VOXELS = 2**29
#: Volumes of one 4-D file, at most.
MAX_VOLUMES = 20_000
_CHUNK = 1 << 20
_UNIT_TO_MM = {"meter": 1000.0, "micron": 0.001}


@dataclass(frozen=True)
class NiftiHeader:
    """What the header says of the voxels, in canonical axes.

    Attributes:
        shape: (D, H, W) of one volume, canonical axes R, A, S.
        affine: (4, 4) float64, voxel (d, h, w, 1) to RAS+ mm.
        num_volumes: length of the fourth axis; 1 for a 3-D file.
        transform: (3, 2) orientation array from the file's axes to the canonical ones.
        axes: where the file's axes run, as in "LPS".
        faults: what is doubtful about the geometry.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    num_volumes: int
    transform: np.ndarray
    axes: str
    faults: tuple[str, ...]


def is_nifti(path: str | Path) -> bool:
    """Whether the name says NIfTI."""
    return str(path).lower().endswith(NIFTI_SUFFIXES)


def read_nifti_header(path: str | Path) -> NiftiHeader:
    """Geometry of a NIfTI file, without its voxels.

    Raises:
        MrsslError: not a NIfTI file, a header that the file's size belies, no 3-D geometry, or
            no scaling of the voxels.
    """
    return _parsed(path)[1]


def _parsed(path: str | Path) -> tuple[Any, NiftiHeader]:
    """Nibabel's header, and what it says in canonical axes."""
    raw = open_header(path)
    try:
        raw.get_slope_inter()  # refuses an intercept that is not finite
        _check_size(path, raw, os.path.getsize(path))
        return raw, _canonical_header(path, raw)
    except MrsslError:
        raise
    except Exception as error:  # nibabel, of codes, quaternions and scalings that are none
        raise MrsslError(f"{path}: damaged NIfTI header ({one_line(error)})") from error


def read_nifti(path: str | Path, index: int | None = None) -> Volume:
    """One volume of a NIfTI file: intensities scaled as the header says, axes canonical.

    Args:
        path: a ``.nii`` or ``.nii.gz`` file.
        index: which volume of a 4-D file, from 0.

    Raises:
        MrsslError: unreadable or truncated; or a 4-D file without a valid ``index``.
    """
    raw, header = _parsed(path)
    index = _checked_index(path, index, header.num_volumes)
    try:
        array = _read_voxels(path, raw, index)
    except (OSError, EOFError, ValueError, zlib.error, MemoryError, OverflowError) as error:
        raise MrsslError(f"{path}: the voxels can't be read ({one_line(error)})") from error
    return Volume(apply_orientation(array, header.transform), header.affine)


def _checked_index(path: str | Path, index: int | None, count: int) -> int:
    if index is None and count > 1:
        raise MrsslError(f"{path}: holds {count} volumes; say which, 0 to {count - 1}")
    index = index or 0
    if not 0 <= index < count:
        raise MrsslError(f"{path}: no volume {index}; it holds {count}")
    return index


def open_header(path: str | Path) -> Any:
    """Parse the header alone: a nibabel NIfTI-1 or NIfTI-2 header.

    Raises:
        MrsslError: no such file, or no NIfTI header in it.
    """
    try:
        with _open(path) as stream:
            block = stream.read(544)  # a NIfTI-2 header and the extension flag
    except FileNotFoundError as error:
        raise MrsslError(f"{path}: no such file") from error
    except (OSError, EOFError, zlib.error) as error:
        raise MrsslError(f"{path}: not a NIfTI file ({one_line(error)})") from error
    for klass in (nib.Nifti1Image, nib.Nifti2Image):
        length = klass.header_class.sizeof_hdr
        magic = block[344:348] if length == 348 else block[4:8]
        if magic[:3] not in (b"n+1", b"n+2") or len(block) < length:
            continue
        try:
            header = klass.header_class(block[:length], check=True)
        except Exception as error:  # nibabel raises its own, and NumPy's for nonsense
            raise MrsslError(f"{path}: damaged NIfTI header ({one_line(error)})") from error
        return header
    raise MrsslError(f"{path}: not a NIfTI file (it has no NIfTI header)")


def _check_size(path: str | Path, header: Any, file_size: int) -> None:
    shape = [int(n) for n in header.get_data_shape()]
    dtype = header.get_data_dtype()
    if dtype.fields or dtype.kind not in "iuf":
        raise MrsslError(f"{path}: voxels of type {header.get_value_label('datatype')} are not MRI")
    if len(shape) < 2 or min(shape) < 1:
        raise MrsslError(f"{path}: shape {tuple(shape)} is not that of a volume")
    voxels, volumes = (float(np.prod(np.array(n, float))) for n in (shape[:3], shape[3:]))
    if voxels > MAX_VOXELS or volumes > MAX_VOLUMES:
        raise MrsslError(f"{path}: shape {tuple(shape)} is larger than can be real")
    expected = _offset(header) + voxels * volumes * dtype.itemsize
    held = file_size * _MAX_DEFLATE_RATIO if _is_gzip(path) else file_size
    if expected > held:
        raise MrsslError(
            f"{path}: truncated: shape {tuple(shape)} of {dtype} needs {expected:.0f} bytes, "
            f"the file has {file_size}"
        )


def _canonical_header(path: str | Path, header: Any) -> NiftiHeader:
    shape = [int(n) for n in header.get_data_shape()]
    if any(n > 1 for n in shape[4:]):
        raise MrsslError(f"{path}: {len(shape)} axes {tuple(shape)}; 3 or 4 are understood")
    depth, height, width = [*shape[:3], 1][:3]
    affine, faults = _affine(header)
    try:
        check_affine(affine)
    except MrsslError as error:
        raise MrsslError(f"{path}: {error}") from error
    transform = ornt_transform(io_orientation(affine), axcodes2ornt("RAS"))
    canonical_shape, canonical = transformed_geometry((depth, height, width), affine, transform)
    count = shape[3] if len(shape) > 3 else 1
    axes = affine_axes(affine)
    return NiftiHeader(canonical_shape, canonical, count, transform, axes, faults)


def _affine(header: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    faults: tuple[str, ...] = ()
    affine = np.array(header.get_best_affine(), dtype=np.float64)
    if not int(header["qform_code"]) and not int(header["sform_code"]):
        faults = ("no orientation (qform and sform code 0): left and right are a guess",)
    unit = header.get_xyzt_units()[0]
    affine[:3] *= _UNIT_TO_MM.get(unit, 1.0)
    return affine, faults


def _read_voxels(path: str | Path, header: Any, index: int) -> np.ndarray:
    """The volume ``index`` as float32 in the file's axis order, scaled, finite."""
    shape = [*(int(n) for n in header.get_data_shape()), 1][:3]
    dtype = header.get_data_dtype()
    count = int(np.prod(shape))
    start = _offset(header) + index * count * dtype.itemsize
    raw = _read_bytes(path, start, count * dtype.itemsize)
    with np.errstate(over="ignore", invalid="ignore"):
        array = np.frombuffer(raw, dtype).reshape(shape, order="F").astype(np.float32)
    slope, intercept = header.get_slope_inter()
    if slope is not None and (slope, intercept) != (1.0, 0.0):
        array = array * np.float32(slope) + np.float32(intercept or 0.0)
    return np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _read_bytes(path: str | Path, start: int, length: int) -> bytearray:
    """``length`` bytes from ``start``; memory grows only as real bytes come in."""
    data = bytearray()
    with _open(path) as stream:
        stream.seek(start)
        while len(data) < length:
            chunk = stream.read(min(_CHUNK, length - len(data)))
            if not chunk:
                raise EOFError(f"truncated: {len(data)} of {length} bytes")
            data += chunk
        stream.read(1)  # at the end of a .gz this checks the checksum
    return data


def _offset(header: Any) -> int:
    offset = float(header["vox_offset"])
    return int(offset) if np.isfinite(offset) and offset >= 0 else 0


def _is_gzip(path: str | Path) -> bool:
    return str(path).lower().endswith(".gz")


def _open(path: str | Path) -> Any:
    return gzip.open(path, "rb") if _is_gzip(path) else open(path, "rb")


__all__ = [
    "NIFTI_SUFFIXES",
    "NiftiHeader",
    "is_nifti",
    "open_header",
    "read_nifti",
    "read_nifti_header",
]
