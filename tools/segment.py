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
  volumes.json  of each NAME, also of one still to come: what it is of (data set, path, series,
                subject; names covered), and digests of its files (by path, size and time), of
                weights and of settings
Volumes whose NAME.nii.gz is there, of the same source, weights and settings by volumes.json, are
left out, so the same command goes on where it was stopped; those of other weights or settings are
removed before any is made anew. A NAME.nii.gz or NAME.png that volumes.json does not list is not
replaced: the command ends. A volume that cannot be read does not stop the others; the exit status
then is 1.
Not a medical device: for research; no output may guide a diagnosis or treatment.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterable, Sequence
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
from label_folder import (
    LabelFolder,
    Record,
    digest_of_settings,
    facts_of_volume,
    names_of_volumes,
    volume_of,
)
from mrssl.checkpoint import Provenance
from mrssl.config import ConfigError, is_pretraining
from mrssl.data.cases import parse_dataset_path
from mrssl.data.labels import ClassValues, values_of_class
from mrssl.data.nifti import is_nifti, open_header
from mrssl.engines.datasets import RunData
from mrssl.engines.pictures import draw_masks, gray_to_rgb
from mrssl.engines.torchvision import load_model
from mrssl.engines.torchvision.batches import collate, to_prediction
from mrssl.errors import MrsslError, run_main
from mrssl.evaluation.joining import Instance, instances_of
from mrssl.evaluation.naming import class_volumes
from mrssl.files import replacing, write_png
from mrssl.structures.volume import matching_transform

#: Header fields of a NIfTI file that its qform is made of, but for the spacing.
QFORM = ("qform_code", *(f"quatern_{x}" for x in "bcd"), *(f"qoffset_{x}" for x in "xyz"))
#: Slices on a picture, at most, and the least pixels a side that they are shown with.
PICTURED, SHOWN = 8, 192


def fine_tuned(cfg: CfgNode) -> tuple[torch.nn.Module, RunData]:
    """The model in ``MODEL.WEIGHTS`` and the slices of ``DATASETS.TEST``.

    Raises:
        MrsslError: the checkpoint is of no fine-tuned model, or the data cannot be used.
    """
    data, content = RunData.for_weights(cfg, labeled=False)
    if Provenance.from_dict(content["mrssl"]).task != "finetune":
        raise MrsslError(f"{cfg.MODEL.WEIGHTS}: not of a fine-tuned model")
    return load_model(data, content), data


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
    for batch in data.test_loader(collate=collate):
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
        scan = open_header(source)
        grid = scan.get_best_affine()
        image = image.as_reoriented(matching_transform(affine, grid))
        # The source's own geometry: its unit need not be the millimetre that volumes are read in.
        image.header.set_xyzt_units(scan.get_xyzt_units()[0])
        image.set_qform(grid, 0)
        if scan["qform_code"] > 0:  # which may say another place than the sform
            image.header["pixdim"][:4] = scan["pixdim"][:4]
            for name in QFORM:
                image.header[name] = scan[name]
        image.set_sform(grid, int(scan["sform_code"]))
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
    write_png(path, np.concatenate(rows)[..., ::-1])


def main(argv: Sequence[str] | None = None) -> None:
    """Segment, and write."""
    args = parse(checkpoint_parser(__doc__, "fine-tuning"), argv)
    cfg = configuration(args)
    if is_pretraining(cfg):
        raise ConfigError(f"{args.config_file}: a configuration of the pretext segments nothing")
    model, data = fine_tuned(cfg)
    path, _ = parse_dataset_path(args.dataset)
    root = path if path.is_dir() else path.parent
    folder = LabelFolder(args.output)
    data.test = folder.scans_of(data.test)
    volumes = {volume_of(record): record for record in data.test}
    names = names_of_volumes(data.test, root, data.marks)
    digests = {
        "weights": hashlib.sha256(Path(cfg.MODEL.WEIGHTS).read_bytes()).hexdigest()[:16],
        "settings": digest_of_settings(data.cfg),
    }
    files = {file: folder.digest_of_files(file, root) for file, _ in volumes}
    facts = {
        names[key]: facts_of_volume(record, root, data.marks, digests | {"files": files[key[0]]})
        for key, record in volumes.items()
    }
    done = folder.begin(facts, data.class_names)
    records = [record for record in data.test if names[volume_of(record)] not in done]
    cache, failed = data.test_mapper.cache, 0
    progress = tqdm(total=len(records), desc="segment", unit="slice")
    for key, slices in groupby(records, volume_of):
        record, name = volumes[key], names[key]
        target = folder.labels(name)
        try:
            labels, voxels = segment_volume(model, data, list(slices), progress)
        except MrsslError as error:  # of one volume, which is not to stop the others
            failed += 1
            tqdm.write(f"not segmented: {error}")
            continue
        draw_volume(folder.picture(name), cache.image(record), labels)
        write_labels(target, labels, cache.affine(record), record["file_name"])
        if doubts := data.faults.get(key):
            tqdm.write(f"warning: {name}: {'; '.join(doubts)}")
        sizes = np.multiply(voxels, np.prod(record["spacing"]) / 1000)
        shown = ", ".join(
            f"{label} {size:.1f} ml" for label, size in zip(data.class_names, sizes, strict=True)
        )
        tqdm.write(f"{target}: {shown}")
    progress.close()
    print(f"{len(names) - len(done) - failed} volumes segmented, {len(done)} were there already")
    if failed:
        raise MrsslError(f"{args.dataset}: {failed} volumes could not be read (above)")


if __name__ == "__main__":
    run_main(main)
