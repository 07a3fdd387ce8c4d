"""Find volumes on disk, and read any of them by ``(file_name, series)``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrssl.data.dicom_headers import DicomError
from mrssl.data.dicom_pixels import read_slices
from mrssl.data.dicom_scan import (
    SPREAD,
    DicomScan,
    find_spread,
    join_folders,
    scan_path,
    scan_tree,
    walk,
)
from mrssl.data.dicom_series import MISSING, DicomVolume
from mrssl.data.dicom_slices import SliceHeader
from mrssl.data.itk import ITK_FORMATS, itk_format, read_itk, read_itk_axes, read_itk_header
from mrssl.data.nifti import NIFTI_SUFFIXES, is_nifti, read_nifti, read_nifti_header
from mrssl.data.store import is_stored, read_stored, stored_entry
from mrssl.errors import MrsslError
from mrssl.files import relative_path
from mrssl.privacy import pseudonym
from mrssl.structures.volume import Volume, affine_spacing, resolve_slice_axis

#: BIDS subject at the start of a file name.
_BIDS_SUBJECT = re.compile(r"^(sub-[A-Za-z0-9]+)")
#: nnU-Net channel number at the end of a case's file name; or any number of four digits.
_CHANNEL = re.compile(r"_\d{4}$")
#: Fault of a DICOM volume whose subject neither its header nor a pattern names.
_GUESSED = (
    "no PatientID: the subject is a guess, by study or else folder; name it by subject_pattern "
    "(MRSSL.DATA.SUBJECT_PATTERN)"
)


@dataclass(frozen=True)
class VolumeSource:
    """One volume that can be read, as its header describes it.

    Attributes:
        path: the file, or the folder whose files are the slices.
        series: which volume of it; "" where it holds only one.
        format: "nifti", "nrrd", "metaimage", "dicom" or "store".
        shape: (D, H, W) as :func:`read_volume` gives it.
        affine: (4, 4) float64, voxel to RAS+ mm, as :func:`read_volume` gives it.
        subject: never a name: for DICOM a digest of PatientID, or else of StudyInstanceUID, or of
            the folder's name; from the file name otherwise.
        tags: header fields to choose by; none identifies a person.
        faults: what is doubtful about it, and its consequence.
        marks: by which the patient's name is recognised in paths (:mod:`mrssl.privacy`).
        slices: of DICOM: where the pixels are, so that nothing has to be searched again.
    """

    path: str
    series: str
    format: str
    shape: tuple[int, int, int]
    affine: np.ndarray = field(repr=False)
    subject: str
    tags: dict[str, str] = field(default_factory=dict, repr=False)
    faults: tuple[str, ...] = ()
    marks: frozenset[str] = field(default=frozenset(), repr=False)
    slices: tuple[SliceHeader, ...] = field(default=(), repr=False)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel spacing in mm along (D, H, W)."""
        return affine_spacing(self.affine)

    @property
    def lacks_slices(self) -> bool:
        """Whether there are gaps, so that slices lie beside where the affine says."""
        return any(MISSING in fault for fault in self.faults)

    def with_subject(self, subject: str) -> VolumeSource:
        """The same volume, of a subject that is known, and no guess any more."""
        faults = tuple(fault for fault in self.faults if fault != _GUESSED)
        return replace(self, subject=subject, faults=faults)


