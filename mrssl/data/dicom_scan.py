"""DICOM files to volumes: of a file, of a folder, and of series spread over several folders."""

from __future__ import annotations

import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from mrssl.data.dicom_headers import DicomError, forget_values
from mrssl.data.dicom_series import DicomVolume, group_slices, make_volume, places_are_unique
from mrssl.data.dicom_slices import SliceHeader, read_slice_headers
from mrssl.data.itk import itk_format
from mrssl.data.nifti import is_nifti
from mrssl.errors import MrsslError

#: Ends the key of a volume whose slices lie in several folders beneath its home.
SPREAD = "+"


@dataclass(frozen=True)
class DicomScan:
    """What DICOM headers amount to.

    Attributes:
        volumes: by home: the file, of a volume that lies in one file; the folder; or, of a volume
            that is spread over folders, the folder that holds these.
        refused: (path, reason) of files without a usable volume, and of closed folders.
        slices: of all files, also those that a volume leaves out.
    """

    volumes: dict[str, tuple[DicomVolume, ...]] = field(default_factory=dict)
    refused: tuple[tuple[str, str], ...] = ()
    slices: tuple[SliceHeader, ...] = field(default=(), repr=False)

    def all_volumes(self) -> list[tuple[str, DicomVolume]]:
        """Every volume, with its home."""
        return [(home, volume) for home, volumes in self.volumes.items() for volume in volumes]


def scan_files(home: str, paths: Iterable[str]) -> DicomScan:
    """Read the headers of ``paths``, which lie in ``home``, and group their slices to volumes."""
    slices: list[SliceHeader] = []
    refused: list[tuple[str, str]] = []
    shared: dict[Any, Any] = {}
    for path in paths:
        try:
            slices.extend(_share(item, shared) for item in read_slice_headers(path))
        except DicomError as error:
            refused.append((path, str(error).removeprefix(f"{path}: ")))
    volumes: defaultdict[str, list[DicomVolume]] = defaultdict(list)
    for group in group_slices(slices):
        files = list(dict.fromkeys(item.path for item in group))
        try:
            volumes[files[0] if len(files) == 1 else home].append(make_volume(group))
        except MrsslError as error:
            refused.extend((path, str(error)) for path in files)
    named = {place: _unique_keys(found) for place, found in volumes.items()}
    return DicomScan(named, tuple(refused), tuple(slices))


def _share(item: SliceHeader, shared: dict[Any, Any]) -> SliceHeader:
    """Keep equal tags and identities once: they are most of a header's memory."""
    tags = shared.setdefault(tuple(item.tags.items()), item.tags)
    return replace(item, tags=tags, identity=shared.setdefault(item.identity, item.identity))


def _unique_keys(volumes: Sequence[DicomVolume], suffix: str = "") -> tuple[DicomVolume, ...]:
    """Number the volumes that only order tells apart: key, key.2, key.3, ..."""
    seen: defaultdict[str, int] = defaultdict(int)
    named = []
    for volume in volumes:
        seen[volume.key] += 1
        number = f".{seen[volume.key]}" if seen[volume.key] > 1 else ""
        named.append(replace(volume, key=f"{volume.key}{number}{suffix}"))
    return tuple(named)


def scan_path(path: str | Path) -> DicomScan:
    """Volumes of one file, or of the files that lie directly in one folder; cached.

    The cache notices files that were added, removed or rewritten, and is bounded by slices.
    """
    path = Path(path)
    signature: tuple[Any, ...]
    if path.is_dir():
        entries = sorted((e for e in os.scandir(path) if e.is_file()), key=lambda e: e.name)
        entries = [e for e in entries if may_be_dicom(e.name)]
        signature = tuple((e.name, *_signature(e.stat())) for e in entries)
        files = [e.path for e in entries]
    else:
        signature, files = _signature(path.stat()), [str(path)]
    key = str(path)
    cached = _SCANS.pop(key, None)
    if cached is None or cached[0] != signature:
        scan = scan_files(key, files)
        cached = (signature, scan)
        for home, volumes in scan.volumes.items():
            if home != key:  # a file that holds volumes of its own will be asked for by name
                own = tuple(item for volume in volumes for item in volume.slices)
                _SCANS[home] = (_signature(os.stat(home)), DicomScan({home: volumes}, (), own))
    _SCANS[key] = cached
    _drop_oldest()
    return cached[1]


#: Path -> signature of its files, and what was found; least recently used first.
_SCANS: OrderedDict[str, tuple[tuple[Any, ...], DicomScan]] = OrderedDict()
_MAX_CACHED_SLICES = 20_000
_MAX_CACHED_SCANS = 2_000


def may_be_dicom(name: str) -> bool:
    """Whether a file's name leaves it open that it is DICOM."""
    return not (name.startswith(".") or is_nifti(name) or itk_format(name))


def forget_scans() -> None:
    """Read every header anew from here on, as in a new process."""
    _SCANS.clear()
    _spread_volumes.cache_clear()
    forget_values()


