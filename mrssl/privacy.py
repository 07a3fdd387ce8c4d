"""What must not be seen: patients' names, and folders that are named after them.

A name is never kept. What is kept are marks: digests of the words of a patient's name and of the
patient's ID, by which the same words are recognised, and covered, where they stand in a path.
"""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Set
from functools import lru_cache
from pathlib import Path

_WORD = re.compile(r"(?:[^\W_]|[\u0300-\u036f])+")
#: Shorter words of a name, and shorter IDs, are found everywhere: they are no marks.
_MIN_NAME, _MIN_ID = 3, 4
#: Words in a row that may make up an ID, at most: PGBM-003 is two.
_MAX_WORDS = 4


def pseudonym(text: object) -> str:
    """12 hexadecimal digits of a text's SHA-256, "" for nothing."""
    text = str(text or "").strip()
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:12] if text else ""


def folder_alias(path: str | Path) -> str:
    """What a folder of scans is called in stores and checkpoints: its name might be a patient's."""
    return f"folder-{pseudonym(Path(path).resolve().name)[:8]}"


@lru_cache(maxsize=4096)
def patient_marks(name: str, patient_id: str) -> frozenset[str]:
    """Marks by which a patient's name and ID are recognised."""
    words = _words(name)
    marks = {word for word in words if len(word) >= _MIN_NAME}
    marks |= {"".join(words), "".join(reversed(words))}
    if len(joined := "".join(_words(patient_id))) >= _MIN_ID:
        marks.add(joined)
    return frozenset(pseudonym(mark) for mark in marks if len(mark) >= _MIN_NAME)


class PathMask:
    """Covers what names a patient in the paths of a text: ``Doe_Jane/T1`` becomes ``~../T1``.

    Args:
        root: where the scans were searched.
        marks: of each patient found there. Beneath ``root`` any of them is covered; in ``root``
            itself only what is common to all, such as where it is the folder of one patient.
    """

    def __init__(self, root: str | Path, marks: Iterable[Set[str]]) -> None:
        every = [frozenset(own) for own in marks]
        self._any = frozenset().union(*every)
        self._root = os.fspath(root)
        self._shown = cover(self._root, frozenset.intersection(*every) if every else frozenset())
        # A path ends where a message goes on.
        self._path = re.compile(re.escape(self._root) + r"(?P<below>(?:(?!: |\)).)*)")

    def cover(self, text: str) -> str:
        """``text`` with the names of all patients covered, wherever they stand."""
        return cover(text, self._any)

    def __call__(self, text: str) -> str:
        """``text`` with every path beneath the root covered."""
        if not self._any:
            return text
        return self._path.sub(lambda found: self._shown + self.cover(found["below"]), text)


def cover(text: str, marks: Set[str]) -> str:
    """Replace each run of words that is marked by ``~`` and a few digits of its digest."""
    if not marks:
        return text
    words = list(_WORD.finditer(text))
    pieces, end, index = [], 0, 0
    while index < len(words):
        for count in range(min(_MAX_WORDS, len(words) - index), 0, -1):
            run = words[index : index + count]
            digest = pseudonym("".join(fold(word.group()) for word in run))
            if digest in marks:
                pieces += [text[end : run[0].start()], f"~{digest[:6]}"]
                end = run[-1].end()
                index += count - 1
                break
        index += 1
    return "".join([*pieces, text[end:]])


def fold(text: str) -> str:
    """Without case and accents, so that Müller is muller, however it is written."""
    spread = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in spread if not unicodedata.combining(letter))


def _words(text: str) -> list[str]:
    return [fold(word) for word in _WORD.findall(text)]


__all__ = ["PathMask", "cover", "folder_alias", "patient_marks", "pseudonym"]
