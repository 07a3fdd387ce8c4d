"""NRRD and MetaImage volumes, through SimpleITK where it is installed; axes made canonical."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from mrssl.errors import MrsslError, optional_import
from mrssl.structures.volume import Volume, affine_axes, check_affine, transformed_geometry

#: Suffix -> name of the format.
ITK_FORMATS = {".nrrd": "nrrd", ".nhdr": "nrrd", ".mha": "metaimage", ".mhd": "metaimage"}
_MAX_DEFLATE_RATIO = 1032
_MAX_VOXELS = 2**29
#: Where a header says which file holds the voxels; and bytes in which it must end.
_DATA_FILE = {
    "nrrd": re.compile(rb"^\s*data ?file\s*:=?\s*(.*?)\s*$", re.I | re.M),
    "metaimage": re.compile(rb"^\s*ElementDataFile\s*[=:]\s*(.*?)\s*$", re.I | re.M),
}
_HEADER_END = re.compile(rb"\r?\n\r?\n")  # of NRRD
_MAX_HEADER = 1 << 16
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


def read_itk_axes(path: str | Path) -> str:
    """Where the file's own axes run, as in "LPS".

    Raises:
        MrsslError: see :func:`read_itk_header`.
    """
    return affine_axes(_open(path)[2])


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
    data_file = voxel_file(path)
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
    _check_size(path, float(x) * y * z, kind, os.path.getsize(data_file))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine  # LPS to RAS
    try:
        check_affine(affine)
    except MrsslError as error:
        raise MrsslError(f"{path}: {error}") from error
    return reader, (x, y, z), affine


def voxel_file(path: str | Path) -> Path:
    """The file that holds the voxels: ``path`` itself, or one that its header names.

    Raises:
        MrsslError: the header is too long, or names no file, several, or one outside its folder.
    """
    path, kind = Path(path), itk_format(path)
    with open(path, "rb") as stream:
        head = stream.read(_MAX_HEADER)
    end = _HEADER_END.search(head)
    if kind == "nrrd" and end is None and len(head) == _MAX_HEADER:
        raise MrsslError(f"{path}: its header does not end")
    header = head[: end.start()] if end and kind == "nrrd" else head
    names = [name.decode("utf-8", "replace") for name in _DATA_FILE[kind].findall(header)]
    if kind == "metaimage" and not names:
        raise MrsslError(f"{path}: no ElementDataFile in its header")
    if not names or (len(names) == 1 and names[0].upper() == "LOCAL"):
        return path
    name = names[0]
    if len(names) > 1 or "%" in name or name.upper().split(" ")[0] == "LIST":
        raise MrsslError(f"{path}: its voxels lie in several files; one is needed")
    file = path.parent / name
    try:
        inside = file.resolve().is_relative_to(path.parent.resolve())
        there = file.is_file()
    except (OSError, ValueError) as error:  # a name that can't be one
        raise MrsslError(f"{path}: names {name[:80]!r} as the file with its voxels") from error
    if not inside:
        raise MrsslError(f"{path}: names a file outside its folder as the one with its voxels")
    if not there:
        raise MrsslError(f"{path}: the file with its voxels, {name[:80]!r}, is missing")
    return file


def _check_size(path: str | Path, voxels: float, kind: str, file_size: int) -> None:
    """Refuse a header that the file with the voxels can't bear out."""
    width = next((n for bits, n in _BYTES.items() if bits in kind), 4)
    if voxels > _MAX_VOXELS or voxels * width > file_size * _MAX_DEFLATE_RATIO:
        raise MrsslError(f"{path}: truncated: {voxels:.0f} voxels promised")


def _to_canonical(affine: np.ndarray) -> np.ndarray:
    return ornt_transform(io_orientation(affine), axcodes2ornt("RAS"))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


__all__ = [
    "ITK_FORMATS",
    "itk_format",
    "read_itk",
    "read_itk_axes",
    "read_itk_header",
    "voxel_file",
]