@dataclass(frozen=True)
class Refused:
    """A file that holds no usable volume, or a folder that cannot be opened, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class FoundVolumes:
    """What :func:`find_volumes` found: every file is in one of the two lists."""

    volumes: list[VolumeSource]
    refused: list[Refused]

    def reason(self) -> str:
        """How many files were refused, and why the first was, in words; "" if none was."""
        if not self.refused:
            return ""
        first = self.refused[0]
        return f"{len(self.refused)} files refused, the first {first.path}: {first.reason}"


def find_volumes(root: str | Path, *, subject_pattern: str = "") -> FoundVolumes:
    """Every volume in a file or under a folder; reads headers only, DICOM in the order of folders.

    A DICOM series that is spread over several folders is one volume, whose ``path`` is the folder
    that holds these.

    Args:
        root: a NIfTI file, a DICOM file, or a folder, searched with its sub-folders and those that
            links lead to, each once. Files and folders whose names start with a dot are passed
            over.
        subject_pattern: regular expression, searched in the path relative to ``root``; its first
            group (or the whole match) is the subject. "" = by the format.

    Raises:
        MrsslError: no such path, or a pattern that is not a regular expression.
    """
    root = Path(root)
    pattern = compile_pattern(subject_pattern)
    if not root.exists():
        raise MrsslError(f"{root}: no such file or folder")
    found = FoundVolumes([], [])
    base = root if root.is_dir() else root.parent
    scans = []
    for place, files in _places(root, found.refused):
        others = [path for path in files if not is_nifti(path) and not itk_format(path)]
        for path in sorted(set(files) - set(others)):
            try:
                found.volumes.extend(file_sources(path))
            except MrsslError as error:
                found.refused.append(Refused(path, str(error).removeprefix(f"{path}: ")))
        if others:
            scans.append(scan_path(place))
    _add_dicom(found, join_folders(scans))
    if pattern is not None:
        found.volumes[:] = [
            v.with_subject(subject_in_path(v.path, pattern, base)) for v in found.volumes
        ]
    return found


def read_source(source: VolumeSource) -> Volume:
    """:func:`read_volume` of what :func:`find_volumes` found.

    Raises:
        MrsslError: it cannot be read, or no longer.
    """
    if source.slices:
        return Volume(read_slices(source.slices), source.affine)
    return read_volume(source.path, series=source.series)


def read_volume(path: str | Path, *, series: str = "", index: int | None = None) -> Volume:
    """Read one volume, raw intensities, as the source orders its axes.

    NIfTI comes in canonical axes: D, H, W run to patient Right, Anterior, Superior. A DICOM
    volume comes as (slice, row, column), slices ordered by position along the slice normal.
    :meth:`Volume.take_slices` makes either ready for display.

    Args:
        path: a NIfTI file, a DICOM file, an array of a slice store, or a folder of DICOM files
            (searched with its sub-folders if it holds none itself).
        series: which volume, where there are several: :attr:`VolumeSource.series`.
        index: which volume of a 4-D NIfTI file; the same as ``series=str(index)``.

    Raises:
        MrsslError: nothing readable there, or an ambiguous or unknown ``series``.
    """
    path = Path(path)
    if is_stored(path):
        return read_stored(path)
    if itk_format(path) and not path.is_dir():
        return read_itk(path)
    if is_nifti(path) and not path.is_dir():
        if index is None and series:
            index = _series_index(path, series)
        return read_nifti(path, index)
    if not path.exists():
        raise MrsslError(f"{path}: no such file or folder")
    volume = _choose(path, series)
    return Volume(read_slices(volume.slices), volume.affine)


def file_sources(path: str) -> list[VolumeSource]:
    """The volumes of a NIfTI, NRRD or MetaImage file: one, or each of a 4-D NIfTI's."""
    if kind := itk_format(path):
        shape, affine = read_itk_header(path)
        return [VolumeSource(path, "", kind, shape, affine, subject_of_file(path))]
    header = read_nifti_header(path)
    names = [""] if header.num_volumes == 1 else [str(i) for i in range(header.num_volumes)]
    subject = subject_of_file(path)
    return [
        VolumeSource(
            path, name, "nifti", header.shape, header.affine, subject, faults=header.faults
        )
        for name in names
    ]


def file_axes(path: str) -> str:
    """Where a file's own axes run, as in "LPS"; "" for DICOM, which has none, and stores."""
    if is_nifti(path):
        return read_nifti_header(path).axes
    return read_itk_axes(path) if itk_format(path) else ""


def stored_source(path: str, entry: dict[str, Any]) -> VolumeSource:
    """An image in a slice store, by its entry in the index."""
    depth, height, width = entry["shape"]
    return VolumeSource(
        path,
        "",
        "store",
        (depth, height, width),
        np.array(entry["affine"], np.float64),
        entry["subject"],
        entry["tags"],
        tuple(entry["faults"]),
    )


def subject_of_file(path: str | Path) -> str:
    """The subject a file name speaks of: BIDS ``sub-...``, else the name without channel.

    A number at the end is a channel where channel 0 lies beside the file: ``amos_0507`` is a case.
    """
    path = Path(path)
    name, ending = path.name, ""
    for suffix in (*sorted(NIFTI_SUFFIXES, key=len, reverse=True), *ITK_FORMATS, ".dcm"):
        if name.lower().endswith(suffix):
            name, ending = name[: -len(suffix)], name[-len(suffix) :]
            break
    match = _BIDS_SUBJECT.match(name)
    if match:
        return match.group(1)
    case = _CHANNEL.sub("", name)
    return case if case != name and path.with_name(f"{case}_0000{ending}").exists() else name


