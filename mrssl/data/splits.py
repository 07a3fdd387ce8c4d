"""Splits by subject: neighbouring slices, and scans of one person, are nearly the same picture."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from scipy.cluster.hierarchy import DisjointSet

from mrssl.data.sources import VolumeSource, subject_of_file
from mrssl.errors import MrsslError

#: A name that ends in a number, and something more: "pat03_visit2".
_NUMBER_AND_MORE = re.compile(r"(.*\d)[_-]([^_-]+)$")


def split_subjects(
    subjects: Iterable[str],
    shares: Mapping[str, float],
    *,
    seed: int = 0,
    together: Sequence[Iterable[str]] = (),
) -> dict[str, list[str]]:
    """Divide subjects among splits, the same way wherever and in whatever order they come.

    Args:
        subjects: names; repeated ones count once.
        shares: split -> its share of the subjects; they add up to 1. Every split gets one at least.
        seed: another seed gives another division.
        together: groups of subjects that must not be parted, such as those with identical scans.

    Returns:
        split -> its subjects, sorted.

    Raises:
        MrsslError: shares that are not positive or do not add up to 1, or fewer subjects (groups
            counted once) than splits.
    """
    if not shares or min(shares.values()) <= 0 or abs(sum(shares.values()) - 1) > 1e-6:
        raise MrsslError(f"shares of splits must be positive and add up to 1, not {dict(shares)}")
    groups = _groups(sorted(set(subjects)), together)
    if len(groups) < len(shares):
        raise MrsslError(f"{len(groups)} subjects can't be divided among {len(shares)} splits")
    groups.sort(key=lambda group: hashlib.sha256(f"{seed}:{group[0]}".encode()).digest())
    names = list(shares)
    cuts = _cuts([shares[name] for name in names], len(groups))
    return {
        name: sorted(subject for group in groups[start:end] for subject in group)
        for name, start, end in zip(names, cuts, cuts[1:], strict=False)
    }


def shared_subjects(
    train: Iterable[Mapping[str, Any]], test: Iterable[Mapping[str, Any]]
) -> list[str]:
    """Subjects that both have, by name: where they are the same, scores tell nothing of others.

    Args:
        train: dataset dicts with ``subject_id``.
        test: likewise.

    Returns:
        Their names, sorted.
    """
    return sorted({d["subject_id"] for d in train} & {d["subject_id"] for d in test})


def doubtful_subjects(sources: Iterable[VolumeSource]) -> list[str]:
    """What speaks against subjects that go by the names of their files.

    Files of the same names in many folders, which may be one for each patient; and names that
    differ in an ending only that others have too, as of several visits or contrasts.

    Args:
        sources: of volumes; those that name their subject themselves (DICOM, BIDS, slice stores, a
            pattern) are passed over.

    Returns:
        A line for each of the two, with an example.
    """
    folders: defaultdict[str, set[Path]] = defaultdict(set)
    for source in sources:
        by_file = source.format not in ("dicom", "store") and "sub-" not in source.subject
        if by_file and source.subject == subject_of_file(source.path):
            folders[source.subject].add(Path(source.path).parent)
    lines = []
    repeated = sorted(name for name, places in folders.items() if len(places) > 1)
    places = set().union(*(folders[name] for name in repeated))
    if len(places) > len(repeated) > 0:
        lines.append(
            f"files named {repeated[0]} in {len(folders[repeated[0]])} folders count as one "
            "subject's: where each folder is a patient, name them by subject_pattern "
            "(MRSSL.DATA.SUBJECT_PATTERN), as in '([^/]+)/[^/]+$'"
        )
    stems: defaultdict[str, list[str]] = defaultdict(list)
    endings = set()
    for name in sorted(folders):
        if match := _NUMBER_AND_MORE.match(name):
            stems[match[1]].append(name)
            endings.add(match[2])
    several = [names for names in stems.values() if len(names) > 1]
    if several and len(endings) < len(stems):
        first, second, *_ = several[0]
        lines.append(
            f"{first} and {second} count as two subjects: where they are one patient, name it by "
            "subject_pattern (MRSSL.DATA.SUBJECT_PATTERN), as in '([^/]*[0-9])[_-][^_/-]+$'"
        )
    return lines


def _cuts(shares: Sequence[float], count: int) -> list[int]:
    cuts = [0]
    for index in range(len(shares)):
        wanted = round(sum(shares[: index + 1]) * count)
        # one at least for this split, and for each that follows
        cuts.append(min(max(wanted, cuts[-1] + 1), count - (len(shares) - 1 - index)))
    return cuts


def _groups(subjects: Sequence[str], together: Sequence[Iterable[str]]) -> list[list[str]]:
    sets = DisjointSet(subjects)
    for group in together:
        for one, next_one in pairwise(s for s in group if s in sets):
            sets.merge(one, next_one)
    return [sorted(members) for members in sets.subsets()]


__all__ = ["doubtful_subjects", "shared_subjects", "split_subjects"]
