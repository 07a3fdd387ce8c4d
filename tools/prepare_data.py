#!/usr/bin/env python3
"""Convert a data set once into a slice store, which training reads without decoding anything.

SOURCE is what DATASETS.TRAIN takes: a folder of DICOM or NIfTI, or a dataset.json[:split]. Give
OUTPUT, or OUTPUT/dataset.json:split, to DATASETS.TRAIN in its place. Interrupted and started
again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from mrssl.config import load_cfg
from mrssl.data.preparing import prepare_store
from mrssl.errors import run_main


def parser() -> argparse.ArgumentParser:
    """The command line; the README and the tests read it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("source", help="a folder, or a dataset.json[:split]")
    options.add_argument("output", help="the folder of the store")
    options.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes (default: as many as processors)",
    )
    options.add_argument(
        "--config-file",
        metavar="F",
        help="whose MRSSL.DATA says how to slice and which statistics to keep",
    )
    options.add_argument(
        "overrides", nargs="*", default=[], metavar="KEY VALUE", help="of the configuration"
    )
    return options


def progress(items: Iterable[Any], total: int) -> Iterator[Any]:
    """Show how far it is, on a terminal only."""
    yield from tqdm(items, total=total, unit="volume", disable=None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, and say what was done."""
    args = parser().parse_intermixed_args(arguments)  # overrides may follow an option
    data = load_cfg(args.config_file, args.overrides).MRSSL.DATA
    report = prepare_store(
        args.source,
        args.output,
        workers=args.workers,
        slice_axis=data.SLICE_AXIS,
        subject_pattern=data.SUBJECT_PATTERN,
        normalization=data.NORMALIZATION,
        percentiles=data.PERCENTILES,
        zscore_range=data.ZSCORE_RANGE,
        window=data.WINDOW,
        progress=progress,
    )
    for path, reason in report.refused:
        print(f"refused: {path}: {reason.removeprefix(f'{path}: ')}")
    print(
        f"{args.output}: {report.written} volumes written, {report.kept} were there, "
        f"{len(report.refused)} refused"
    )
    return 0


if __name__ == "__main__":
    run_main(main)
