"""DICOM pixels to raw intensities: decode, invert MONOCHROME1, rescale."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrssl.data.dicom_headers import DicomError, one_line, read_dataset
from mrssl.data.dicom_slices import SliceHeader

#: Decoded bytes of one file, at most, and for each byte of a compressed file.
_MAX_FILE_BYTES = 2**30
_MAX_RATIO = 1000


def read_slices(slices: Sequence[SliceHeader]) -> np.ndarray:
    """Raw intensities of ``slices``, in their order.

    Returns:
        (D, H, W) float32, rescaled (PS3.3 C.11.1), brighter is more for MONOCHROME1 too.

    Raises:
        DicomError: truncated, damaged, or a coding without an installed decoder.
    """
    volume: np.ndarray | None = None
    precise = _needs_philips_scale(slices)
    opened: tuple[str, Any, np.ndarray] | None = None
    for index, item in enumerate(slices):
        if opened is None or opened[0] != item.path:
            dataset = read_dataset(item.path, pixels=True)
            opened = (item.path, dataset, _tiles(_decode(item.path, dataset), item.mosaic))
        _, dataset, frames = opened
        if item.frame >= len(frames) or frames.shape[1:] != item.shape:
            raise DicomError(f"{item.path}: the pixels are {frames.shape}, the header differs")
        if volume is None:
            volume = np.empty((len(slices), *item.shape), np.float32)
        volume[index] = _intensities(item, dataset, frames[item.frame])
        if precise:
            volume[index] /= np.float32(item.rescale[0] * (item.scale or 1.0))
    if volume is None:
        raise DicomError("a DICOM volume without slices")
    return np.nan_to_num(volume, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _needs_philips_scale(slices: Sequence[SliceHeader]) -> bool:
    """Whether slices were stored with different factors, so that rescaled values don't compare.

    Philips' real value is (stored x slope + intercept) / (slope x scale slope). Where the factors
    are the same throughout a volume it is the rescaled one times a constant, and left out.
    """
    factors = {(item.rescale[0], item.scale) for item in slices}
    return len(factors) > 1 and all(item.scale for item in slices)


def _decode(path: str, dataset: Any) -> np.ndarray:
    """(frames, rows, columns) stored values."""
    _check_size(path, dataset)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pixels = dataset.pixel_array
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # decoders raise their own; a panic in Rust is no Exception
        if "missing dependencies" in str(error):
            name = dataset.file_meta.TransferSyntaxUID.name
            raise DicomError(
                f"{path}: {name} needs a decoder: pip install 'mrssl[dicom]'"
            ) from error
        raise DicomError(f"{path}: the pixels can't be decoded ({one_line(error)})") from error
    return pixels[None] if pixels.ndim == 2 else pixels


def _tiles(frames: np.ndarray, side: int) -> np.ndarray:
    """Cut the one picture of a mosaic into its tiles, row by row."""
    if side == 1:
        return frames
    rows, columns = frames.shape[1] // side, frames.shape[2] // side
    cut = frames[0, : rows * side, : columns * side].reshape(side, rows, side, columns)
    return cut.swapaxes(1, 2).reshape(side * side, rows, columns)


def _check_size(path: str, dataset: Any) -> None:
    """Refuse a header whose size the file cannot bear out, before anything is allocated."""
    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
        bits = int(dataset.get("BitsAllocated") or 16)
        size = frames * int(dataset.Rows) * int(dataset.Columns) * bits / 8
        compressed = dataset.file_meta.TransferSyntaxUID.is_compressed
    except Exception as error:
        raise DicomError(f"{path}: damaged DICOM header ({one_line(error)})") from error
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DicomError(f"{path}: truncated: no pixel data")
    held = os.path.getsize(path) * (_MAX_RATIO if compressed else 1)
    if size > held or size > _MAX_FILE_BYTES:
        raise DicomError(f"{path}: truncated: {size:.0f} bytes of pixels promised")


def _intensities(item: SliceHeader, dataset: Any, stored: np.ndarray) -> np.ndarray:
    values = stored.astype(np.float32)
    padding = dataset.get("PixelPaddingValue")
    if isinstance(padding, int):
        _fill_padding(values, stored == padding)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        bits = int(dataset.get("BitsStored") or dataset.BitsAllocated)
        values = (-1.0 if stored.dtype.kind == "i" else 2.0**bits - 1) - values
    if item.rescale != (1.0, 0.0):
        values = values * np.float32(item.rescale[0]) + np.float32(item.rescale[1])
    return values


def _fill_padding(values: np.ndarray, padded: np.ndarray) -> None:
    """Give pixels outside the reconstructed picture the lowest intensity within it."""
    if padded.any() and not padded.all():
        values[padded] = values[~padded].min()


__all__ = ["read_slices"]
