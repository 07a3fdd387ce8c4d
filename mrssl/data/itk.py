"""NRRD and MetaImage volumes, through SimpleITK where it is installed; axes made canonical."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from mrssl.errors import MrsslError, optional_import
from mrssl.structures.volume import Volume, check_affine, transformed_geometry

#: Suffix -> name of the format.
ITK_FORMATS = {".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "metaimage", ".mhd": "metaimage"}
_MAX_DEFLATE_RATIO = 1032
_MAX_VOXELS = 2**29
_BYTES = {"8": 1, "16": 2, "32": 4, "64": 8}


def itk_format(path: str | Path) -> str:
    """The format that a file's name says, as in :data:`ITK_FORMATS`; "" for another."""
    return ITK_FORMATS.get(Path(path).suffix.lower(), "")


def read_itk_header(path: str | Path) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (D, H, W) in canonical axes R, A, S, and affine (4, 4) to RAS mm.

    Raises:
        MrsslError: unreadable, not 3-D, or SimpleITK is not installed.
    """
    _, shape, affine = _open(path)
    return transformed_geometry(shape, affine, _to_canonical(affine))


def read_itk(path: str | Path) -> Volume:
    """One volume in canonical axes.

    Raises:
        MrsslError: unreadable, truncated, not 3-D, or SimpleITK is not installed.
    """
    reader, _, affine = _open(path)
    sitk = optional_import("SimpleITK", "pip install SimpleITK")
    try:
        array = sitk.GetArrayFromImage(reader.Execute()).T  # x, y, z
    except Exception as error:  # ITK's, of many lines
        raise MrsslError(f"{path}: the voxels can't be read ({_last_line(error)})") from error
    with np.errstate(over="ignore"):
        values = np.nan_to_num(array.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    return Volume(values, affine).reoriented(_to_canonical(affine))


def _open(path: str | Path) -> tuple[Any, tuple[int, int, int], np.ndarray]:
    """SimpleITK's reader, the shape (x, y, z), and its affine to RAS mm."""
    sitk = optional_import("SimpleITK", "pip install SimpleITK")
    if not os.path.isfile(path):
        raise MrsslError(f"{path}: no such file")
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fspath(path))
    try:
        reader.ReadImageInformation()
        size, spacing = reader.GetSize(), np.array(reader.GetSpacing())
        kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
        if len(size) != 3 or reader.GetNumberOfComponents() != 1 or "complex" in kind:
            raise MrsslError(f"{path}: {len(size)} axes of {kind}; a 3-D volume is needed")
        direction = np.array(reader.GetDirection()).reshape(3, 3)
        origin = np.array(reader.GetOrigin())
    except RuntimeError as error:
        raise MrsslError(f"{path}: not readable ({_last_line(error)})") from error
    x, y, z = (int(n) for n in size)
    _check_size(path, float(x) * y * z, kind)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS
    try:
        check_affine(affine)
    except MrsslError as error:
        raise MrsslError(f"{path}: {error}") from error
    return reader, (x, y, z), affine


def _check_size(path: str | Path, voxels: float, kind: str) -> None:
    """Refuse a header that the file can't bear out; a detached header's voxels are elsewhere."""
    width = next((n for bits, n in _BYTES.items() if bits in kind), 4)
    detached = Path(path).suffix.lower() in (".nhdr", ".mhd")
    held = os.path.getsize(path) * _MAX_DEFLATE_RATIO
    if voxels > _MAX_VOXELS or (not detached and voxels * width > held):
        raise MrsslError(f"{path}: truncated: {voxels:.0f} voxels promised")


def _to_canonical(affine: np.ndarray) -> np.ndarray:
    return ornt_transform(io_orientation(affine), axcodes2ornt("RAS"))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


__all__ = ["ITK_FORMATS", "itk_format", "read_itk", "read_itk_header"]
