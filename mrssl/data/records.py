"""Dataset dicts packed into one array, so that many of them cost workers nothing.

A forked worker shares its parent's memory until it writes to it, and looking at a Python object
writes: to the count of its references. So a list of dicts is copied page by page as slices are
drawn. One array of bytes is not.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, overload

import numpy as np

from mrssl.errors import MrsslError

T = TypeVar("T")


class PackedRecords(Sequence[dict[str, Any]]):
    """A sequence of dataset dicts; what an index gives is a new dict.

    Args:
        records: standard dataset dicts, of plain types.
    """

    def __init__(self, records: Iterable[dict[str, Any]]) -> None:
        packed = [pickle.dumps(record, protocol=pickle.HIGHEST_PROTOCOL) for record in records]
        self._ends = np.cumsum([len(item) for item in packed], dtype=np.int64)
        self._bytes = np.frombuffer(b"".join(packed), np.uint8)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> PackedRecords: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | PackedRecords:
        if isinstance(index, slice):
            return PackedRecords(self[i] for i in range(*index.indices(len(self))))
        place = range(len(self))[index]
        start = int(self._ends[place - 1]) if place else 0
        record: dict[str, Any] = pickle.loads(self._bytes[start : int(self._ends[place])].data)
        return record

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, PackedRecords)
            and np.array_equal(self._ends, other._ends)
            and np.array_equal(self._bytes, other._bytes)
        )

    __hash__ = None  # type: ignore[assignment]


def of_readable(records: Iterable[dict[str, Any]], read: Callable[[dict[str, Any]], T]) -> list[T]:
    """What ``read`` makes of each record that can be read.

    For what is told of a data set beside training, which itself says what it could not read.

    Raises:
        MrsslError: none of them can; the last one's fault.
    """
    found: list[T] = []
    fault: MrsslError | None = None
    for record in records:
        try:
            found.append(read(record))
        except MrsslError as error:
            fault = error
    if fault is not None and not found:
        raise fault
    return found


__all__ = ["PackedRecords", "of_readable"]
