"""Where the tissue comes from that a distortion borrows: another slice, or another subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrssl.data.store import is_stored
from mrssl.errors import MrsslError

#: What names a slice: enough to read it again.
SLICE_KEYS = ("file_name", "series", "slice_axis", "slice_index")
_VOXEL_BYTES = 4


def slice_name(record: Mapping[str, Any]) -> str:
    """How messages call a slice."""
    return f"{record.get('file_name', '?')}[{record.get('slice_index', '?')}]"


class DonorPool:
    """Draws the donor of a slice and its substitute, from the generator given and nothing else.

    Slices of other subjects are drawn only where that costs no decoding: all volumes lie in a
    slice store, or all of them fit into the cache together. That is decided once and from the
    headers, so it is alike in all workers and processes.

    Args:
        records: standard dataset dicts, in their order.
        share: of the donors that are of another subject, in [0, 1]; the others are another slice
            of the same volume.
        cache_bytes: room for decoded volumes.

    Raises:
        MrsslError: a share that is none.
    """

    def __init__(
        self, records: Sequence[dict[str, Any]] = (), *, share: float = 0.5, cache_bytes: int = 0
    ) -> None:
        if not 0.0 <= share <= 1.0:
            raise MrsslError(f"MRSSL.PRETEXT.OTHER_SUBJECT: {share} is not in [0, 1]")
        by_subject: dict[str, list[int]] = {}
        if share > 0 and _at_hand(records, cache_bytes):
            for index, record in enumerate(records):
                by_subject.setdefault(record["subject_id"], []).append(index)
        self.share = share
        self._records = records
        # Numbers of records, not the records: workers share those.
        self._slices = [np.array(indices) for indices in by_subject.values()]
        self._place = {subject: place for place, subject in enumerate(by_subject)}

    def draw(
        self, record: dict[str, Any], num_slices: int, rng: np.random.Generator
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The donor of ``record``, and what takes its place if that cannot be read.

        Args:
            record: a standard dataset dict.
            num_slices: of its volume.
            rng: the only source of randomness.

        Returns:
            Dataset dicts. The donor is a slice of another subject, each subject as likely as any,
            where there is one at hand; else it is its substitute: another slice of the same volume
            (the slice itself if that has only one).
        """
        # As many numbers whatever comes of them: what is drawn later must not depend on it.
        chance, which, where = rng.random(3)
        shift = 1 + int(where * max(num_slices - 1, 1))
        substitute = {**record, "slice_index": (record["slice_index"] + shift) % num_slices}
        own = self._place.get(record.get("subject_id", ""))
        others = len(self._slices) - (own is not None)
        if chance < self.share and others > 0:
            place = int(which * others)
            slices = self._slices[place + (own is not None and place >= own)]
            return self._records[int(slices[int(where * len(slices))])], substitute
        return substitute, substitute


def _at_hand(records: Sequence[dict[str, Any]], cache_bytes: int) -> bool:
    """Whether any slice can be had without decoding a volume for it again and again."""
    if all(is_stored(r["file_name"]) and r["slice_axis"] == "D" for r in records):
        return True
    volumes = {(r["file_name"], r.get("series", "")): r for r in records}
    voxels = sum(r["num_slices"] * r["height"] * r["width"] for r in volumes.values())
    return voxels * _VOXEL_BYTES <= cache_bytes


__all__ = ["SLICE_KEYS", "DonorPool", "slice_name"]
