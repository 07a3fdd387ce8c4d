"""What a data set really holds: every volume read once, every fault and what follows from it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mrssl.data.cases import Case, parse_dataset_path
from mrssl.data.descriptions import read_description
from mrssl.data.label_files import check_label, read_label
from mrssl.data.normalization import (
    foreground_threshold,
    intensity_window,
    looks_like_labels,
    normalize,
)
from mrssl.data.sources import Refused, find_volumes, read_source, volume_slice_axis
from mrssl.data.splits import doubtful_subjects
from mrssl.errors import MrsslError
from mrssl.files import write_png, write_text
from mrssl.privacy import PathMask
from mrssl.structures.volume import Volume

#: Side of one picture of the contact sheet, and of its caption, in pixels.
_TILE, _CAPTION = 160, 28
#: Pictures of a contact sheet, at most.
_MAX_TILES = 400


@dataclass
class DataReport:
    """What was found.

    Attributes:
        volumes: one plain dict a volume: path, format, shape, spacing, subject, series, faults,
            and more; no patient name.
        refused: files that hold no usable volume, and why.
        thumbnails: the middle slice of each of the first 400 volumes, uint8, in their order.
        class_names: of the labels of a described data set.
        doubts: what speaks against the subjects (:func:`~mrssl.data.splits.doubtful_subjects`),
            where no pattern names them.
    """

    volumes: list[dict[str, Any]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    thumbnails: list[np.ndarray] = field(default_factory=list)
    class_names: list[str] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain types: ``{"volumes": [...], "refused": [{"path", "reason"}, ...]}``."""
        return {
            "volumes": self.volumes,
            "refused": [{"path": r.path, "reason": r.reason} for r in self.refused],
        }

    def write_json(self, path: str | Path) -> None:
        """Write :meth:`to_dict` as JSON, whole or not at all."""
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    def cover_names(self, mask: PathMask) -> None:
        """Cover patients' names in paths, and in what the headers say of series and protocol."""
        for volume in self.volumes:
            volume["path"] = mask.path(volume["path"])
            volume["faults"] = [mask(fault) for fault in volume["faults"]]
            volume["tags"] = {name: mask.cover(text) for name, text in volume["tags"].items()}
            volume["subject"] = mask.cover(volume["subject"])
            if "label" in volume:
                volume["label"]["path"] = mask.path(volume["label"]["path"])
        self.refused = [Refused(mask.path(item.path), mask(item.reason)) for item in self.refused]
        self.doubts = [mask(line) for line in self.doubts]

    def duplicates(self) -> list[list[dict[str, Any]]]:
        """Volumes with the same voxels, in groups of two or more."""
        groups: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        for volume in self.volumes:
            groups[volume["digest"]].append(volume)
        return [group for group in groups.values() if len(group) > 1]


def check_data(
    path: str | Path,
    *,
    subject_pattern: str = "",
    show_paths: bool = False,
    progress: Callable[[list[Case]], Iterator[Case]] = iter,
) -> DataReport:
    """Read every volume of a folder, file or ``dataset.json[:split]``, and say what is wrong.

    Args:
        path: as ``DATASETS.TRAIN`` takes it.
        subject_pattern: as ``MRSSL.DATA.SUBJECT_PATTERN``.
        show_paths: report paths as they are. Else words of a path that are in the name, or the ID,
            of a patient are replaced by digits of their digest.
        progress: wraps the list of cases, to show how far it is.

    Raises:
        MrsslError: no such path, or a ``dataset.json`` that cannot be understood. What is wrong
            with a single file is part of the report.
    """
    report = DataReport()
    values: list[Any] = []
    file, split = parse_dataset_path(path)
    if file.suffix == ".json" and not file.is_dir():
        description = read_description(file, split, subject_pattern=subject_pattern)
        cases, report.class_names = description.cases, description.class_names
        values = description.class_values
        report.refused.extend(description.refused)
    else:
        found = find_volumes(file, subject_pattern=subject_pattern)
        cases = [Case(volume.subject, volume) for volume in found.volumes]
        report.refused.extend(found.refused)
    if not subject_pattern:
        report.doubts = doubtful_subjects(case.source for case in cases)
    labeled = any(case.label_file for case in cases)
    for case in progress(cases):
        _check_case(case, values, report, labeled=labeled)
    if not show_paths:
        root = file.parent if file.is_file() else file
        report.cover_names(PathMask(root, (case.source.marks for case in cases)))
    for group in report.duplicates():
        for volume in group:
            other = group[0] if volume is not group[0] else group[1]
            more = f" and {len(group) - 2} more" if len(group) > 2 else ""
            volume["faults"].append(f"the same voxels as {_name(other)}{more}: keep one")
    return report


def _name(volume: dict[str, Any]) -> str:
    return volume["path"] + (f" [{volume['series']}]" if volume["series"] else "")


