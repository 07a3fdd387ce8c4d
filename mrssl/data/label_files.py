"""Labels from files: a label volume (NIfTI, slice store), or a DICOM segmentation object.

Either is matched with its image by geometry: axes are turned, and the frames of a segmentation
(PS3.3 C.8.20) go where their positions say, whatever their order.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from mrssl.data.dicom_headers import (
    SEGMENTATION_STORAGE,
    DicomError,
    read_dataset,
    read_header,
)
from mrssl.data.dicom_pixels import decode_frames
from mrssl.data.dicom_values import first, number, numbers
from mrssl.data.itk import itk_format
from mrssl.data.labels import align_label, check_label_geometry
from mrssl.data.nifti import is_nifti
from mrssl.data.sources import VolumeSource, file_axes, label_source, read_volume
from mrssl.data.store import is_stored
from mrssl.errors import MrsslError, one_line

#: A frame may lie this share of a voxel beside the image's grid.
_OFF_GRID = 0.1
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def read_label(path: str, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Label values on an image's grid.

    Args:
        path: a label volume, or a DICOM segmentation, whose segment numbers are the values.
        affine: (4, 4) of the image.
        shape: (D, H, W) of the image.

    Returns:
        (D, H, W) int32; 0 = background. Where segments overlap, the highest number holds.

    Raises:
        MrsslError: unreadable, on another grid, or not of whole numbers; names the file.
    """
    try:
        if is_segmentation(path):
            return _read_segmentation(path, affine, shape)
        return align_label(read_volume(path), affine, shape)
    except MrsslError as error:
        prefix = "" if str(error).startswith(str(path)) else f"{path}: "
        raise MrsslError(f"{prefix}{error}") from error


def check_label(path: str, image: VolumeSource) -> str:
    """What is doubtful about a label beside its image, by headers alone; "" for nothing.

    Args:
        path: of the label.
        image: whose it is.

    Raises:
        MrsslError: unreadable, of another shape, or in another place by a header whose axes are
            other than the image's too, so that nothing says which voxel belongs to which; or a
            DICOM segmentation, whose frames say a place each, of an image with gaps.
    """
    if is_segmentation(path):
        if image.lacks_slices:
            raise MrsslError(
                "a segmentation cannot be laid on an image whose slices are not all there"
            )
        return ""  # its frames are checked one by one when they are read
    label = label_source(path)
    apart = check_label_geometry(image.shape, image.affine, label.shape, label.affine)[1]
    if not apart:
        return ""
    axes = file_axes(image.path), file_axes(path)
    if axes[0] != axes[1]:
        raise MrsslError(
            f"the label lies up to {apart:.3g} mm beside its image, and its axes run otherwise "
            f"({axes[1] or 'unknown'}; the image's: {axes[0] or 'unknown'}), so it may be "
            "mirrored: give it its image's affine"
        )
    return f"the label lies up to {apart:.3g} mm beside its image: matched by index"


def is_segmentation(path: str | Path) -> bool:
    """Whether a file is a DICOM segmentation object."""
    if is_nifti(path) or itk_format(path) or is_stored(path) or not Path(path).is_file():
        return False
    return bool(read_header(path).values.get("SOPClassUID") == SEGMENTATION_STORAGE)


def _read_segmentation(path: str, affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    dataset = read_dataset(path)
    if dataset.get("SegmentationType", "BINARY") != "BINARY":
        raise DicomError(f"{path}: a segmentation of probabilities; a binary one is needed")
    frames = decode_frames(path, dataset)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            placed = _placed_frames(dataset)
    except Exception as error:  # lazily converted values of damaged files
        raise DicomError(f"{path}: damaged segmentation ({one_line(error)})") from error
    if len(placed) != len(frames):
        raise DicomError(f"{path}: {len(frames)} frames, positions for {len(placed)}")
    label = np.zeros(shape, np.int32)
    to_voxel = np.linalg.inv(affine)
    for mask, (segment, frame) in zip(frames, placed, strict=True):
        corner, steps = (to_voxel @ frame)[:3, 3], (to_voxel @ frame)[:3, :2]
        _paint(path, label, mask > 0, segment, corner, steps)
    return label


def _placed_frames(dataset: Any) -> list[tuple[int, np.ndarray]]:
    """Of each frame: its segment, and a (4, 4) of (row step, column step, -, corner), RAS mm."""
    shared = first(dataset.get("SharedFunctionalGroupsSequence"))
    placed = []
    for group in dataset.PerFrameFunctionalGroupsSequence:

        def get(macro: str, name: str, group: Any = group) -> Any:
            items = (first(g.get(macro)) for g in (group, shared) if g is not None)
            return next((i.get(name) for i in items if i is not None), None)

        position = numbers(get("PlanePositionSequence", "ImagePositionPatient"), 3)
        cosines = numbers(get("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
        spacing = numbers(get("PixelMeasuresSequence", "PixelSpacing"), 2)
        segment = number(get("SegmentIdentificationSequence", "ReferencedSegmentNumber"))
        if position is None or cosines is None or spacing is None or segment is None:
            raise ValueError("a frame without position or segment")
        frame = np.eye(4)
        frame[:3, 0] = _RAS_TO_LPS @ cosines[3:] * spacing[0]
        frame[:3, 1] = _RAS_TO_LPS @ cosines[:3] * spacing[1]
        frame[:3, 3] = _RAS_TO_LPS @ position
        placed.append((int(segment), frame))
    return placed


def _paint(
    path: str,
    label: np.ndarray,
    mask: np.ndarray,
    segment: int,
    corner: np.ndarray,
    steps: np.ndarray,
) -> None:
    """Write one frame; ``corner`` (3,) and ``steps`` (3, 2) are in voxels of the image."""
    whole, start = np.rint(steps), np.rint(corner)
    rows, columns = mask.shape
    drift = np.abs(steps - whole) @ np.array([rows, columns])
    on_grid = np.abs(corner - start).max() < _OFF_GRID and drift.max() < _OFF_GRID
    if not on_grid or (np.abs(whole).sum(0) != 1).any():
        raise DicomError(f"{path}: a frame does not lie on the image's grid")
    r, c = np.nonzero(mask)
    if not len(r):
        return
    index = (start[:, None] + whole @ np.stack([r, c])).astype(int)
    if (index < 0).any() or (index >= np.array(label.shape)[:, None]).any():
        raise DicomError(f"{path}: a frame lies outside its image")
    place = tuple(index)
    label[place] = np.maximum(label[place], segment)


__all__ = ["check_label", "is_segmentation", "read_label"]
