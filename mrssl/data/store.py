"""The slice store: volumes decoded once, uncompressed, and memory-mapped at training time.

A folder with ``dataset.json`` (the index) and one ``.npy`` a volume, slices first, in the display
convention, in the smallest type that holds its intensities exactly. So samples from the store are
those from its source, bit for bit. The index carries a digest of itself, and its version.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mrssl.data.normalization import normalize
from mrssl.errors import MrsslError
from mrssl.files import read_json, replacing, write_text
from mrssl.structures.volume import Volume

INDEX_NAME = "dataset.json"
STORE_VERSION = 2
#: Memory maps kept open by a process.
_MAX_OPEN = 64
#: Fields of an entry that are numbers, and their shapes.
_NUMBERS = {"affine": (4, 4), "window": (2,)}
_EXACT_TYPES = (np.uint8, np.int16, np.uint16, np.int32)


class StoredVolume:
    """A normalised volume whose slices are read when they are indexed.

    Behaves as the (D, H, W) float32 array that it stands for, as far as ``len``, ``shape`` and
    indexing go; what an index gives is a new array.

    Args:
        array: (D, H, W) raw intensities, memory-mapped.
        low: raw intensity that becomes 0.
        high: raw intensity that becomes 1.
    """

    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(self, array: np.ndarray, low: float, high: float) -> None:
        self._array, self._low, self._high = array, low, high

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W)."""
        return self._array.shape

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, index: Any) -> np.ndarray:
        values = self._array[index]
        return normalize(values.astype(np.float32, copy=False), self._low, self._high)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or np.float32, copy=False)


def is_stored(path: str | Path) -> bool:
    """Whether a file name is that of an array in a store."""
    return str(path).endswith(".npy")


def find_index(folder: str | Path) -> Path | None:
    """The index of ``folder``, if that is a store."""
    index = Path(folder) / INDEX_NAME
    if index.is_file() and "mrssl_store" in read_json(index):
        return index
    return None


def is_key(name: str) -> bool:
    """Whether an index may name a volume so: it is its file's name, and must not lead elsewhere."""
    return re.fullmatch("[0-9a-f]{16}", name) is not None


def index_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of an index without its own digest."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_index(path: Path, content: Mapping[str, Any]) -> None:
    """Raise :class:`MrsslError` for an index of another version, or one that was damaged."""
    version = content.get("mrssl_store")
    if version != STORE_VERSION:
        raise MrsslError(
            f"{path}: a slice store of version {version!r}; this mrssl reads {STORE_VERSION}: "
            "prepare it again"
        )
    if content.get("digest") != index_digest(content):
        raise MrsslError(f"{path}: the index of the slice store is damaged: prepare it again")
    # A digest tells damage, not malice: whoever made the index made its digest.
    volumes, options = content.get("volumes"), content.get("normalization")
    typed = isinstance(options, dict) and isinstance(volumes, list)
    if not typed or not all(_is_volume(entry) for entry in volumes or ()):
        raise MrsslError(f"{path}: describes a volume as no slice store does: prepare it again")


def _is_volume(entry: Any) -> bool:
    """Whether an entry of an index is as :mod:`mrssl.data.preparing` writes it."""
    try:
        depth, height, width = (int(side) for side in entry["shape"])
        numbers = [
            np.asarray(entry[name], np.float64).shape == shape
            and np.isfinite(np.asarray(entry[name], np.float64)).all()
            for name, shape in _NUMBERS.items()
        ]
        texts = [entry[name] for name in ("key", "case", "subject")]
        texts += [*entry["tags"].values(), *entry["faults"]]
        return (
            min(depth, height, width) > 0
            and [depth, height, width] == list(entry["shape"])
            and len(entry["foreground"]) == depth
            and all(isinstance(share, float) for share in entry["foreground"])
            and all(numbers)
            and all(isinstance(text, str) for text in texts)
            and isinstance(entry["label"], bool)
            and is_key(entry["key"])
        )
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return False


