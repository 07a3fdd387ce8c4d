"""Data sets by path: a folder of scans or a ``dataset.json`` to standard dataset dicts."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from mrssl.data.cases import Case, parse_dataset_path
from mrssl.data.descriptions import describe
from mrssl.data.label_files import check_label, read_label
from mrssl.data.labels import (
    ClassValues,
    annotations_of_slice,
    instances_of_slice,
)
from mrssl.data.normalization import intensity_window, looks_like_labels, normalize
from mrssl.data.sources import read_source, volume_slice_axis
from mrssl.errors import MrsslError
from mrssl.privacy import PathMask, cover
from mrssl.structures.foreground import foreground_share
from mrssl.structures.volume import affine_axes, display_transform, transformed_geometry

_LOG = logging.getLogger(__name__)
#: Of a volume, by which a label map is told from a scan.
_LABEL_SLICES = 8


@dataclass(frozen=True)
class Dataset:
    """Slices to train or test on.

    Attributes:
        dicts: one standard dataset dict a slice (plain JSON types); slices of a volume follow
            one another.
        class_names: of the labels, in the order of ``category_id``; empty without labels.
        name: for logs and checkpoints; no path in it.
        class_values: the label value, or values, of each class.
        marks: by which its patients' names are recognised (:mod:`mrssl.privacy`).
        faults: what is doubtful about volumes, by (``file_name``, ``series``); those without are
            not there.
    """

    dicts: list[dict[str, Any]]
    class_names: list[str]
    name: str
    class_values: list[ClassValues] = field(default_factory=list)
    marks: frozenset[str] = field(default=frozenset(), repr=False)
    faults: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict, repr=False)


def dataset_options(cfg: Any) -> dict[str, Any]:
    """The keyword arguments of :func:`load_dataset` that ``cfg.MRSSL.DATA`` sets."""
    data = cfg.MRSSL.DATA
    return {
        "slice_axis": data.SLICE_AXIS,
        "min_foreground": float(data.MIN_FOREGROUND),
        "keep_unreadable": data.MAX_UNREADABLE > 0,
        "normalization": data.NORMALIZATION,
        "percentiles": tuple(data.PERCENTILES),
        "zscore_range": tuple(data.ZSCORE_RANGE),
        "window": tuple(data.WINDOW),
        "instances": data.INSTANCES,
        "min_instance_pixels": int(data.MIN_INSTANCE_PIXELS),
        "keep_empty": bool(data.KEEP_EMPTY),
        "subject_pattern": data.SUBJECT_PATTERN,
    }


def load_dataset(
    name_or_path: str | Path,
    *,
    labeled: bool | None = None,
    slice_axis: str = "auto",
    min_foreground: float = 0.0,
    keep_unreadable: bool = False,
    normalization: str = "percentile",
    percentiles: Sequence[float] = (0.5, 99.5),
    zscore_range: Sequence[float] = (-3.0, 3.0),
    window: Sequence[float] = (0.0, 1.0),
    instances: str = "class",
    min_instance_pixels: int = 1,
    keep_empty: bool = True,
    with_annotations: bool = False,
    subject_pattern: str = "",
    progress: Callable[[Sequence[Case]], Iterable[Case]] = iter,
) -> Dataset:
    """Describe every slice of a data set, without keeping any voxel.

    Args:
        name_or_path: a folder of NIfTI or DICOM files, or ``dataset.json``, or
            ``dataset.json:split`` with ``split`` a key of the ``split.json`` beside it.
        labeled: True: labels are needed, cases without one are left out, with a warning; False:
            labels are ignored; None: labels where there are any.
        slice_axis: "sagittal", "coronal", "axial", or "D", "H", "W" of
            :func:`~mrssl.data.sources.read_volume`'s axes, or "auto":
            DICOM slices as the scanner made them; else the axis of coarsest spacing. A slice store
            keeps the slices it was prepared with.
        min_foreground: of an unlabelled data set, slices with a smaller share of foreground are
            left out; 0 keeps all and reads headers only.
        keep_unreadable: keep all slices of a volume in which ``min_foreground`` cannot be measured,
            for a loader that counts what it cannot read; else the first such volume is an error.
        normalization: of the volume in which ``min_foreground`` is measured; see
            :func:`~mrssl.data.normalization.intensity_window`.
        percentiles: likewise.
        zscore_range: likewise.
        window: likewise.
        instances: "class" or "component", for the annotations.
        min_instance_pixels: smaller instances are left out of the annotations.
        keep_empty: keep slices of labelled volumes that show no instance.
        with_annotations: add Detectron2's ``annotations`` to each dict; reads every label.
        subject_pattern: regular expression for the subject in a path; "" = by the format.
        progress: wraps the volumes, to show how far it is: to measure foreground reads all of them.

    Raises:
        MrsslError: nothing usable there; one line that names the file and the fault.
    """
    description = describe(name_or_path, subject_pattern=subject_pattern)
    cases = _choose_labeled(name_or_path, description.cases, labeled)
    has_labels = any(case.label_file for case in cases)
    values = description.class_values
    if has_labels and not values:
        raise MrsslError(f"{name_or_path}: has label volumes, but no 'labels' to name their values")
    window_options = {
        "normalization": normalization,
        "percentiles": tuple(percentiles),
        "zscore_range": tuple(zscore_range),
        "window": tuple(window),
    }
    known = description.normalization == json.loads(json.dumps(window_options))
    dicts: list[dict[str, Any]] = []
    label_like: list[str] = []
    image_id = 0
    for case in progress(cases):
        records = _slice_records(case, slice_axis, image_id)
        image_id += len(records)
        if case.label_file:
            if with_annotations or not keep_empty:
                _annotate(case, records, values, instances, min_instance_pixels)
                records = [r for r in records if keep_empty or r["annotations"]]
        elif min_foreground > 0:
            try:
                shares, few = (
                    (case.foreground, False)
                    if known
                    else _foreground(case, records[0]["slice_axis"], window_options)
                )
            except MrsslError:
                if not keep_unreadable:
                    raise
            else:
                label_like += [Path(case.source.path).name] * few
                records = [r for r in records if shares[r["slice_index"]] >= min_foreground]
        dicts.extend(records)
    if not dicts:
        why = _why_none(cases, min_foreground, keep_empty, min_instance_pixels)
        raise MrsslError(f"{name_or_path}: none of its {image_id} slices is left to use: {why}")
    names = description.class_names if has_labels else []
    marks = frozenset[str]().union(*(case.source.marks for case in cases))
    if label_like:
        _LOG.warning(
            "%d of %d volumes have but a few intensities, as label maps do (%s): keep labels out "
            "of the folder of the scans, or name the images in a dataset.json",
            len(label_like),
            len(cases),
            cover(", ".join(label_like[:3]), marks) + ", ..." * (len(label_like) > 3),
        )
    faults = {(s.path, s.series): s.faults for s in (case.source for case in cases) if s.faults}
    return Dataset(dicts, names, description.name, values if has_labels else [], marks, faults)


def _foreground(
    case: Case, slice_axis: str, options: dict[str, Any]
) -> tuple[Sequence[float], bool]:
    """Of each slice of a volume; and whether that may be a label map."""
    array = read_source(case.source).take_slices(slice_axis).array
    window = intensity_window(array, **options)
    places = np.linspace(0, len(array) - 1, min(len(array), _LABEL_SLICES)).round().astype(int)
    shares = [foreground_share(normalize(plane, *window)) for plane in array]
    return shares, looks_like_labels(array[places])


def _why_none(
    cases: Sequence[Case], min_foreground: float, keep_empty: bool, min_pixels: int
) -> str:
    """Which settings have left out every slice."""
    labels = {bool(case.label_file) for case in cases}
    reasons = []
    if True in labels and not keep_empty:
        least = f"an instance of {min_pixels} pixels or more"
        reasons.append(f"no label shows {least}, and MRSSL.DATA.KEEP_EMPTY is False")
    if False in labels and min_foreground > 0:
        which = "those without label" if True in labels else "all"
        limit = f"MRSSL.DATA.MIN_FOREGROUND {min_foreground:g}"
        reasons.append(f"{which} have less foreground than {limit}")
    return "; ".join(reasons)


def _choose_labeled(
    name_or_path: str | Path, cases: Sequence[Case], labeled: bool | None
) -> list[Case]:
    if labeled is False:
        return [replace(case, label_file=None) for case in cases]
    if labeled is None:
        return list(cases)
    chosen = [case for case in cases if case.label_file]
    if not chosen:
        raise MrsslError(f"{name_or_path}: has no labels")
    if missing := len(cases) - len(chosen):
        root = parse_dataset_path(name_or_path)[0].parent
        mask = PathMask(root, (case.source.marks for case in cases))
        _LOG.warning(
            "%s: %d of %d cases have no label and are left out",
            mask.path(str(name_or_path)),
            missing,
            len(cases),
        )
    return chosen


def _slice_records(case: Case, slice_axis: str, image_id: int) -> list[dict[str, Any]]:
    """The standard dataset dicts of one volume, from headers only."""
    source = case.source
    axis = volume_slice_axis(source, slice_axis)
    (depth, height, width), affine = transformed_geometry(
        source.shape, source.affine, display_transform(source.affine, axis)
    )
    if case.label_file:
        _check_label(case)
    spacing = [round(float(mm), 6) for mm in np.linalg.norm(affine[:3, :3], axis=0)]
    label = {"label_file": case.label_file} if case.label_file else {}
    return [
        {
            "file_name": source.path,
            "series": source.series,
            "image_id": image_id + index,
            "slice_index": index,
            "slice_axis": axis,
            "height": height,
            "width": width,
            "subject_id": source.subject,
            "spacing": spacing,
            "axes": affine_axes(affine),
            "num_slices": depth,
            **label,
        }
        for index in range(depth)
    ]


def _check_label(case: Case) -> None:
    """Compare the headers of image and label."""
    source = case.source
    try:
        fault = check_label(str(case.label_file), source)
    except MrsslError as error:
        prefix = "" if str(error).startswith(str(case.label_file)) else f"{case.label_file}: "
        raise MrsslError(f"{prefix}{error} (image {source.path})") from error
    if fault:
        _LOG.warning("%s: %s", case.label_file, fault)


def _annotate(
    case: Case,
    records: list[dict[str, Any]],
    values: Sequence[ClassValues],
    mode: str,
    min_pixels: int,
) -> None:
    for record, label in zip(records, _label_slices(case, records[0]), strict=True):
        masks, classes = instances_of_slice(label, values, mode, min_pixels)
        record["annotations"] = annotations_of_slice(masks, classes)


def _label_slices(case: Case, record: dict[str, Any]) -> Iterator[np.ndarray]:
    source = case.source
    transform = display_transform(source.affine, record["slice_axis"])
    shape, affine = transformed_geometry(source.shape, source.affine, transform)
    return iter(read_label(str(case.label_file), affine, shape))


__all__ = ["Dataset", "dataset_options", "load_dataset"]
