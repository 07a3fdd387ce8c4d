"""The intensities a model is trained on, in a few numbers that travel with its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrssl.data.cache import VolumeCache

#: Volumes that are looked at, evenly chosen.
_MAX_VOLUMES = 32


def intensity_summary(records: Sequence[dict[str, Any]], cache: VolumeCache) -> dict[str, Any]:
    """Between which raw intensities the volumes of a data set lie.

    Args:
        records: standard dataset dicts.
        cache: normalises the volumes; from a slice store prepared for the same normalisation
            nothing has to be read.

    Returns:
        ``volumes``: how many were looked at, of up to 32 evenly chosen; ``low`` and ``high``: the
        smallest, median and largest raw intensity (a.u.) among them that is mapped to 0 and to 1.
        Plain types; nothing that identifies a volume or a patient.

    Raises:
        MrsslError: a volume cannot be read.
    """
    by_volume = {(record["file_name"], record.get("series", "")): record for record in records}
    volumes = list(by_volume.values())
    chosen = np.unique(np.linspace(0, len(volumes) - 1, _MAX_VOLUMES).round().astype(int))
    windows = np.array([cache.window(volumes[place]) for place in chosen])
    low, high = (np.percentile(limits, (0, 50, 100)).tolist() for limits in windows.T)
    return {"volumes": len(windows), "low": low, "high": high}


__all__ = ["intensity_summary"]
