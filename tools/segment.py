#!/usr/bin/env python3
"""Segment scans with a fine-tuned checkpoint: a label volume and a picture for each.

Takes whatever training takes: a folder of DICOM or NIfTI, or a dataset.json[:split]; labels there
are ignored. Written to --output, for each volume, named after the path of its source in the data
set, in folders as there (the patient's name and ID, as a DICOM header tells them, are covered):
  NAME.nii.gz  labels: 0 background, else the class plus 1; on the voxel grid of a NIfTI
               source, else turned to the axes closest to right, anterior, superior.
               Where classes overlap, as nnU-Net's regions, the class of the fewest label
               values, the later of equals: inner regions lie on the outer ones
  NAME.png     slices that show most of it, outlined
and once:
  labels.json   the class of each label
  volumes.json  of each NAME: what it is of (data set, path, series, subject; names covered), and
                digests of its files (by path, size and time), of weights and of settings
Volumes whose NAME.nii.gz is there, of the same source, weights and settings by volumes.json, are
left out, so the same command goes on where it was stopped. A volume that cannot be read does not
stop the others; the exit status then is 1.
Not a medical device: for research; no output may guide a diagnosis or treatment.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence, Set
from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import torch
from fvcore.common.config import CfgNode
from tqdm import tqdm

from arguments import parse
from checkpoint_cli import checkpoint_parser, configuration
from mrssl.checkpoint import Provenance, load_strict
from mrssl.config import ConfigError, is_pretraining
from mrssl.data.cases import parse_dataset_path
from mrssl.data.files import read_json
from mrssl.data.labels import ClassValues, values_of_class
from mrssl.data.nifti import is_nifti
from mrssl.data.preparing import file_stamps, files_of
from mrssl.engines.datasets import RunData
from mrssl.engines.pictures import draw_masks, gray_to_rgb
from mrssl.engines.torchvision import build_model
from mrssl.engines.torchvision.batches import collate, to_prediction
from mrssl.errors import MrsslError, run_main
from mrssl.evaluation.joining import Instance, instances_of
from mrssl.evaluation.naming import class_volumes
from mrssl.files import replacing, write_text, written_whole
from mrssl.privacy import cover, folder_alias, pseudonym
from mrssl.structures.volume import matching_transform

#: Header fields of a NIfTI file that its qform is made of, but for the spacing.
QFORM = ("qform_code", *(f"quatern_{x}" for x in "bcd"), *(f"qoffset_{x}" for x in "xyz"))
#: Slices on a picture, at most, and the least pixels a side that they are shown with.
PICTURED, SHOWN = 8, 192

Record = dict[str, Any]
#: File or folder, and series.
Key = tuple[str, str]


def load_model(cfg: CfgNode) -> tuple[torch.nn.Module, RunData]:
    """The model in ``MODEL.WEIGHTS`` and the slices of ``DATASETS.TEST``.

    Raises:
        MrsslError: the checkpoint is of no fine-tuned model, or the data cannot be used.
    """
    data, content = RunData.for_weights(cfg, labeled=False)
    if Provenance.from_dict(content["mrssl"]).task != "finetune":
        raise MrsslError(f"{cfg.MODEL.WEIGHTS}: not of a fine-tuned model")
    model = build_model(data.with_classes(cfg), 0).to(cfg.MODEL.DEVICE)
    load_strict(model, content, names="torchvision", where=cfg.MODEL.WEIGHTS)
    return model.eval(), data


def names_of_volumes(
    records: Sequence[Record], root: Path, marks: Set[str] = frozenset()
) -> dict[Key, str]:
    """A path within the output folder, without suffix, for each volume.

    It follows from the volume's own path in the data set, so that it stays the same when others
    come. Where two would be one file, because of what is covered or of case, digits of a digest of
    that path tell them apart.

    Args:
        records: slices.
        root: folder of the data set.
        marks: by which patients' names are recognised, and covered.
    """
    names = {key: _name(key, root, marks) for key in map(volume_of, records)}
    used = Counter(name.lower() for name in names.values())
    return {
        key: f"{name}-{_digest(key, root)}" if used[name.lower()] > 1 else name
        for key, name in names.items()
    }


def _name(key: Key, root: Path, marks: Set[str]) -> str:
    file, series = key
    path = Path(os.path.relpath(file, root))
    if os.path.isfile(file):
        path = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii"))
    if not path.name:  # the data set is one series
        path = Path(root.resolve().name)
    if os.pardir in path.parts:  # a trusted dataset.json names scans of elsewhere
        path = Path(f"{path.name}-{_digest(key, root)}")
    return cover(str(path), marks) + (f"-{pseudonym(series)[:8]}" if series else "")


def _digest(key: Key, root: Path) -> str:
    return pseudonym(" ".join((os.path.relpath(key[0], root), key[1])))[:8]


def digest_of_settings(cfg: CfgNode) -> str:
    """What the configuration says of inference, as a digest; device and batches are not in it."""
    model = {key: value for key, value in cfg.MODEL.items() if key not in ("WEIGHTS", "DEVICE")}
    unseen = ("CACHE_MIB", "MAX_UNREADABLE", "WORKER_TIMEOUT", "SUBJECT_PATTERN")
    data = {key: value for key, value in cfg.MRSSL.DATA.items() if key not in unseen}
    sizes = [cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST]
    parts = [model, data, sizes, cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MRSSL.EVALUATION]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def digest_of_files(file: str, root: Path, output: Path) -> str:
    """Of what a volume is read from, by path, size and time of change, without what is written.

    Args:
        file: or folder.
        root: folder of the data set.
        output: which may lie in ``file``.
    """
    files = [name for name in files_of(file) if not _lies_in(name, output)]
    return hashlib.sha256(json.dumps(file_stamps(files, root)).encode()).hexdigest()[:16]


def facts_of_volume(
    record: Record, root: Path, marks: Set[str], digests: dict[str, str]
) -> dict[str, str]:
    """What ``volumes.json`` says of a volume; labels are of it, and of a checkpoint, if it agrees.

    Args:
        record: one of its slices.
        root: folder of the data set.
        marks: by which patients' names are recognised, and covered.
        digests: of its files, of the checkpoint and of the settings.
    """
    return {
        "data": folder_alias(root),
        "path": cover(os.path.relpath(record["file_name"], root), marks),
        "series": record.get("series", ""),
        "subject": cover(str(record["subject_id"]), marks),
        **digests,
    }


#: Facts in which a volume agrees with what was segmented under its name before.
_SAME_SCAN = ("data", "path", "series", "subject")


def _check_same_data(output: Path, known: Record, facts: Record) -> None:
    """Refuse to replace labels of another data set, whose volumes may have the same names."""
    for name, fact in facts.items():
        if name in known and any(known[name].get(k) != fact[k] for k in _SAME_SCAN):
            raise MrsslError(
                f"{output}: {name} is there, of another data set, or of a subject that was named "
                "otherwise; give another folder, one for each"
            )


def scans_of(records: Sequence[Record], output: Path, known: Iterable[str]) -> list[Record]:
    """Slices of scans: what lies in the output folder are labels, written among the scans.

    A run that was stopped leaves labels there that nothing lists, so all of the folder is left out.

    Args:
        records: slices.
        output: where labels are written.
        known: names that ``volumes.json`` there lists; it is told how many others are left out.

    Raises:
        MrsslError: all of them lie there.
    """
    written = output.resolve()
    inside = {f for f in {r["file_name"] for r in records} if _lies_in(f, written)}
    scans = [record for record in records if record["file_name"] not in inside]
    if not scans:
        raise MrsslError(f"--output {output}: all scans lie in it; give a folder for labels alone")
    listed = {written / f"{name}.nii.gz" for name in known}
    if others := [file for file in inside if Path(file).resolve() not in listed]:
        print(f"warning: left out, as they lie in {output}: {len(others)} files or series")
    return scans


def _lies_in(file: str, folder: Path) -> bool:
    return Path(file).resolve().is_relative_to(folder)


def volume_of(record: Record) -> Key:
    """What tells volumes apart."""
    return record["file_name"], record.get("series", "")


@torch.no_grad()
def segment_volume(
    model: torch.nn.Module, data: RunData, records: list[Record], progress: tqdm[Any]
) -> tuple[np.ndarray, list[int]]:
    """What :func:`paint` makes of the classes of one volume.

    Args:
        model: fine-tuned, in evaluation mode.
        data: of the run; its test slices are replaced.
        records: all slices of the volume.
        progress: counts them.

    Raises:
        MrsslError: the volume cannot be read.
    """
    data.test, found = records, dict[int, list[Instance]]()
    for batch in data.test_loader(rank=0, world_size=1, collate=collate):
        for record, output in zip(batch, map(to_prediction, model(batch)), strict=True):
            found[record["slice_index"]] = instances_of(output)
        progress.update(len(batch))
    volumes = class_volumes(
        found,
        (records[0]["num_slices"], records[0]["height"], records[0]["width"]),
        records[0]["spacing"],
        num_classes=len(data.class_names),
        overlapping=data.overlapping,
        layout=data.class_layout and data.class_layout.along(records[0].get("axes", "")),
        threshold=data.cfg.MRSSL.EVALUATION.SCORE_THRESHOLD,
    )
    # A checkpoint that does not say its values has classes that do not overlap.
    return paint(volumes, data.class_values or [1] * len(data.class_names))


def paint(
    volumes: Iterable[np.ndarray], class_values: Sequence[ClassValues]
) -> tuple[np.ndarray, list[int]]:
    """One label map of the volumes of C classes, larger regions below smaller ones.

    Args:
        volumes: C of bool (D, H, W), one or more.
        class_values: label value, or values, of each class.

    Returns:
        uint16 (D, H, W), 0 background, else the class plus 1, where several meet that of the fewest
        values, the later of equals; and the voxels of each class, also those under another.
    """
    sizes = [len(values_of_class(values)) for values in class_values]
    bottom_up = sorted(range(len(sizes)), key=lambda category: -sizes[category])
    voxels: list[int] = []
    top = np.zeros((), np.uint16)
    for category, volume in enumerate(volumes):
        voxels.append(int(np.count_nonzero(volume)))
        top = np.maximum(top, volume * np.uint16(bottom_up.index(category) + 1))
    return np.append(0, np.add(bottom_up, 1)).astype(np.uint16)[top], voxels


def write_labels(path: Path, labels: np.ndarray, affine: np.ndarray, source: str) -> None:
    """Write a label volume on the grid that whoever opens it beside its source expects."""
    image = nib.Nifti1Image(labels.astype(np.uint8 if labels.max() < 256 else np.uint16), affine)
    if is_nifti(source):
        scan: Any = nib.load(source)  # NIfTI-1 or NIfTI-2
        image = image.as_reoriented(matching_transform(affine, scan.affine))
        # The source's own geometry: its unit need not be the millimetre that volumes are read in.
        image.header.set_xyzt_units(scan.header.get_xyzt_units()[0])
        image.set_qform(scan.affine, 0)
        if scan.header["qform_code"] > 0:  # which may say another place than the sform
            image.header["pixdim"][:4] = scan.header["pixdim"][:4]
            for name in QFORM:
                image.header[name] = scan.header[name]
        image.set_sform(scan.affine, int(scan.header["sform_code"]))
    else:
        image = nib.as_closest_canonical(image)
    with replacing(path) as file:
        file.write(gzip.compress(image.to_bytes(), mtime=0))


def draw_volume(path: Path, image: Any, labels: np.ndarray) -> None:
    """Outline what was found on the slices that show most of it, in the order of the volume."""
    areas = np.count_nonzero(labels, axis=(1, 2))
    shown = np.sort(np.argsort(-areas, kind="stable")[:PICTURED])
    height, width = labels.shape[1:]
    scale = max(1, -(-SHOWN // min(height, width)))
    cells = []
    for index in shown:
        slice_labels = np.kron(labels[index], np.ones((scale, scale), labels.dtype))
        grey = cv2.resize(np.asarray(image[index]), (width * scale, height * scale))
        classes = np.unique(slice_labels[slice_labels > 0]).astype(int)
        masks = slice_labels[None] == classes[:, None, None]
        cells.append(draw_masks(gray_to_rgb(grey), masks, classes - 1))
    columns = min(4, len(cells))
    cells += [np.zeros_like(cells[0])] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], 1) for i in range(0, len(cells), columns)]
    with written_whole(path) as temporary:
        cv2.imwrite(str(temporary), np.concatenate(rows)[..., ::-1])


def _write_json(content: Record, path: Path) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Segment, and write."""
    args = parse(checkpoint_parser(__doc__, "fine-tuning"), argv)
    cfg = configuration(args)
    if is_pretraining(cfg):
        raise ConfigError(f"{args.config_file}: a configuration of the pretext segments nothing")
    model, data = load_model(cfg)
    path, _ = parse_dataset_path(args.dataset)
    root = path if path.is_dir() else path.parent
    written = args.output.resolve()
    index = args.output / "volumes.json"
    known = read_json(index) if index.is_file() else {}
    data.test = scans_of(data.test, args.output, known)
    volumes = {volume_of(record): record for record in data.test}
    names = names_of_volumes(data.test, root, data.marks)
    digests = {
        "weights": hashlib.sha256(Path(cfg.MODEL.WEIGHTS).read_bytes()).hexdigest()[:16],
        "settings": digest_of_settings(data.cfg),
    }
    files = {file: digest_of_files(file, root, written) for file, _ in volumes}
    facts = {
        names[key]: facts_of_volume(record, root, data.marks, digests | {"files": files[key[0]]})
        for key, record in volumes.items()
    }
    _check_same_data(args.output, known, facts)
    done = {
        key
        for key, name in names.items()
        if known.get(name) == facts[name] and (args.output / f"{name}.nii.gz").is_file()
    }
    records = [record for record in data.test if volume_of(record) not in done]
    # What is segmented anew is no longer known, until it is there.
    known = {name: was for name, was in known.items() if facts.get(name, was) == was}
    _write_json(known, index)
    numbers = {label: value for value, label in enumerate(data.class_names, 1)}
    _write_json({"background": 0} | numbers, args.output / "labels.json")
    cache, failed = data.test_mapper.cache, 0
    progress = tqdm(total=len(records), desc="segment", unit="slice")
    for key, slices in groupby(records, volume_of):
        record, name = volumes[key], names[key]
        try:
            labels, voxels = segment_volume(model, data, list(slices), progress)
        except MrsslError as error:  # of one volume, which is not to stop the others
            failed += 1
            tqdm.write(f"not segmented: {error}")
            continue
        target = args.output / name
        draw_volume(target.with_name(f"{target.name}.png"), cache.image(record), labels)
        source = target.with_name(f"{target.name}.nii.gz")
        write_labels(source, labels, cache.affine(record), record["file_name"])
        known[name] = facts[name]
        _write_json(known, index)
        if doubts := data.faults.get(key):
            tqdm.write(f"warning: {name}: {'; '.join(doubts)}")
        sizes = np.multiply(voxels, np.prod(record["spacing"]) / 1000)
        shown = ", ".join(
            f"{label} {size:.1f} ml" for label, size in zip(data.class_names, sizes, strict=True)
        )
        tqdm.write(f"{source}: {shown}")
    progress.close()
    print(f"{len(names) - len(done) - failed} volumes segmented, {len(done)} were there already")
    if failed:
        raise MrsslError(f"{args.dataset}: {failed} volumes could not be read (above)")


if __name__ == "__main__":
    run_main(main)
