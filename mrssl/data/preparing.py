"""Fill a slice store: every volume once, in parallel, and resumable after any interruption."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mrssl.data.cases import Case, parse_dataset_path, read_splits
from mrssl.data.descriptions import Description, describe
from mrssl.data.itk import itk_format, voxel_file
from mrssl.data.label_files import check_label, read_label
from mrssl.data.normalization import intensity_window, normalize
from mrssl.data.sources import read_source, volume_slice_axis
from mrssl.data.store import (
    INDEX_NAME,
    STORE_VERSION,
    check_index,
    exact_type,
    find_index,
    is_key,
    map_array,
    save_array,
    write_index,
)
from mrssl.errors import MrsslError
from mrssl.files import read_json, relative_path, sweep, write_text
from mrssl.privacy import PathMask
from mrssl.structures.foreground import foreground_share

#: Folder of what is done so far: one JSON a volume, gone once the index is written.
_DONE = "entries"
#: Processes; Windows cannot wait for more at once.
_MOST_WORKERS = 61
#: Folders of images and of labels.
_ARRAYS = ("volumes", "labels")


@dataclass(frozen=True)
class PrepareReport:
    """What :func:`prepare_store` did.

    Attributes:
        written: volumes converted now.
        kept: volumes that an earlier run had converted.
        refused: (source, reason) of volumes that could not be read; they are not in the store.
    """

    written: int = 0
    kept: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)


def prepare_store(
    source: str | Path,
    output: str | Path,
    *,
    workers: int = 1,
    slice_axis: str = "auto",
    subject_pattern: str = "",
    normalization: str = "percentile",
    percentiles: Sequence[float] = (0.5, 99.5),
    zscore_range: Sequence[float] = (-3.0, 3.0),
    window: Sequence[float] = (0.0, 1.0),
    progress: Callable[[Iterable[Any], int], Iterator[Any]] = lambda items, total: iter(items),
) -> PrepareReport:
    """Convert what ``DATASETS.TRAIN`` would read from ``source`` into a slice store.

    Interrupted at any moment and started again, it goes on where it was, and ends with the same
    files. On a finished store it converts what is new or changed in ``source``, or damaged in the
    store, drops what is gone, and takes subjects and header fields from ``source`` as it is now. A
    file counts as changed if its size or time of change is another.

    Intensities are stored raw: the normalisation only decides which statistics the index holds, and
    another one can still be used in training.

    Args:
        source: a folder of scans, or ``dataset.json[:split]``; without a split, its ``split.json``
            is copied.
        output: folder of the store: new, empty, or of an earlier run.
        workers: processes.
        slice_axis: as ``MRSSL.DATA.SLICE_AXIS``; so are the arguments that follow.
        subject_pattern: see there.
        normalization: see there.
        percentiles: see there.
        zscore_range: see there.
        window: see there.
        progress: wraps an iterable of a known length, to show how far it is.

    Raises:
        MrsslError: nothing usable in ``source``; an ``output`` that is something else, a store of
            another version, or cannot be written; a worker died.
    """
    output = Path(output)
    description = describe(source, subject_pattern=subject_pattern)
    options = {
        "normalization": normalization,
        "percentiles": list(percentiles),
        "zscore_range": list(zscore_range),
        "window": list(window),
    }
    _check_output(output)
    path, split = parse_dataset_path(source)
    root = path if path.is_dir() else path.parent
    tasks = {_key(case, root, slice_axis, options): case for case in description.cases}
    try:
        for name in (*_ARRAYS, _DONE):
            (output / name).mkdir(parents=True, exist_ok=True)
        _unpack_index(output)
        waiting = {key: case for key, case in tasks.items() if not _is_done(output, key)}
        mask = PathMask(root, (case.source.marks for case in description.cases))
        convert = partial(_convert, output=output, slice_axis=slice_axis, options=options)
        refused = []
        for key, reason in progress(_run(convert, waiting, workers, mask), len(waiting)):
            if reason:
                refused.append((mask.path(waiting[key].source.path), mask(reason)))
        _finish(output, description, tasks, options, mask)
        if (root / "split.json").is_file() and not split:
            splits = {
                name: [mask.cover(case) for case in cases]
                for name, cases in read_splits(root / "split.json").items()
            }
            write_text(output / "split.json", json.dumps(splits, indent=1) + "\n")
    except OSError as error:
        raise MrsslError(f"{output}: can't be written ({error.strerror or error})") from error
    written = len(waiting) - len(refused)
    return PrepareReport(written, len(tasks) - len(waiting), refused)


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise MrsslError(f"{output}: is a file; a folder for the store is needed")
    if not output.is_dir() or not any(output.iterdir()):
        return
    for folder in (output / name for name in (*_ARRAYS, _DONE)):
        if folder.is_symlink():  # what is no part of the store is cleared away there
            raise MrsslError(f"{folder}: is a link; a slice store is one folder")
    index = find_index(output)
    if index is not None:
        check_index(index, read_json(index))
    elif not _is_unfinished(output):
        raise MrsslError(f"{output}: is neither empty nor a slice store")


def _is_unfinished(output: Path) -> bool:
    """Whether a run that was stopped made a folder, with nothing of others in it."""
    if not (output / _DONE).is_dir():
        return False
    inside = [*output.iterdir(), *(output / _DONE).iterdir()]
    names = {path.name for path in inside if not path.name.startswith(".")}
    return all(is_key(name.removesuffix(".json")) for name in names - {*_ARRAYS, _DONE})


def _key(case: Case, root: Path, slice_axis: str, options: dict[str, Any]) -> str:
    """Names a volume, as its files are now, and how it is converted.

    No path, and so no name, can be read from it.
    """
    source = case.source
    files = {item.path for item in source.slices} or files_of(source.path)
    parts = [
        file_stamps(files, root),
        source.series,
        list(source.shape),
        slice_axis,
        options,
        file_stamps(files_of(case.label_file), root) if case.label_file else None,
        STORE_VERSION,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def files_of(path: str) -> set[str]:
    """The files that an image or label is read from.

    Args:
        path: a file, or a folder of DICOM: all that is beneath it.
    """
    if os.path.isdir(path):
        return {str(file) for file in Path(path).rglob("*") if file.is_file()}
    files = {path}
    if itk_format(path):
        with suppress(MrsslError):  # told when it is read
            files.add(str(voxel_file(path)))
    return files


def file_stamps(files: Iterable[str], root: Path) -> list[tuple[Any, ...]]:
    """Path, size and time of change of each file; of one that is not there the path alone.

    Args:
        files: in any order.
        root: what the paths are relative to.
    """
    stamps: list[tuple[Any, ...]] = []
    for file in sorted(files):
        stamps.append((relative_path(file, root),))
        with suppress(OSError):  # told when it is read
            stat = os.stat(file)
            stamps[-1] += (stat.st_size, stat.st_mtime_ns)
    return stamps


def _unpack_index(output: Path) -> None:
    """Take a finished store apart again, so that volumes may be added to it."""
    index = output / INDEX_NAME
    if index.is_file():
        for entry in read_json(index)["volumes"]:
            _write_entry(output, entry)


def _is_done(output: Path, key: str) -> bool:
    """Whether a volume is there, and its label if it has one, neither of them cut off."""
    try:
        entry = read_json(output / _DONE / f"{key}.json")
        folders = ["volumes", "labels"] if entry["label"] else ["volumes"]
        arrays = [map_array(output / folder / f"{key}.npy") for folder in folders]
    except MrsslError:
        return False
    return all(list(array.shape) == entry["shape"] for array in arrays)


def _run(
    convert: Callable[[str, Case], tuple[str, str]],
    waiting: dict[str, Case],
    workers: int,
    mask: PathMask,
) -> Iterator[tuple[str, str]]:
    if workers <= 1:
        for key, case in waiting.items():
            yield convert(key, case)
        return
    context = multiprocessing.get_context("spawn")  # forking a process with threads may hang
    with ProcessPoolExecutor(min(workers, _MOST_WORKERS), mp_context=context) as pool:
        futures: dict[Future[tuple[str, str]], Case] = {}
        try:
            for key, case in waiting.items():
                futures[pool.submit(convert, key, case)] = case
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool as error:
            failed = [mask(case.source.path) for f, case in futures.items() if f.exception()]
            names = ", ".join(failed[:workers])  # they are taken in order
            raise MrsslError(
                f"a worker died, probably for want of memory, at one of {names}; the same command "
                "goes on where it was: give it fewer --workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _convert(
    key: str, case: Case, *, output: Path, slice_axis: str, options: dict[str, Any]
) -> tuple[str, str]:
    """Write one volume, its label, and last its entry; returns the key and why it was refused."""
    source = case.source
    try:
        volume = read_source(source).take_slices(volume_slice_axis(source, slice_axis))
        label = None
        if case.label_file:
            _label_fault(case)  # in the store both have one affine: it is now or never
            label = read_label(case.label_file, volume.affine, volume.shape)
    except MrsslError as error:
        return key, str(error)
    image = exact_type(volume.array)
    low, high = intensity_window(image, **options)
    entry = {
        "key": key,
        "shape": list(volume.shape),
        "affine": volume.affine.tolist(),
        "label": label is not None,
        "window": [low, high],
        "foreground": [foreground_share(normalize(plane, low, high)) for plane in image],
    }
    save_array(image, output / "volumes" / f"{key}.npy")
    if label is not None:
        save_array(exact_type(label), output / "labels" / f"{key}.npy")
    _write_entry(output, entry)
    return key, ""


def _label_fault(case: Case) -> list[str]:
    """What is doubtful about the place of a label; raises where it may be mirrored."""
    fault = check_label(case.label_file, case.source) if case.label_file else ""
    return [fault] if fault else []


def _write_entry(output: Path, entry: dict[str, Any]) -> None:
    write_text(output / _DONE / f"{entry['key']}.json", json.dumps(entry))


def _described(case: Case, mask: PathMask) -> dict[str, Any]:
    """What an entry of the index says that no voxel does; it may change without them."""
    source = case.source
    return {
        "case": mask.cover(case.name),
        "subject": mask.cover(source.subject),
        "tags": {name: mask.cover(text) for name, text in source.tags.items()},
        "faults": [*source.faults, *_label_fault(case)],
    }


def _finish(
    output: Path,
    description: Description,
    tasks: dict[str, Case],
    options: dict[str, Any],
    mask: PathMask,
) -> None:
    """Write the index, and clear away what is no part of the store."""
    done = [key for key in tasks if _is_done(output, key)]
    if not done:
        raise MrsslError(f"{output}: no volume could be read")
    volumes = [
        read_json(output / _DONE / f"{key}.json") | _described(tasks[key], mask) for key in done
    ]
    names = zip(description.class_names, description.class_values, strict=True)
    content = {
        "name": mask.cover(description.name),
        "labels": dict(names),
        "normalization": options,
        "volumes": volumes,
    }
    write_index(output, content)
    labeled = {entry["key"] for entry in volumes if entry["label"]}
    for folder, wanted in zip(_ARRAYS, (set(done), labeled), strict=True):
        sweep(output / folder)
        for path in (output / folder).glob("*.npy"):
            if path.stem not in wanted and is_key(path.stem):
                path.unlink()
    shutil.rmtree(output / _DONE)


__all__ = ["PrepareReport", "prepare_store"]
