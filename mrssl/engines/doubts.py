"""What is doubtful about the data of a run, said once before it begins, on the main process."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from mrssl.checkpoint import Provenance
from mrssl.data.splits import shared_subjects
from mrssl.data.store import is_stored
from mrssl.engines.distributed import is_main_process
from mrssl.privacy import cover

_LOG = logging.getLogger(__name__)
_NAMED = 3
SLICE_AXIS = "MRSSL.DATA.SLICE_AXIS"


def warn_of_shared(
    train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]], marks: Set[str]
) -> None:
    """Of subjects that are in both data sets, given by their slices."""
    shared = shared_subjects(train, test)
    if shared and is_main_process():
        _LOG.warning(
            "%d of the subjects of DATASETS.TEST are in DATASETS.TRAIN too (%s): what is "
            "measured on them is better than on new ones",
            len(shared),
            _first(shared, marks),
        )


def warn_of_namesakes(
    name: str,
    before: Sequence[Mapping[str, Any]],
    dicts: Sequence[Mapping[str, Any]],
    marks: Set[str],
) -> None:
    """Subjects are told apart by name; of two data sets they may be two."""
    shared = shared_subjects(before, dicts)
    if shared and is_main_process():
        _LOG.warning(
            "%d subjects of %s are in other data sets of DATASETS.TEST too (%s): each counts "
            "as one; if they are not the same, rename them",
            len(shared),
            cover(name, marks),
            _first(shared, marks),
        )


def warn_of_faults(faults: Mapping[tuple[str, str], Sequence[str]], marks: Set[str]) -> None:
    """Of volumes that can be used, but not without doubt: slices missing, a guessed place, ..."""
    if faults and is_main_process():
        (file, _), told = next(iter(faults.items()))
        _LOG.warning(
            "%d volumes are doubtful, the first %s: %s (tools/check_data.py tells of all)",
            len(faults),
            cover(Path(file).name, marks),
            "; ".join(told),
        )


def warn_of_cache(records: Sequence[Mapping[str, Any]], cache_mib: int) -> None:
    """Where volumes are decoded again and again: slices are drawn from all of them in turn.

    Args:
        records: slices to train on.
        cache_mib: room for decoded volumes, of each loader process.
    """
    volumes = {
        (record["file_name"], record.get("series", "")): record["num_slices"]
        * record["height"]
        * record["width"]
        for record in records
        if not is_stored(record["file_name"])
    }
    mib = sum(volumes.values()) * 4 / 2**20
    if mib > cache_mib and is_main_process():
        _LOG.warning(
            "%d volumes are %.0f MiB when decoded, of which MRSSL.DATA.CACHE_MIB keeps %d in each "
            "process that loads: tools/prepare_data.py makes a store, whose slices are read alone",
            len(volumes),
            mib,
            cache_mib,
        )


def plane_differences(trained: Provenance, planes: Sequence[str]) -> list[str]:
    """A line where slices lie in other planes than those that a checkpoint was trained on."""
    other = sorted(set(planes) - set(trained.planes))
    if not trained.planes or not other:
        return []
    return [
        f"{SLICE_AXIS}: there are {' and '.join(other)} slices, the checkpoint was "
        f"trained on {' and '.join(trained.planes)} ones"
    ]


def _first(names: Sequence[str], marks: Set[str]) -> str:
    return cover(", ".join(names[:_NAMED]), marks) + ", ..." * (len(names) > _NAMED)


__all__ = [
    "SLICE_AXIS",
    "plane_differences",
    "warn_of_cache",
    "warn_of_faults",
    "warn_of_namesakes",
    "warn_of_shared",
]
