"""The few header fields of a DICOM file that are wanted, found by stepping over all others.

Pydicom makes an object of every element, also of those that are thrown away; with many small files
that is most of the time that reading takes. This walk (PS3.5 chapter 7) only follows lengths, and
hands the raw bytes of wanted elements to pydicom for conversion. It understands well-formed files
alone: whatever is out of the ordinary it leaves to pydicom.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Set
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO

#: A value's length that is not stated: the value ends with a delimiter.
_UNDEFINED = 0xFFFFFFFF
#: VRs whose length takes four bytes after two reserved ones, and the others (PS3.5 7.1.2).
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_META_GROUP, _TRANSFER_SYNTAX = b"\x02\0", 0x00020010
_PIXELS = 0x7FE00010
#: FloatPixelData, DoubleFloatPixelData, PixelData: nothing after them is wanted.
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_STOPS = frozenset((0x7FE00008, 0x7FE00009, _PIXELS, _ITEM_END))
IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
_NATIVE = frozenset((IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN))
#: Sequences within sequences, at most.
_MAX_DEPTH = 32
_ITEM_GROUP = 0xFFFE
#: Bytes of a file that are read in the hope that the header ends there.
_READS = (1 << 14, 1 << 18, 1 << 22)


class OddFileError(ValueError):
    """Not for this walk: pydicom may know what to do with it."""


@dataclass(frozen=True, slots=True)
class RawHeader:
    """Wanted elements, unconverted.

    Attributes:
        elements: tag -> (VR or None, value), the value's bytes without delimiters; no empty ones.
        syntax: the transfer syntax's UID.
        offset: byte of the file where the value of native PixelData begins; None for other pixels.
    """

    elements: dict[int, tuple[str | None, bytes]]
    syntax: str
    offset: int | None

    @property
    def implicit(self) -> bool:
        """Whether elements come without VR."""
        return self.syntax == IMPLICIT

    @property
    def little_endian(self) -> bool:
        """Byte order of the values."""
        return self.syntax != BIG_ENDIAN


def read_raw_header(stream: BinaryIO, wanted: Set[int]) -> RawHeader:
    """Walk a file up to its pixels.

    Args:
        stream: at the beginning of the file.
        wanted: tags whose values to keep.

    Raises:
        OddFileError: not DICOM, not well-formed, or deflated.
    """
    data = b""
    for size in _READS:
        data += stream.read(size - len(data))
        complete = len(data) < size
        try:
            return _walk_file(data, wanted, complete=complete)
        except struct.error:  # the header goes on after what was read
            if complete:
                break
    raise OddFileError


def raw_items(content: bytes, parent: RawHeader, wanted: Set[int]) -> Iterator[RawHeader]:
    """The items of a sequence of ``parent``, of which ``content`` is the value.

    Raises:
        OddFileError: not well-formed.
    """
    coding, position = _coding(parent.implicit, "<" if parent.little_endian else ">"), 0
    try:
        while position < len(content):
            tag, _, length, position = coding.element(content, position)
            end = len(content) if length == _UNDEFINED else position + length
            if tag != _ITEM or end > len(content):
                raise OddFileError
            elements, after = _walk(content[:end], position, wanted, coding, complete=True)
            position = after + 8 if length == _UNDEFINED else end
            yield RawHeader(elements, parent.syntax, None)
    except struct.error as error:
        raise OddFileError from error


def read_file_meta(data: bytes) -> tuple[str, int]:
    """The transfer syntax that the file meta information states, and where that group ends.

    Returns:
        ("", 0) where it can't be told.
    """
    try:
        return _walk_meta(data)
    except (struct.error, OddFileError):
        return "", 0


def _walk_meta(data: bytes) -> tuple[str, int]:
    if data[128:132] != b"DICM":
        raise OddFileError
    coding, position, syntax = _coding(False, "<"), 132, b""
    while data[position : position + 2] == _META_GROUP:  # what follows may be coded otherwise
        tag, _, length, begin = coding.element(data, position)
        if tag == _TRANSFER_SYNTAX:
            syntax = data[begin : begin + length]
        position = begin + length
    if position + 2 > len(data):
        raise struct.error
    if not syntax:
        raise OddFileError
    return syntax.decode("ascii", "replace").strip("\0 "), position


def _walk_file(data: bytes, wanted: Set[int], *, complete: bool) -> RawHeader:
    syntax, position = _walk_meta(data)
    if syntax == DEFLATED:
        raise OddFileError
    coding = _coding(syntax == IMPLICIT, ">" if syntax == BIG_ENDIAN else "<")
    elements, position = _walk(data, position, wanted, coding, complete=complete)
    offset = None
    if syntax in _NATIVE and position < len(data):
        tag, _, length, begin = coding.element(data, position)
        offset = begin if tag == _PIXELS and length != _UNDEFINED else None
    return RawHeader(elements, syntax, offset)


class _Coding:
    """How elements are coded: with or without VR, in which byte order."""

    def __init__(self, implicit: bool, order: str) -> None:
        self.implicit = implicit
        self.head = struct.Struct(f"{order}HHI" if implicit else f"{order}HH2sH").unpack_from
        self.long = struct.Struct(f"{order}I").unpack_from

    def element(self, data: bytes, position: int) -> tuple[int, bytes, int, int]:
        """Tag, VR (b"" for none), length of the value, and where it begins."""
        if self.implicit:
            group, number, length = self.head(data, position)
            return group << 16 | number, b"", length, position + 8
        group, number, vr, length = self.head(data, position)
        tag = group << 16 | number
        if group == _ITEM_GROUP:  # which have no VR in any coding
            return tag, b"", self.long(data, position + 4)[0], position + 8
        if vr in _SHORT_VRS:
            return tag, vr, length, position + 8
        if vr in _LONG_VRS:
            return tag, vr, self.long(data, position + 8)[0], position + 12
        raise OddFileError


_coding = lru_cache(maxsize=4)(_Coding)


def _walk(
    data: bytes,
    position: int,
    wanted: Set[int],
    coding: _Coding,
    *,
    complete: bool,
) -> tuple[dict[int, tuple[str | None, bytes]], int]:
    """Wanted elements from ``position``, and where the walk ended.

    It ends before pixels, at the end of an item, and at the end of ``data`` where that is
    ``complete``.

    Raises:
        struct.error: ``data`` ends within the header.
        OddFileError: not well-formed.
    """
    found: dict[int, tuple[str | None, bytes]] = {}
    last, end = -1, len(data)
    while position < end or not complete:
        tag, vr, length, begin = coding.element(data, position)
        if tag in _STOPS:
            return found, position
        if tag <= last:  # PS3.5 7.1: in ascending order
            raise OddFileError
        last = tag
        if length == _UNDEFINED:
            after = _skip_sequence(data, begin, coding, vr)
            value_end = after - 8  # without the delimiter
        else:
            after = value_end = begin + length
        if after > end:
            raise struct.error
        if tag in wanted and value_end > begin:
            found[tag] = (vr.decode() or None, data[begin:value_end])
        position = after
    return found, position


def _skip_sequence(data: bytes, position: int, coding: _Coding, vr: bytes, depth: int = 0) -> int:
    """Where a value of undefined length ends, its delimiter included: items that nest."""
    if vr not in (b"SQ", b"") or depth > _MAX_DEPTH:
        raise OddFileError
    while True:
        tag, _, length, position = coding.element(data, position)
        if tag == _SEQUENCE_END:
            return position
        if tag != _ITEM:
            raise OddFileError
        if length != _UNDEFINED:
            position += length
            continue
        while tag != _ITEM_END:
            tag, vr, length, position = coding.element(data, position)
            if length == _UNDEFINED:
                position = _skip_sequence(data, position, coding, vr, depth + 1)
            else:
                position += length


__all__ = [
    "BIG_ENDIAN",
    "DEFLATED",
    "OddFileError",
    "RawHeader",
    "raw_items",
    "read_file_meta",
    "read_raw_header",
]