def volume_slice_axis(source: VolumeSource, axis: str) -> str:
    """The slice axis of a volume, "auto" and planes resolved: DICOM keeps the scanner's on "auto".

    A volume of a store was sliced when it was prepared: its D is the axis that was asked for then.
    """
    if axis == "auto" and source.format == "dicom":
        return "D"
    axis = resolve_slice_axis(axis, source.shape, source.affine)
    return "D" if source.format == "store" else axis


def label_source(path: str) -> VolumeSource:
    """The one volume that a label path holds.

    Raises:
        MrsslError: not exactly one.
    """
    if is_stored(path):
        entry = stored_entry(path)
        return VolumeSource(path, "", "store", entry.shape, entry.affine, subject="")
    found = find_volumes(path)
    if len(found.volumes) != 1:
        reason = found.refused[0].reason if found.refused else "not a single volume"
        raise MrsslError(f"{path}: {reason}")
    return found.volumes[0]


def compile_pattern(pattern: str) -> re.Pattern[str] | None:
    """A subject pattern, compiled; None for "".

    Raises:
        MrsslError: not a regular expression.
    """
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise MrsslError(f"subject pattern {pattern!r}: {error}") from error


def subject_in_path(path: str | Path, pattern: re.Pattern[str], base: Path) -> str:
    """The subject that ``pattern`` finds in a path, taken relative to ``base``.

    Args:
        path: of a volume.
        pattern: its first group, or the whole match, is the subject.
        base: the folder that was searched, or that of the ``dataset.json``; what it is called says
            nothing of a subject.

    Raises:
        MrsslError: the pattern finds none.
    """
    match = pattern.search(relative_path(path, base))
    subject = match and match.group(1 if pattern.groups else 0)
    if not subject:
        raise MrsslError(f"{path}: no subject in it by the pattern {pattern.pattern!r}")
    return subject


def _places(root: Path, refused: list[Refused]) -> Iterable[tuple[str, list[str]]]:
    """A file itself, or each folder beneath ``root``; and the paths of its files.

    Folders that cannot be opened are added to ``refused``.
    """
    if not root.is_dir():
        return [(str(root), [str(root)])]
    folders = walk(root, lambda path, reason: refused.append(Refused(path, reason)))
    return ((folder, [os.path.join(folder, n) for n in names]) for folder, names in folders)


def _add_dicom(found: FoundVolumes, scan: DicomScan) -> None:
    found.refused.extend(Refused(path, reason) for path, reason in scan.refused)
    for home, volumes in scan.volumes.items():
        for volume in volumes:
            first = volume.slices[0]
            alone = len(volumes) == 1 and not volume.key.endswith(SPREAD)
            guess = first.study or pseudonym(Path(first.path).absolute().parent.name)
            found.volumes.append(
                VolumeSource(
                    path=home,
                    series="" if alone else volume.key,
                    format="dicom",
                    shape=volume.shape,
                    affine=volume.affine,
                    subject=first.subject or guess,
                    tags=first.tags,
                    faults=volume.faults if first.subject else (*volume.faults, _GUESSED),
                    marks=first.marks,
                    slices=volume.slices,
                )
            )


def _choose(path: Path, series: str) -> DicomVolume:
    if series.endswith(SPREAD) and (volume := find_spread(str(path), series)) is not None:
        return volume
    scan = scan_path(path)
    if not scan.volumes and path.is_dir():
        scan = scan_tree(path)
    volumes = scan.volumes.get(str(path)) or [volume for _, volume in scan.all_volumes()]
    if not volumes:
        if not scan.refused:
            raise DicomError(f"{path}: no DICOM files in it")
        file, reason = scan.refused[0]
        more = f" (and {len(scan.refused) - 1} more files)" if len(scan.refused) > 1 else ""
        raise DicomError(f"{file}: {reason}{more}")
    if not series and len(volumes) == 1:
        return volumes[0]
    for volume in volumes:
        if series and volume.key == series:
            return volume
    keys = ", ".join(volume.key for volume in volumes)
    wanted = f"no series {series!r}" if series else f"{len(volumes)} volumes; say which"
    raise DicomError(f"{path}: {wanted}: {keys}")


def _series_index(path: Path, series: str) -> int:
    if not series.isdecimal():
        raise MrsslError(f"{path}: volume {series!r} is not a number")
    return int(series)


__all__ = [
    "FoundVolumes",
    "Refused",
    "VolumeSource",
    "compile_pattern",
    "file_axes",
    "file_sources",
    "find_volumes",
    "label_source",
    "read_source",
    "read_volume",
    "stored_source",
    "subject_in_path",
    "subject_of_file",
    "volume_slice_axis",
]