def _drop_oldest() -> None:
    slices = sum(len(scan.slices) for _, scan in _SCANS.values())
    while len(_SCANS) > 1 and (slices > _MAX_CACHED_SLICES or len(_SCANS) > _MAX_CACHED_SCANS):
        _, (_, scan) = _SCANS.popitem(last=False)
        slices -= len(scan.slices)


def _signature(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_size, stat.st_mtime_ns


def scan_tree(root: str | Path) -> DicomScan:
    """Volumes of all folders beneath ``root``, those that are spread over folders joined."""
    refused: list[tuple[str, str]] = []
    folders = walk(root, lambda path, reason: refused.append((path, reason)))
    scans = [scan_path(folder) for folder, files in folders if any(map(may_be_dicom, files))]
    return join_folders([*scans, DicomScan(refused=tuple(refused))])


def find_spread(home: str, key: str) -> DicomVolume | None:
    """The volume ``key`` that is spread over the folders of ``home``."""
    return _spread_volumes(home).get(key)


@lru_cache(maxsize=4)  # all volumes of a tree at once: each would search it again
def _spread_volumes(home: str) -> dict[str, DicomVolume]:
    return {volume.key: volume for volume in scan_tree(home).volumes.get(home, ())}


def walk(root: str | Path, refuse: Callable[[str, str], object]) -> Iterable[tuple[str, list[str]]]:
    """Folders beneath ``root`` and the names of their files, sorted, without hidden ones.

    Links to folders are followed, after all else, so that a folder beneath ``root`` keeps its own
    path. However many links lead to a folder, it comes once.

    Args:
        root: the folder.
        refuse: called with the path of each folder that cannot be opened, and why.
    """

    def closed(error: OSError) -> None:
        refuse(str(error.filename), f"the folder cannot be opened ({error.strerror})")

    tops, seen = [os.fspath(root)], set[str]()
    for top in tops:  # which grow as links are met
        for folder, folders, files in os.walk(top, onerror=closed):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            inner = (os.path.join(folder, name) for name in folders)
            tops.extend(path for path in inner if os.path.islink(path))
            yield folder, sorted(name for name in files if not name.startswith("."))


def join_folders(scans: Iterable[DicomScan]) -> DicomScan:
    """Scans of several folders as one, in which volumes that are spread over folders are whole.

    Slices of one series that lie in several folders, as on disks with so many files a folder, are
    grouped anew, all together. That is believed if no slice number is there twice and no two slices
    of a volume lie at one place; else the folders hold copies, and each stands for itself.
    """
    volumes: dict[str, tuple[DicomVolume, ...]] = {}
    refused: list[tuple[str, str]] = []
    slices: defaultdict[Any, list[SliceHeader]] = defaultdict(list)
    homes: defaultdict[Any, list[str]] = defaultdict(list)
    for scan in scans:
        volumes |= scan.volumes
        refused += scan.refused
        for item in scan.slices:
            slices[item.group].append(item)
        for home, found in scan.volumes.items():
            for group in {volume.slices[0].group for volume in found}:
                homes[group].append(home)
    for group, own in slices.items():
        folders = {os.path.dirname(path) for path in {item.path for item in own}}
        if len(folders) > 1:
            _join(volumes, homes[group], own, folders)
    every = tuple(item for own in slices.values() for item in own)
    return DicomScan({h: found for h, found in volumes.items() if found}, tuple(refused), every)


def _join(
    volumes: dict[str, tuple[DicomVolume, ...]],
    homes: Sequence[str],
    slices: list[SliceHeader],
    folders: Set[str],
) -> None:
    """Replace the volumes of one series, which lie in ``homes``, by those its slices make."""
    group = slices[0].group
    parts = [v for home in homes for v in volumes[home] if v.slices[0].group == group]
    whole = _whole_volumes(slices)
    if whole is not None and _slice_sets(whole) == _slice_sets(parts):
        return  # each folder holds whole volumes
    fault = f"{len(folders)} folders hold slices of this series, some twice: each read by itself"
    for home in homes:
        others = tuple(v for v in volumes[home] if v.slices[0].group != group)
        marked = tuple(
            replace(v, faults=(*v.faults, fault))
            for v in volumes[home]
            if whole is None and v.slices[0].group == group
        )
        volumes[home] = others + marked
    if whole is not None:
        home = os.path.commonpath(folders)
        volumes[home] = (*volumes.get(home, ()), *_unique_keys(whole, SPREAD))


def _whole_volumes(slices: list[SliceHeader]) -> list[DicomVolume] | None:
    """The volumes that slices of several folders make together; None if not believable."""
    numbers = {item.number for item in slices}
    if len(numbers) < len(slices) and numbers != {0}:
        return None
    groups = group_slices(slices)
    if not all(map(places_are_unique, groups)):
        return None
    try:
        return [make_volume(group) for group in groups]
    except MrsslError:
        return None


def _slice_sets(volumes: Iterable[DicomVolume]) -> set[frozenset[int]]:
    return {frozenset(map(id, volume.slices)) for volume in volumes}


__all__ = [
    "SPREAD",
    "DicomScan",
    "find_spread",
    "forget_scans",
    "join_folders",
    "may_be_dicom",
    "scan_files",
    "scan_path",
    "scan_tree",
    "walk",
]
