#!/usr/bin/env python3
"""List every volume under a path, what is wrong with it, and every file that is refused and why.

PATH is a folder or file of DICOM or NIfTI, or a dataset.json[:split]. Reads everything, writes
nothing unless asked to, and shows no patient name: subjects of DICOM are digests, and
words of a path that are in the patient's name or ID are covered by digits of their digest.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tabulate import tabulate
from tqdm import tqdm

from mrssl.data.cases import Case, read_splits
from mrssl.data.checking import DataReport, check_data, write_contact_sheet
from mrssl.data.splits import split_subjects
from mrssl.errors import MrsslError, run_main
from mrssl.files import write_text


def share(text: str) -> tuple[str, float]:
    """``train=0.8`` as a pair."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SHARE")
    try:
        return name, float(value)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {value!r} is not a number") from error


def parser() -> argparse.ArgumentParser:
    """The command line; the README and the tests read it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("path", help="a folder, a file, or a dataset.json[:split]")
    options.add_argument("--json", metavar="F", help="write the report as JSON")
    options.add_argument("--contact-sheet", metavar="F", help="write every middle slice as one PNG")
    options.add_argument(
        "--subject-pattern",
        default="",
        metavar="REGEX",
        help="whose first group is the subject in a path (default: by the format)",
    )
    options.add_argument(
        "--show-paths",
        action="store_true",
        help="do not cover the names of patients that folders are named after",
    )
    options.add_argument(
        "--write-split",
        metavar="F",
        help="divide the subjects, and write this split.json; one that is there is kept",
    )
    options.add_argument(
        "--shares",
        nargs="+",
        type=share,
        metavar="NAME=SHARE",
        default=[("train", 0.8), ("test", 0.2)],
        help="of --write-split (default: train=0.8 test=0.2)",
    )
    options.add_argument("--seed", type=int, default=0, help="of --write-split")
    return options


def progress(cases: list[Case]) -> Iterator[Case]:
    """Show how far it is, on a terminal only."""
    yield from tqdm(cases, unit="volume", disable=None)


def table(report: DataReport) -> str:
    """The volumes, then their faults, then what was refused."""
    rows = [
        (
            number,
            volume["path"],
            volume["series"],
            "x".join(map(str, volume["shape"])),
            " ".join(f"{mm:.3g}" for mm in volume["spacing"]),
            volume["orientation"],
            volume["subject"],
            f"{volume['intensities']['min']:.4g} {volume['intensities']['max']:.4g}",
            len(volume["faults"]) or "",
        )
        for number, volume in enumerate(report.volumes, 1)
    ]
    headers = ("", "path", "series", "shape", "mm", "axes", "subject", "min max", "faults")
    lines = [tabulate(rows, headers, disable_numparse=True)] if rows else []
    for number, volume in enumerate(report.volumes, 1):
        lines += [f"fault: {number}: {fault}" for fault in volume["faults"]]
    lines += [f"refused: {item.path}: {item.reason}" for item in report.refused]
    lines += [f"doubtful: {line}" for line in report.doubts]
    subjects = {volume["subject"] for volume in report.volumes}
    slices = sum(volume["num_slices"] for volume in report.volumes)
    faulty = sum(bool(volume["faults"]) for volume in report.volumes)
    lines.append(
        f"{len(report.volumes)} volumes of {len(subjects)} subjects, {slices} slices; "
        f"{faulty} volumes with faults; {len(report.refused)} files refused"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, print, and write what was asked for; 1 where nothing is usable."""
    args = parser().parse_args(arguments)
    report = check_data(
        args.path,
        subject_pattern=args.subject_pattern,
        show_paths=args.show_paths,
        progress=progress,
    )
    print(table(report))
    if args.json:
        report.write_json(args.json)
    if not report.volumes:
        raise MrsslError(f"{args.path}: no usable volume")
    if args.contact_sheet:
        write_contact_sheet(report, args.contact_sheet)
    if args.write_split:
        if report.doubts:
            raise MrsslError(
                f"{args.write_split}: not written, since it might part a patient's scans (see "
                "'doubtful' above): say who is who by --subject-pattern, or by '([^/]+)$' that "
                "file names do"
            )
        split = split_subjects(
            (volume["subject"] for volume in report.volumes),
            dict(args.shares),
            seed=args.seed,
            together=[[v["subject"] for v in group] for group in report.duplicates()],
        )
        write_split(Path(args.write_split), split)
    return 0


def write_split(path: Path, split: dict[str, list[str]]) -> None:
    """Write a ``split.json``, unless one is there, which may be of another's hand.

    Args:
        path: of the file.
        split: names of splits, and their subjects.

    Raises:
        MrsslError: a file is there and divides otherwise, or it cannot be written.
    """
    if path.exists():
        if read_splits(path) != split:
            raise MrsslError(
                f"{path}: is there and divides the subjects otherwise; it is kept: add new "
                "subjects by hand, or remove it to divide anew"
            )
        return
    write_text(path, json.dumps(split, indent=1) + "\n")


if __name__ == "__main__":
    run_main(main)
