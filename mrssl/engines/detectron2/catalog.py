"""Data sets by name in Detectron2's catalogs, beside those by path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from mrssl.data import Dataset, load_dataset
from mrssl.engines.pictures import COLORS
from mrssl.errors import MrsslError

#: The class of an unlabelled data set's synthetic annotations.
DISTORTED = "distorted"


def register_mri(
    name: str, path: str | Path, *, labeled: bool | None = None, **options: Any
) -> None:
    """Register the scans under ``path`` as ``name``.

    The description and the headers of all volumes are read now, voxels at first use (labels now, if
    ``keep_empty`` is False).
    ``DatasetCatalog.get(name)`` then gives standard dataset dicts, one a slice, of labelled scans
    with ``annotations``, so that Detectron2's own loaders, samplers, evaluators and ``Visualizer``
    work on them; ``DATASETS.TRAIN`` and ``DATASETS.TEST`` take the name. An unlabelled data set
    has one class, "distorted": its annotations are made by
    :class:`~mrssl.engines.detectron2.dataset_mapper.MRIDatasetMapper`, others at each call.

    Args:
        name: as it stands in ``DATASETS.TRAIN``.
        path: a folder of DICOM or NIfTI, or ``dataset.json``, or ``dataset.json:split``.
        labeled: False ignores labels; None takes them where there are any, and leaves out scans
            without one.
        options: further arguments of :func:`mrssl.data.load_dataset`. A trainer of your own sees
            slices by these; for those of a configuration with the node ``MRSSL`` give
            ``**dataset_options(cfg)`` of :mod:`mrssl.data`. ``MRITrainer`` takes them from its
            configuration, whatever is given here.

    Raises:
        MrsslError: the path cannot be used, or the name is taken, if only in ``MetadataCatalog``,
            by another data set; then nothing is registered.
    """
    if name in DatasetCatalog.list():
        raise MrsslError(f"data set {name!r} is registered already")

    @lru_cache(maxsize=1)
    def describe() -> Dataset:
        return load_dataset(
            path, **{"labeled": labeled, "with_annotations": labeled is not False} | options
        )

    # Headers only: names and values of the classes must be known before the slices are asked for.
    header = load_dataset(path, labeled=labeled, **options | {"min_foreground": 0.0})
    if labeled is None and header.class_names:
        labeled = True  # Detectron2's loaders want annotations of every slice, or of none
    classes = header.class_names or [DISTORTED]
    metadata = {
        "thing_classes": classes,
        "thing_colors": class_colors(len(classes)),
        "thing_dataset_id_to_contiguous_id": {i: i for i in range(len(classes))},
        "class_values": header.class_values,
        "evaluator_type": "mri",
        "mri_path": str(path),
    }
    # Detectron2 keeps them when a data set is removed, and lets none of them be changed.
    held = MetadataCatalog.get(name).as_dict() if name in MetadataCatalog.list() else {}
    changed = [key for key, value in metadata.items() if held.get(key, value) != value]
    if changed:
        raise MrsslError(
            f"data set {name!r}: MetadataCatalog holds another {changed[0]} of that name; "
            f"MetadataCatalog.remove({name!r}) forgets it"
        )
    MetadataCatalog.get(name).set(**metadata)
    DatasetCatalog.register(name, lambda: _with_box_modes(describe().dicts))


def _with_box_modes(dicts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Detectron2 asks for the enumeration itself, where the standard dicts hold plain numbers.
    for annotation in [a for record in dicts for a in record.get("annotations", ())]:
        annotation["bbox_mode"] = BoxMode(annotation["bbox_mode"])
    return dicts


def class_colors(count: int) -> list[tuple[int, int, int]]:
    """RGB colours in [0, 255], the same as in this package's own pictures."""
    picked = [COLORS[i % len(COLORS)] for i in range(count)]
    return [(int(r), int(g), int(b)) for r, g, b in picked]


def load_registered(name_or_path: str, *, labeled: bool | None = None, **options: Any) -> Dataset:
    """Describe a registered data set, or what lies at a path; as :func:`mrssl.data.load_dataset`.

    A data set that other code registered is taken as it is: its dicts must name volumes
    (``file_name``, ``slice_index``, ... of the standard dicts here) and, if labelled, its
    metadata must hold ``thing_classes`` and ``class_values``.

    Raises:
        MrsslError: neither a name nor a path, or data that cannot be used.
    """
    if name_or_path not in DatasetCatalog.list():
        return load_dataset(name_or_path, labeled=labeled, **options)
    metadata = MetadataCatalog.get(name_or_path)
    if metadata.get("mri_path"):
        return load_dataset(metadata.mri_path, labeled=labeled, **options)
    dicts = DatasetCatalog.get(name_or_path)
    missing = [key for key in _NEEDED if dicts and key not in dicts[0]]
    if missing:
        raise MrsslError(
            f"data set {name_or_path!r}: its dicts have no {', '.join(missing)}; "
            "register scans by mrssl.engines.detectron2.register_mri"
        )
    values: Sequence[Any] = metadata.get("class_values", [])
    if labeled and not values:
        raise MrsslError(f"data set {name_or_path!r}: its metadata hold no class_values")
    names = list(metadata.get("thing_classes", [])) if labeled else []
    return Dataset(list(dicts), names, name_or_path, list(values) if labeled else [])


def load_classes(name_or_path: str, **options: Any) -> Dataset:
    """As :func:`load_registered`, of names and values of the classes alone: it has no slices.

    Both are empty where no slice has a label.

    Raises:
        MrsslError: neither a name nor a path, or labels without values.
    """
    if name_or_path not in DatasetCatalog.list():
        options |= {"min_foreground": 0.0, "keep_empty": True}  # of which voxels would be read
        return replace(load_dataset(name_or_path, **options), dicts=[])
    metadata = MetadataCatalog.get(name_or_path)
    values: Sequence[Any] = metadata.get("class_values", [])
    if values:
        return Dataset([], list(metadata.get("thing_classes", [])), name_or_path, list(values))
    if not metadata.get("mri_path") and any(
        record.get("label_file") for record in DatasetCatalog.get(name_or_path)
    ):
        raise MrsslError(f"data set {name_or_path!r}: its metadata hold no class_values")
    return Dataset([], [], name_or_path)


_NEEDED = ("file_name", "slice_index", "slice_axis", "height", "width", "subject_id")

__all__ = ["class_colors", "load_classes", "load_registered", "register_mri"]