def write_index(folder: str | Path, content: Mapping[str, Any]) -> Path:
    """Write the index of the store in ``folder``.

    Args:
        folder: holds ``volumes`` and, of labelled ones, ``labels``.
        content: ``name``, ``labels``, ``normalization`` and ``volumes``; version and digest are
            added.

    Raises:
        MrsslError: no index that could be read again.
    """
    path = Path(folder) / INDEX_NAME
    content = {**content, "mrssl_store": STORE_VERSION}
    content["digest"] = index_digest(content)
    check_index(path, content)
    write_text(path, json.dumps(content) + "\n")
    return path


@dataclass(frozen=True, slots=True)
class StoredEntry:
    """What a worker needs to know of a volume in a store; the rest of the index is forgotten.

    Attributes:
        shape: (D, H, W).
        affine: (4, 4) float64, voxel to RAS+ mm; read-only.
        window: raw intensities that stand for 0 and 1 after ``normalization``.
        normalization: how the store was prepared; one object for all volumes.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    window: tuple[float, float]
    normalization: dict[str, Any]


def stored_entry(path: str | Path) -> StoredEntry:
    """What the index says of an array in a store.

    Raises:
        MrsslError: no index, a damaged one, or one that does not know the array.
    """
    path = Path(path)
    index = path.parent.parent / INDEX_NAME
    try:
        stat = index.stat()
    except OSError as error:
        raise MrsslError(f"{index}: no such file, though {path.name} lies in a store") from error
    entry = _entries(str(index), stat.st_mtime_ns, stat.st_size).get(path.stem)
    if entry is None:
        raise MrsslError(f"{path}: not in the index {index}")
    return entry


@lru_cache(maxsize=8)
def _entries(index: str, mtime: int, size: int) -> dict[str, StoredEntry]:
    content = read_json(Path(index))
    check_index(Path(index), content)
    return {
        entry["key"]: StoredEntry(
            tuple(entry["shape"]),
            np.array(entry["affine"], np.float64),
            (entry["window"][0], entry["window"][1]),
            content["normalization"],
        )
        for entry in content["volumes"]
    }


def open_array(path: str | Path) -> np.ndarray:
    """An array of a store, memory-mapped; a bounded number of maps is kept open.

    Raises:
        MrsslError: missing or damaged.
    """
    key = str(path)
    array = _OPEN.pop(key, None)
    if array is None:
        array = map_array(path)
        if array.shape != stored_entry(path).shape or array.dtype.kind not in "iuf":
            raise MrsslError(f"{path}: not the array of the index: prepare the store again")
    _OPEN[key] = array
    while len(_OPEN) > _MAX_OPEN:
        _OPEN.popitem(last=False)
    return array


def map_array(path: str | Path) -> np.ndarray:
    """A ``.npy`` file, memory-mapped anew, whatever the index says of it.

    Raises:
        MrsslError: missing or damaged.
    """
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except FileNotFoundError as error:
        raise MrsslError(f"{path}: no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise MrsslError(f"{path}: damaged: prepare the store again") from error


#: Path -> memory map, least recently used first.
_OPEN: OrderedDict[str, np.ndarray] = OrderedDict()


def forget_arrays() -> None:
    """Close the maps of this process: Windows removes no file that is mapped."""
    _OPEN.clear()


def read_stored(path: str | Path) -> Volume:
    """Raw intensities and affine of an image or label in a store; slices along D."""
    return Volume(open_array(path), stored_entry(path).affine)


def exact_type(array: np.ndarray) -> np.ndarray:
    """The same values in the smallest type that holds them exactly; float32 if none does."""
    low, high = float(array.min()), float(array.max())
    for dtype in _EXACT_TYPES:
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            smaller = np.empty(array.shape, dtype)
            for index in range(len(array)):  # slices stay in the processor's cache
                smaller[index] = array[index]
                if not np.array_equal(smaller[index], array[index]):
                    return array
            return smaller
    return array


def save_array(array: np.ndarray, path: Path) -> None:
    """Write ``array`` to ``path`` as ``.npy``, whole or not at all."""
    with replacing(path) as file:
        np.save(file, array, allow_pickle=False)


__all__ = [
    "INDEX_NAME",
    "STORE_VERSION",
    "StoredEntry",
    "StoredVolume",
    "check_index",
    "exact_type",
    "find_index",
    "forget_arrays",
    "index_digest",
    "is_key",
    "is_stored",
    "map_array",
    "open_array",
    "read_stored",
    "save_array",
    "stored_entry",
    "write_index",
]
