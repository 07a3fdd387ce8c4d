"""What must not be seen: patients' names, and folders that are named after them.

A name is never kept. What is kept are marks: digests of the words of a patient's name and of the
patient's ID, by which the same words are recognised, and covered, where they stand in a path.

Whoever has the digest of a short ID can try all IDs: without a key, it is a pseudonym at most.
With one in ``MRSSL_PSEUDONYM_KEY``, trying takes the key. Another key makes other subjects.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import unicodedata
from collections.abc import Iterable, Set
from functools import lru_cache
from itertools import permutations
from pathlib import Path

#: Environment variable that may hold a secret for :func:`pseudonym`.
KEY = "MRSSL_PSEUDONYM_KEY"
_WORD = re.compile(r"(?:[^\W_]|[\u0300-\u036f])+")
#: Shorter words of a name, and shorter IDs, are found everywhere: they are no marks.
_MIN_NAME, _MIN_ID = 3, 4
#: Letters of words in a row that may make up an ID or a name: DICOM allows no more (PS3.5 6.2).
_LONGEST = 64


def pseudonym(text: object) -> str:
    """12 hexadecimal digits for a text, "" for nothing.

    Of its SHA-256; where the environment has ``MRSSL_PSEUDONYM_KEY``, of its HMAC (RFC 2104).
    """
    data = str(text or "").strip().encode("utf-8", "replace")
    if not data:
        return ""
    if key := os.environ.get(KEY):
        return hmac.digest(key.encode("utf-8", "surrogateescape"), data, "sha256").hex()[:12]
    return hashlib.sha256(data).hexdigest()[:12]


def folder_alias(path: str | Path) -> str:
    """What a folder of scans is called in stores and checkpoints: its name might be a patient's."""
    return f"folder-{pseudonym(Path(path).resolve().name)[:8]}"


@lru_cache(maxsize=4096)
def patient_marks(name: str, patient_id: str) -> frozenset[str]:
    """Marks by which a patient's name and ID are recognised."""
    words = _words(name)
    marks = {*words, "".join(words), "".join(reversed(words))}
    marks |= {"".join(pair) for pair in permutations(words, 2)}  # a middle name is often left out
    if len(joined := "".join(_words(patient_id))) >= _MIN_ID:
        marks.add(joined)
    return frozenset(pseudonym(mark) for mark in marks if len(mark) >= _MIN_NAME)


class PathMask:
    """Covers what names a patient in paths and in messages: ``Doe_Jane/T1`` becomes ``~../T1``.

    Args:
        root: where the scans were searched.
        marks: of each patient found there. Beneath ``root`` any of them is covered; in ``root``
            itself only what is common to all, such as where it is the folder of one patient.
    """

    def __init__(self, root: str | Path, marks: Iterable[Set[str]]) -> None:
        every = [frozenset(own) for own in marks]
        self._any = frozenset[str]().union(*every)
        self._root = os.fspath(root)
        self._shown = cover(self._root, frozenset.intersection(*every) if every else frozenset())
        # What lies beneath "." may go without it, and begin anywhere.
        beginnings = (re.escape(self._root), rf"[^\s(]*{re.escape(os.sep)}", "['\"]")
        self._beginning = re.compile("|".join(beginnings) if self._root != os.curdir else "")

    def cover(self, text: str) -> str:
        """``text`` with the names of all patients covered, wherever they stand."""
        return cover(text, self._any)

    def path(self, path: str) -> str:
        """A path, covered but for ``root``, of which only what is common to all patients is."""
        if path.startswith(self._root):
            return self._shown + self.cover(path.removeprefix(self._root))
        return self.cover(path)

    def __call__(self, message: str) -> str:
        """``message`` covered from its first path, or quoted name, to its end.

        Where a path ends cannot be told from a message: a folder's name may hold anything.
        """
        found = self._beginning.search(message)
        if found is None:
            return message
        return message[: found.start()] + self.path(message[found.start() :])


def cover(text: str, marks: Set[str]) -> str:
    """Replace each run of words that is marked, the longest first, by ``~`` and a few digits.

    Args:
        text: any.
        marks: of patients, see :func:`patient_marks`; the digits are those of the mark.
    """
    if not marks:
        return text
    words = list(_WORD.finditer(text))
    folded = [fold(word.group()) for word in words]
    pieces, end, index = [], 0, 0
    while index < len(words):
        run, last, mark = "", index, ""
        for position in range(index, len(words)):
            run += folded[position]
            if len(run) > _LONGEST:
                break
            if (digest := pseudonym(run)) in marks:
                last, mark = position, digest
        if mark:
            pieces += [text[end : words[index].start()], f"~{mark[:6]}"]
            end = words[last].end()
        index = last + 1
    return "".join([*pieces, text[end:]])


def fold(text: str) -> str:
    """Without case and accents, so that Müller is muller, however it is written."""
    spread = unicodedata.normalize("NFKD", text.casefold())
    return "".join(letter for letter in spread if not unicodedata.combining(letter))


def _words(text: str) -> list[str]:
    return [fold(word) for word in _WORD.findall(text)]


__all__ = ["PathMask", "cover", "folder_alias", "patient_marks", "pseudonym"]