def _check_case(case: Case, values: list[Any], report: DataReport, *, labeled: bool) -> None:
    """Add a volume to ``report``; ``labeled``: others of the data set have a label."""
    source = case.source
    try:
        volume = read_source(source)
    except MrsslError as error:
        where = source.path + (f" [{source.series}]" if source.series else "")
        report.refused.append(Refused(where, str(error)))
        return
    axis = volume_slice_axis(source, "auto")
    sliced = volume.take_slices(axis)
    statistics, faults = _intensities(volume.array)
    entry: dict[str, Any] = {
        "path": source.path,
        "format": source.format,
        "shape": list(volume.shape),
        "spacing": [round(mm, 4) for mm in volume.spacing],
        "subject": source.subject,
        "series": source.series,
        "faults": [*source.faults, *faults],
        "orientation": volume.orientation,
        "slice_axis": axis,
        "num_slices": sliced.shape[0],
        "intensities": statistics,
        "tags": source.tags,
        "digest": hashlib.blake2b(volume.array.tobytes(), digest_size=16).hexdigest(),
    }
    if case.label_file:
        entry["label"] = _check_label(case, volume, values, entry["faults"])
    elif labeled:
        entry["faults"].append("no label: left out of fine-tuning and of its scores")
    report.volumes.append(entry)
    if len(report.thumbnails) < _MAX_TILES:
        report.thumbnails.append(_thumbnail(sliced))


def _intensities(array: np.ndarray) -> tuple[dict[str, float], list[str]]:
    low, middle, high = (float(v) for v in np.percentile(array, (1, 50, 99)))
    smallest, largest = float(array.min()), float(array.max())
    foreground = float((array > foreground_threshold(array)).mean())
    faults = []
    if smallest == largest:
        faults.append(f"all voxels are {smallest:g}: nothing to learn from")
    elif looks_like_labels(array):
        faults.append("no more than a few intensities: a label map, not a scan?")
    elif foreground < 0.01:
        faults.append(f"{foreground:.1%} foreground: nearly empty")
    elif float((array == largest).mean()) > 0.01:
        faults.append("more than 1 % of the voxels have the highest value: clipped")
    statistics = {
        "min": smallest,
        "p1": low,
        "median": middle,
        "p99": high,
        "max": largest,
        "foreground": round(foreground, 4),
    }
    return statistics, faults


def _check_label(
    case: Case, volume: Volume, values: list[Any], faults: list[str]
) -> dict[str, Any]:
    """Label values and their voxels; adds to ``faults``."""
    path = str(case.label_file)
    try:
        fault = check_label(path, case.source)
        array = read_label(path, volume.affine, volume.shape)
    except MrsslError as error:
        faults.append(f"label unusable: {error}")
        return {"path": path}
    if fault:
        faults.append(fault)
    found, counts = np.unique(array, return_counts=True)
    known = {0, *(v for value in values for v in (value if isinstance(value, tuple) else (value,)))}
    unknown = [int(value) for value in found if int(value) not in known]
    if unknown:
        faults.append(f"label values {unknown} are not in 'labels': they count as background")
    if not set(found.tolist()) & (known - {0}):
        faults.append("the label is empty")
    return {
        "path": path,
        "voxels": {str(int(v)): int(n) for v, n in zip(found, counts, strict=True)},
    }


def _thumbnail(volume: Volume) -> np.ndarray:
    """The middle slice, square voxels, within a tile."""
    window = intensity_window(volume.array)
    image = (normalize(volume.array[volume.shape[0] // 2], *window) * 255).astype(np.uint8)
    _, row_mm, column_mm = volume.spacing
    height, width = image.shape[0] * row_mm, image.shape[1] * column_mm
    scale = _TILE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    tile = np.zeros((_TILE, _TILE), np.uint8)
    tile[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return tile


def write_contact_sheet(report: DataReport, path: str | Path) -> int:
    """One picture with the middle slice of each volume, numbered as in the table; a PNG.

    Returns:
        How many volumes it shows: at most 400.

    Raises:
        MrsslError: no volumes, or the file cannot be written.
    """
    count = min(len(report.thumbnails), _MAX_TILES)
    if not count:
        raise MrsslError(f"{path}: no volumes to show")
    columns = max(1, min(count, round((count * 1.5) ** 0.5)))
    rows = -(-count // columns)
    sheet = np.zeros((rows * (_TILE + _CAPTION), columns * _TILE), np.uint8)
    for index in range(count):
        y, x = index // columns * (_TILE + _CAPTION), index % columns * _TILE
        sheet[y : y + _TILE, x : x + _TILE] = report.thumbnails[index]
        volume = report.volumes[index]
        text = f"{index + 1}: {'x'.join(map(str, volume['shape']))}{' !' * bool(volume['faults'])}"
        cv2.putText(sheet, text, (x + 3, y + _TILE + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.4, 255, 1)
    write_png(path, sheet)
    return count


__all__ = ["DataReport", "check_data", "write_contact_sheet"]
