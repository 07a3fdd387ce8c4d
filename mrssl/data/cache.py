"""Volumes kept in memory while their slices are drawn, within a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mrssl.data.label_files import read_label
from mrssl.data.normalization import intensity_window, normalize
from mrssl.data.sources import read_volume
from mrssl.data.store import StoredVolume, is_stored, open_array, stored_entry
from mrssl.errors import MrsslError
from mrssl.structures.volume import Volume

#: Windows remembered, at most.
_MAX_WINDOWS = 4096


class VolumeCache:
    """Normalised images and label volumes of dataset dicts, least recently used dropped first.

    One per process: not shared, not locked. The volume asked for last is always kept, however
    large.

    Args:
        max_bytes: of all arrays kept, together.
        normalization: see :func:`~mrssl.data.normalization.intensity_window`; so are
            ``percentiles``, ``zscore_range`` and ``window``.
        reader: gives the :class:`Volume` of ``(file_name, series)``.
    """

    def __init__(
        self,
        max_bytes: int = 2 << 30,
        *,
        normalization: str = "percentile",
        percentiles: Sequence[float] = (0.5, 99.5),
        zscore_range: Sequence[float] = (-3.0, 3.0),
        window: Sequence[float] = (0.0, 1.0),
        reader: Callable[[str, str], Volume] | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self._normalization: dict[str, Any] = {  # as the index of a store has it
            "normalization": normalization,
            "percentiles": list(percentiles),
            "zscore_range": list(zscore_range),
            "window": list(window),
        }
        self._windows: OrderedDict[tuple[str, str, str], tuple[float, float]] = OrderedDict()
        self._reader = reader or _read
        # array, and the affine of its grid
        self._entries: OrderedDict[tuple[str, ...], tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._bytes = 0

    @classmethod
    def from_config(cls, cfg: Any) -> VolumeCache:
        """A cache as ``cfg.MRSSL.DATA`` describes it."""
        data = cfg.MRSSL.DATA
        return cls(
            int(data.CACHE_MIB) << 20,
            normalization=data.NORMALIZATION,
            percentiles=data.PERCENTILES,
            zscore_range=data.ZSCORE_RANGE,
            window=data.WINDOW,
        )

    def image(self, record: dict[str, Any]) -> np.ndarray:
        """The whole normalised volume that a dataset dict's slice belongs to.

        Args:
            record: a standard dataset dict.

        Returns:
            (D, H, W) float32 in [0, 1], slices along D; read-only. From a slice store, an
            object that reads slices as it is indexed, and takes no room in the cache.

        Raises:
            MrsslError: the source cannot be read.
        """
        if _is_mapped(record):
            array = open_array(record["file_name"])
            return StoredVolume(array, *self.window(record))  # type: ignore[return-value]
        return self._image_entry(record)[0]

    def window(self, record: dict[str, Any]) -> tuple[float, float]:
        """The raw intensities (a.u.) that a volume's 0 and 1 stand for.

        From the index of a slice store that was prepared for this normalisation, else measured.

        Raises:
            MrsslError: the source cannot be read.
        """
        key = _key(record)
        if key not in self._windows:
            entry = stored_entry(record["file_name"]) if _is_mapped(record) else None
            if entry is not None and entry.normalization == self._normalization:
                self._remember(key, entry.window)
            else:
                self._measure(key, self._volume(record).array)
        return self._windows[key]

    def label(self, record: dict[str, Any]) -> np.ndarray:
        """The label volume of a dataset dict that has a ``label_file``.

        Returns:
            (D, H, W) int, on the grid of :meth:`image`; read-only.

        Raises:
            MrsslError: no label, unreadable, or of another shape than the image.
        """
        file = record.get("label_file")
        if not file:
            raise MrsslError(f"{record['file_name']}: has no label")
        if is_stored(file) and record["slice_axis"] == "D":
            return open_array(file)
        key = ("label", file, record["file_name"], record["slice_axis"])
        return self._get(key, lambda: self._label(record))[0]

    def affine(self, record: dict[str, Any]) -> np.ndarray:
        """(4, 4) float64 of the grid of :meth:`image`: voxel (d, h, w, 1) to RAS+ mm."""
        return self._image_entry(record)[1]

    def __len__(self) -> int:
        """Number of arrays kept."""
        return len(self._entries)

    @property
    def nbytes(self) -> int:
        """Bytes kept."""
        return self._bytes

    def _image_entry(self, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        return self._get(("image", *_key(record)), lambda: self._image(record))

    def _get(
        self, key: tuple[str, ...], make: Callable[[], tuple[np.ndarray, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray]:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            return entry
        entry = make()
        entry[0].setflags(write=False)
        self._entries[key] = entry
        self._bytes += entry[0].nbytes
        while self._bytes > self.max_bytes and len(self._entries) > 1:
            _, (dropped, _) = self._entries.popitem(last=False)
            self._bytes -= dropped.nbytes
        return entry

    def _measure(self, key: tuple[str, str, str], raw: np.ndarray) -> tuple[float, float]:
        return self._remember(key, intensity_window(raw, **self._normalization))

    def _remember(
        self, key: tuple[str, str, str], window: tuple[float, float]
    ) -> tuple[float, float]:
        self._windows[key] = window
        if len(self._windows) > _MAX_WINDOWS:
            self._windows.popitem(last=False)
        return window

    def _volume(self, record: dict[str, Any]) -> Volume:
        volume = self._reader(record["file_name"], record.get("series", ""))
        return volume.take_slices(record["slice_axis"])

    def _image(self, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        volume = self._volume(record)
        low, high = self._measure(_key(record), volume.array)
        return normalize(volume.array, low, high), volume.affine

    def _label(self, record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        image, affine = self._image_entry(record)
        return read_label(record["label_file"], affine, image.shape), affine


def _key(record: dict[str, Any]) -> tuple[str, str, str]:
    return record["file_name"], record.get("series", ""), record["slice_axis"]


def _is_mapped(record: dict[str, Any]) -> bool:
    """Whether a slice is read from a store's memory map, as it lies there."""
    return is_stored(record["file_name"]) and record["slice_axis"] == "D"


def _read(file_name: str, series: str) -> Volume:
    return read_volume(file_name, series=series)


__all__ = ["VolumeCache"]
