#!/usr/bin/env python3
"""How well structures keep their names where the field of view is cut (fine-tuned checkpoints).

Labelled volumes are cut at one end or the other, along the axis on which the classes lie farthest
apart, and segmented anew: Dice with the structures of a volume named together, with each slice
named by itself, and with wrong names forgiven. With --keep-size a field keeps its size, black where
nothing was scanned, as one that was placed elsewhere. Where the last stays and the others fall, the
outlines are right and the names wrong. Take subjects that the model was neither trained nor is to
be tested on.

Written to --output:
  names.md    the table
  names.png   Dice over what was cut
  names.json  the same figures, by subject too
"""

from __future__ import annotations

import json
import math
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from tabulate import tabulate
from tqdm import tqdm

from arguments import parse
from checkpoint_cli import checkpoint_parser, configuration
from mrssl.config import with_values
from mrssl.data.cases import Case
from mrssl.data.descriptions import Description, describe
from mrssl.data.label_files import read_label
from mrssl.data.sources import read_source, volume_slice_axis
from mrssl.data.store import exact_type, forget_arrays, save_array, write_index
from mrssl.engines.torchvision import evaluate_only
from mrssl.errors import MrsslError, optional_import, run_main
from mrssl.evaluation import write_results
from mrssl.files import write_text, written_whole
from mrssl.privacy import cover
from mrssl.structures import Volume

#: What is reported: in results, in words.
SCORES = {"dice": "named together", "slicewise": "by the slice", "instances": "names forgiven"}


def labeled_volumes(described: Description) -> Iterator[tuple[Case, Volume, np.ndarray]]:
    """Each case that has labels, its volume, and the labels, int32 (D, H, W).

    Raises:
        MrsslError: one cannot be read.
    """
    for case in described.cases:
        if case.label_file:
            volume = read_source(case.source)
            yield case, volume, read_label(case.label_file, volume.affine, volume.shape)


def row_axis(described: Description) -> int:
    """The axis, D, H, W as 0, 1, 2, on which the centres of the classes lie farthest apart.

    Raises:
        MrsslError: no volume has two classes.
    """
    spreads = []
    for _, volume, label in labeled_volumes(described):
        found = [np.argwhere(np.isin(label, values)) for values in described.class_values]
        centers = [voxels.mean(0) * volume.spacing for voxels in found if len(voxels)]
        if len(centers) > 1:
            spreads.append(np.std(centers, axis=0))
    if not spreads:
        raise MrsslError(f"{described.name}: names need a volume with two classes")
    return int(np.mean(spreads, axis=0).argmax())


def cut(volume: Volume, axis: int, millimetres: float) -> slice:
    """What is left of an axis; of a negative length, cut at the low end.

    Raises:
        MrsslError: less than half would be left.
    """
    size = volume.shape[axis]
    voxels = round(abs(millimetres) / volume.spacing[axis])
    if 2 * voxels > size:
        raise MrsslError(f"--cut {abs(millimetres):g}: takes more than half of a field")
    return slice(voxels, size) if millimetres < 0 else slice(0, size - voxels)


def write_cut(
    described: Description,
    axis: int,
    millimetres: float,
    folder: Path,
    *,
    slice_axis: str,
    keep_size: bool = False,
) -> Path:
    """The labelled volumes, cut, as a slice store; its ``dataset.json``.

    A store keeps the planes in which a volume is shown, and the subject, whatever the settings say:
    of NIfTI files, those of a scanner's slices would be found anew, by spacing.

    Args:
        described: the data set.
        axis: that is cut, D, H, W as 0, 1, 2.
        millimetres: see :func:`cut`.
        folder: to write to.
        slice_axis: as ``MRSSL.DATA.SLICE_AXIS``.
        keep_size: add at one end what is cut at the other.
    """
    marks = frozenset[str]().union(*(case.source.marks for case in described.cases))
    entries: list[dict[str, Any]] = []
    for number, (case, volume, label) in enumerate(labeled_volumes(described)):
        key, kept, corner = f"{number:016x}", [slice(None)] * 3, np.eye(4)
        kept[axis] = cut(volume, axis, millimetres)
        added = [(0, 0)] * 3
        if keep_size:
            voxels = volume.shape[axis] - (kept[axis].stop - kept[axis].start)
            added[axis] = (0, voxels) if kept[axis].start else (voxels, 0)
        corner[axis, 3] = kept[axis].start - added[axis][0]
        planes = volume_slice_axis(case.source, slice_axis)
        for part, array in (("labels", label), ("volumes", volume.array)):
            empty = 0 if part == "labels" else array.min()
            moved = np.pad(array[tuple(kept)], added, constant_values=empty)
            shown = Volume(moved, volume.affine @ corner).take_slices(planes)
            save_array(exact_type(shown.array), folder / part / f"{key}.npy")
        entries.append(
            {
                "key": key,
                "shape": shown.shape,
                "affine": shown.affine.tolist(),
                "label": True,
                "window": [0.0, 1.0],  # of no normalisation: measured when it is read
                "foreground": [0.0] * len(shown.array),
                "case": cover(case.name, marks),
                "subject": cover(case.source.subject, marks),
                "tags": {},
                "faults": [],
            }
        )
    names = zip(described.class_names, described.class_values, strict=True)
    content = {"name": described.name, "labels": dict(names), "normalization": {}}
    return write_index(folder, {**content, "volumes": entries})


