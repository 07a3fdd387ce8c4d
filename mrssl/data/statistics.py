"""What a model is trained on, in a few numbers that travel with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrssl.data.cache import VolumeCache
from mrssl.data.labels import ClassValues
from mrssl.data.records import of_readable
from mrssl.errors import MrsslError
from mrssl.structures import ClassLayout

#: Volumes that are looked at, evenly chosen.
_MAX_VOLUMES = 32


def intensity_summary(records: Sequence[dict[str, Any]], cache: VolumeCache) -> dict[str, Any]:
    """Between which raw intensities the volumes of a data set lie.

    Args:
        records: standard dataset dicts.
        cache: normalises the volumes; from a slice store prepared for the same normalisation
            nothing has to be read.

    Returns:
        ``volumes``: how many were looked at, of up to 32 evenly chosen, without those that cannot
        be read; ``low`` and ``high``: the smallest, median and largest raw intensity (a.u.) among
        them that is mapped to 0 and to 1. Plain types; nothing that identifies a volume or a
        patient.

    Raises:
        MrsslError: no volume can be read.
    """
    windows = np.array(of_readable(_some_volumes(records), cache.window))
    low, high = (np.percentile(limits, (0, 50, 100)).tolist() for limits in windows.T)
    return {"volumes": len(windows), "low": low, "high": high}


def class_layout(
    records: Sequence[dict[str, Any]], cache: VolumeCache, class_values: Sequence[ClassValues]
) -> ClassLayout:
    """Where the classes lie in labelled volumes, along the patient's axes where records name them.

    Args:
        records: standard dataset dicts; up to 32 of their volumes, evenly chosen, are looked at,
            without those whose labels cannot be read.
        cache: reads the labels.
        class_values: the label value (or values) of each class, in class order.

    Raises:
        MrsslError: there is no label, or none can be read.
    """

    def measure(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray, str]:
        label = np.asarray(cache.label(record))
        spacing = np.asarray(record["spacing"])
        centers, sizes = np.full((2, len(class_values), 3), np.nan)
        for index, values in enumerate(class_values):
            voxels = np.argwhere(np.isin(label, values)) * spacing
            if len(voxels):
                centers[index], sizes[index] = voxels.mean(0), voxels.std(0)
        return centers, sizes, np.multiply(label.shape, spacing), record.get("axes", "")

    labeled = _some_volumes([record for record in records if record.get("label_file")])
    measured = of_readable(labeled, measure)
    if not measured:
        raise MrsslError("no volume has labels, so nothing says where its classes lie")
    *tables, axes = zip(*measured, strict=True)
    return ClassLayout.measure(*map(np.array, tables), axes=axes)


def _some_volumes(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A dataset dict of each volume, or of as many as are looked at."""
    by_volume = {(record["file_name"], record.get("series", "")): record for record in records}
    volumes = list(by_volume.values())
    if not volumes:
        return []
    chosen = np.unique(np.linspace(0, len(volumes) - 1, _MAX_VOLUMES).round().astype(int))
    return [volumes[place] for place in chosen]


__all__ = ["class_layout", "intensity_summary"]
