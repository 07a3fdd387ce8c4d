#!/usr/bin/env python3
"""Speed and memory of reading: into a slice store, and out of it.

Measures, on one core and by processor time, what else the machine does left out: preparing the
DICOM files of FOLDER against a bare pydicom loop over the same files; 256 x 256 slices of three
channels from a store; and what a training worker's memory grows by while it draws from thousands
of volumes. Ends with status 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pydicom
from torch.utils.data import Dataset

from arguments import positive
from mrssl.config import load_cfg
from mrssl.data import VolumeCache, load_dataset
from mrssl.data.dicom_scan import forget_scans
from mrssl.data.loader import build_loader
from mrssl.data.mapper import SliceMapper
from mrssl.data.preparing import prepare_store
from mrssl.data.records import PackedRecords
from mrssl.data.store import INDEX_NAME, write_index
from mrssl.errors import run_main
from mrssl.files import read_json, write_text

#: What is asked for: prepared per bare second, slices a second, MiB.
MIN_RATIO, MIN_SLICES, MAX_GROWTH = 0.8, 1500, 8.0
#: Samples from one look at a worker's memory to the next; and volumes until it counts.
_EVERY, _WARM_UP = 50, 100


def measure_preparing(folder: Path, rounds: int) -> dict[str, float]:
    """Preparing a store against pydicom alone, turn by turn; medians over ``rounds``."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and _is_dicom(path)]
    times: list[tuple[float, float]] = []
    for turn in range(rounds + 1):
        forget_scans()
        with tempfile.TemporaryDirectory() as output:
            bare = _seconds(partial(_bare_loop, files))
            pair = bare, _seconds(partial(prepare_store, folder, output, workers=1))
        if turn:  # the first warms up: decoders are imported, files come into the page cache
            times.append(pair)
    bare, prepared = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "prepare_ratio": statistics.median(a / b for a, b in times),
        "prepare_files_per_second": len(files) / prepared,
        "bare_files_per_second": len(files) / bare,
        "files": len(files),
    }


def _is_dicom(path: Path) -> bool:
    try:
        return "PixelData" in pydicom.dcmread(path)
    except Exception:  # whatever it is, pydicom does not decode it
        return False


def _bare_loop(files: Sequence[Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in files:
            assert pydicom.dcmread(path).pixel_array.size


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def synthetic_store(folder: Path, entries: int, shape: tuple[int, int, int]) -> Path:
    """A store of ``entries`` volumes of (D, H, W) ``shape``; all are links to one array."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2000, shape[::-1]).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 4.0, 1.0])), folder / "volume.nii")
    store = folder / "store"
    prepare_store(folder / "volume.nii", store, slice_axis="W")
    content = read_json(store / INDEX_NAME)
    (first,) = content["volumes"]
    content["volumes"] = []
    for number in range(entries):
        entry = {**first, "key": f"{number:016x}", "subject": f"s{number}", "case": f"s{number}"}
        content["volumes"].append(entry)
        os.link(store / "volumes" / f"{first['key']}.npy", _array(store, entry["key"]))
    write_index(store, content)
    return store


def _array(store: Path, key: str) -> Path:
    return store / "volumes" / f"{key}.npy"


def measure_slices(seconds: float = 3.0) -> float:
    """Normalised (3, 256, 256) slices a second, drawn at random from a store, on one core."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        records = load_dataset(synthetic_store(Path(folder), 32, (32, 256, 256))).dicts
        order = np.random.default_rng(0).permutation(len(records))
        mapper = SliceMapper(cache=VolumeCache(), min_sizes=(0,), max_size=9999)
        made, start = 0, time.process_time()
        while time.process_time() - start < seconds:
            image = mapper.stack(records[order[made % len(order)]])
            made += 1
        assert image.shape == (3, 256, 256) and image.dtype == np.float32
        return made / (time.process_time() - start)


class _Probe(Dataset[dict[str, Any]]):
    """Draws slices, and reports how much memory the worker has of its own."""

    def __init__(self, records: Sequence[dict[str, Any]], mapper: SliceMapper) -> None:
        self.records, self.mapper = records, mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.mapper(self.records[index])
        return {"mib": _private_mib() if index % _EVERY == 0 else None}


def _private_mib() -> float:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    private = [int(line.split()[1]) for line in lines if line.startswith("Private_Dirty")]
    return sum(private) / 1024


def measure_growth(entries: int, warm_up: int = _WARM_UP) -> float:
    """MiB that a pretraining worker's own memory grows by from ``warm_up`` volumes to all."""
    with tempfile.TemporaryDirectory() as folder:
        store = synthetic_store(Path(folder), entries, (4, 64, 64))
        records = PackedRecords(load_dataset(store).dicts[::4])  # a slice of each volume
        cfg = load_cfg(None, ["MODEL.ROI_HEADS.NAME", "DistortionROIHeads"])
        mapper = SliceMapper.from_config(cfg, training=True, records=records)
        mapper.min_sizes = (0,)
        loader = build_loader(_Probe(records, mapper), batch_size=1, num_workers=1)
        used = [batch[0]["mib"] for batch in loader][::_EVERY]
    return float(used[-1] - used[warm_up // _EVERY])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="DICOM files, to be prepared")
    parser.add_argument("--rounds", type=positive, default=7, help="pairs of loop and preparation")
    parser.add_argument("--entries", type=int, default=5000, help="volumes of the memory test")
    parser.add_argument("--json", type=Path, metavar="F", help="write the figures here")
    args = parser.parse_args(arguments)
    if args.entries <= _WARM_UP:
        parser.error(f"argument --entries: more than {_WARM_UP} are needed, which warm up")
    figures: dict[str, float] = measure_preparing(args.folder, args.rounds)
    figures["store_slices_per_second"] = measure_slices()
    figures["worker_growth_mib"] = measure_growth(args.entries)
    text = json.dumps(figures, indent=2)
    print(text)
    if args.json:
        write_text(args.json, text + "\n")
    good = (
        figures["prepare_ratio"] >= MIN_RATIO
        and figures["store_slices_per_second"] >= MIN_SLICES
        and figures["worker_growth_mib"] <= MAX_GROWTH
    )
    return 0 if good else 1


if __name__ == "__main__":
    run_main(main)