def evaluate(
    cfg: CfgNode, described: Description, axis: int, millimetres: float, *, keep_size: bool
) -> dict[str, Any]:
    """Scores of a cut, of all and by subject."""
    with tempfile.TemporaryDirectory() as folder:
        planes = cfg.MRSSL.DATA.SLICE_AXIS
        dataset = write_cut(
            described, axis, millimetres, Path(folder), slice_axis=planes, keep_size=keep_size
        )
        output = Path(folder) / "output"
        values = {"DATASETS.TEST": (str(dataset),), "OUTPUT_DIR": str(output)}
        try:
            results = evaluate_only(with_values(cfg, values))["dice"]
        finally:
            forget_arrays()  # or Windows would not remove the folder
        if "slicewise" not in results:
            raise MrsslError(
                "MRSSL.EVALUATION.JOINT_NAMES is off, there is one class only, or classes overlap"
            )
        subjects = json.loads(
            (output / "inference" / "per_subject.json").read_text(encoding="utf-8")
        )
    return {
        "cut_mm": millimetres,
        **{name: results[name] for name in SCORES},
        "per_subject": {
            subject: {name: row["dice"][name] for name in SCORES}
            for subject, row in subjects.items()
        },
    }


def draw(rows: Sequence[dict[str, Any]], path: Path, done: str) -> None:
    """Dice over what was "cut" or "moved", as PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    optional_import("matplotlib", "pip install matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    for name, words in SCORES.items():
        axis.plot([row["cut_mm"] for row in rows], [row[name] for row in rows], "o-", label=words)
    axis.set(
        xlabel=f"{done}, mm (negative: at the low end of the axis)", ylabel="Dice", ylim=(0, 1)
    )
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=130, format="png")


def lengths(text: str) -> list[float]:
    """Positive numbers between commas."""
    values = [float(part) for part in text.split(",")]
    if not all(0 < value < math.inf for value in values):
        raise ValueError(text)
    return values


def parser() -> ArgumentParser:
    """The command line."""
    options = checkpoint_parser(__doc__, "fine-tuning")
    options.add_argument(
        "--cut", type=lengths, default="30,60", help="mm at each end (default: 30,60)"
    )
    options.add_argument(
        "--keep-size", action="store_true", help="the field is moved: black where it is not scanned"
    )
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate, print the table, and write."""
    args = parse(parser(), argv)
    optional_import("matplotlib", "pip install matplotlib")
    cfg = configuration(args)
    described = describe(args.dataset, subject_pattern=cfg.MRSSL.DATA.SUBJECT_PATTERN)
    axis = row_axis(described)
    cuts = sorted({0.0, *args.cut, *(-length for length in args.cut)})
    rows = [
        evaluate(cfg, described, axis, length, keep_size=args.keep_size)
        for length in tqdm(cuts, "cuts")
    ]
    done = "moved" if args.keep_size else "cut"
    text = tabulate(
        [[f"{row['cut_mm']:+g}", *(f"{row[name]:.3f}" for name in SCORES)] for row in rows],
        headers=[f"{done}, mm", *(f"Dice, {words}" for words in SCORES.values())],
        tablefmt="pipe",
        disable_numparse=True,
    )
    print(text)
    write_text(args.output / "names.md", text + "\n")
    facts = {"axis": "DHW"[axis], "keep_size": args.keep_size, "rows": rows}
    write_results({"weights": Path(args.weights).name, **facts}, args.output / "names.json")
    with written_whole(args.output / "names.png") as path:
        draw(rows, path, done)


if __name__ == "__main__":
    run_main(main)
