"""DICOM pixels to raw intensities: decode, invert MONOCHROME1, rescale."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from mrssl.data.dicom_headers import DicomError, read_dataset
from mrssl.data.dicom_slices import PixelFormat, SliceHeader
from mrssl.errors import one_line

#: Decoded bytes of one file, at most, and for each byte of a compressed file.
_MAX_FILE_BYTES = 2**30
_MAX_RATIO = 1000
_JPEG_LS = frozenset(("1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"))


def read_slices(slices: Sequence[SliceHeader]) -> np.ndarray:
    """Raw intensities of ``slices``, in their order.

    Returns:
        (D, H, W) float32, rescaled (PS3.3 C.11.1), brighter is more for MONOCHROME1 too.

    Raises:
        DicomError: truncated, damaged, or a coding without an installed decoder.
    """
    if not slices:
        raise DicomError("a DICOM volume without slices")
    # Before anything is allocated on the word of a header, its file has to bear it out.
    path, frames = slices[0].path, _tiles(_stored_values(slices[0]), slices[0].mosaic)
    volume = np.empty((len(slices), *slices[0].shape), np.float32)
    precise = _needs_philips_scale(slices)
    for index, item in enumerate(slices):
        if path != item.path:
            path, frames = item.path, _tiles(_stored_values(item), item.mosaic)
        if item.frame >= len(frames) or frames.shape[1:] != item.shape:
            raise DicomError(f"{path}: the pixels are {frames.shape}, the header differs")
        volume[index] = frames[item.frame]
        _to_intensities(item, volume[index])
        if precise:
            volume[index] /= item.rescale[0] * (item.scale or 1.0)
    if not np.isfinite(volume.sum()):  # one pass, where looking for each NaN takes several
        np.nan_to_num(volume, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    return volume


def _needs_philips_scale(slices: Sequence[SliceHeader]) -> bool:
    """Whether slices were stored with different factors, so that rescaled values don't compare.

    Philips' real value is (stored x slope + intercept) / (slope x scale slope). Where the factors
    are the same throughout a volume it is the rescaled one times a constant, and left out.
    """
    factors = {(item.rescale[0], item.scale) for item in slices}
    return len(factors) > 1 and all(item.scale for item in slices)


def _stored_values(item: SliceHeader) -> np.ndarray:
    """(frames, rows, columns) stored values of the whole file."""
    if item.pixels.offset is not None:
        values = _native_values(item.path, item.pixels)
        if values is not None:
            return values
    return decode_frames(item.path, read_dataset(item.path))


def _native_values(path: str, pixels: PixelFormat) -> np.ndarray | None:
    """Uncompressed values straight from the file; None where it is too short for them."""
    allocated, used = pixels.bits
    kind = f"{'>' if pixels.big_endian else '<'}{'i' if pixels.signed else 'u'}{allocated // 8}"
    count = pixels.frames * pixels.shape[0] * pixels.shape[1]
    if os.path.getsize(path) < (pixels.offset or 0) + count * allocated // 8:
        return None
    values = np.fromfile(path, kind, count, offset=pixels.offset or 0)
    if used < allocated:  # what lies in the unused bits is no part of the value
        values = values << (allocated - used)  # in the machine's byte order from here on
        values >>= allocated - used
    return values.reshape(pixels.frames, *pixels.shape)


def decode_frames(path: str, dataset: Any) -> np.ndarray:
    """The pictures of a parsed file, decoded by pydicom and its plug-ins.

    Returns:
        (frames, rows, columns) stored values, in the file's type.

    Raises:
        DicomError: truncated, damaged, or a coding without an installed decoder.
    """
    _check_size(path, dataset)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _choose_decoder(dataset)
            pixels = dataset.pixel_array
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # decoders raise their own; a panic in Rust is no Exception
        if "missing dependencies" in str(error):
            name = dataset.file_meta.TransferSyntaxUID.name
            raise DicomError(
                f"{path}: {name} needs a decoder: pip install -e '.[dicom]' in mrssl's checkout"
            ) from error
        raise DicomError(f"{path}: the pixels can't be decoded ({one_line(error)})") from error
    return pixels[None] if pixels.ndim == 2 else pixels


def _choose_decoder(dataset: Any) -> None:
    """For JPEG-LS another than GDCM, which ends the process at some damaged files."""
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in _JPEG_LS:
        safe = [name for name in get_decoder(syntax).available_plugins if name != "gdcm"]
        if not safe:
            raise RuntimeError("missing dependencies")
        dataset.pixel_array_options(decoding_plugin=sorted(safe)[0])


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


def _to_intensities(item: SliceHeader, values: np.ndarray) -> None:
    """Turn stored values, float32, into intensities where they are."""
    pixels = item.pixels
    padded = None
    if pixels.padding is not None:
        low, high = (np.float32(end) for end in pixels.padding)
        padded = values == low if low == high else (values >= low) & (values <= high)
    if pixels.inverted:
        np.subtract(-1.0 if pixels.signed else 2.0 ** pixels.bits[1] - 1, values, out=values)
    if padded is not None:  # only now is the lowest value the darkest
        _fill_padding(values, padded)
    if item.rescale != (1.0, 0.0):
        values *= np.float32(item.rescale[0])
        values += np.float32(item.rescale[1])


def _fill_padding(values: np.ndarray, padded: np.ndarray) -> None:
    """Give pixels outside the reconstructed picture the lowest intensity within it."""
    if padded.any() and not padded.all():
        values[padded] = values[~padded].min()


__all__ = ["decode_frames", "read_slices"]
