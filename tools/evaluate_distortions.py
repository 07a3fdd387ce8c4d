#!/usr/bin/env python3
"""What a pretrained model finds, names and restores: each distortion type at several severities.

The same slices with the same regions are distorted by one type at a time, at one severity at a
time. At severity 0 they are unchanged to the bit (this is checked), so what is "found" there is
found by chance.

Written to --output:
  distortions.md    one row a type: localisation AP50, type AP, restoration in dB at the greatest
                    severity, and the recall at each
  distortions.png   the recall over type and severity
  distortions.json  all figures of all severities
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arguments import parse
from checkpoint_cli import checkpoint_parser, configuration
from distortion_report import FOUND, Sweep, draw_recall, format_sweep
from mrssl.config import ConfigError, is_pretraining
from mrssl.data.loader import EvaluationSet, build_loader
from mrssl.data.mapper import SliceMapper
from mrssl.distortions import Distorter
from mrssl.engines.datasets import TEST_BATCH, RunData
from mrssl.engines.torchvision import load_model
from mrssl.engines.torchvision.batches import collate_with_truth
from mrssl.engines.torchvision.evaluation import evaluate
from mrssl.errors import MrsslError, optional_import, run_main
from mrssl.evaluation import pretext_evaluator, write_results
from mrssl.files import write_text, written_whole

SEVERITIES = (0.0, 0.25, 0.5, 1.0)


class Probe:
    """Maps a slice as in evaluation, but distorts it by the one type asked for.

    Where the regions lie depends on the slice alone, so types and severities are compared on the
    same regions. All regions are kept, also those in which too little changed to be annotated.

    Args:
        mapper: of an evaluation; its distorter is replaced.
        severity: of all regions.
        count: greater than any ``image_id``; the sample of type k gets ``k * count`` more.
    """

    def __init__(self, mapper: SliceMapper, severity: float, count: int) -> None:
        base = mapper.distorter
        if not isinstance(base, Distorter):
            raise ConfigError("MODEL.ROI_HEADS.NAME: the pretext that distorts regions is needed")
        self.mapper, self.severity, self.count = mapper, severity, count
        self.distorters = [
            Distorter(
                base.regions,
                base.distortions,
                weights=[float(k == index) for k in range(len(base.distortions))],
                severity=(severity, severity),
                clean_share=0.0,
                tolerance=base.tolerance,
                min_changed=base.min_changed,
                all_channels=base.all_channels,
                keep_unchanged=True,
            )
            for index in range(len(base.distortions))
        ]

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The sample of ``record``, distorted by the type number ``record["probe"]``."""
        sample = self.distort(record, record["probe"])
        return sample | {"image_id": record["probe"] * self.count + sample["image_id"]}

    def distort(self, record: dict[str, Any], index: int) -> dict[str, Any]:
        """The sample of ``record``, distorted by the type number ``index``."""
        self.mapper.distorter = self.distorters[index]
        return self.mapper(record)


class UnchangedProbe(Probe):
    """The probe at severity 0: all types leave the same slice, so it is mapped once for all.

    Raises:
        MrsslError: a type changed the slice.
    """

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """The unchanged sample of ``record``, whose regions count for every type."""
        for index, distorter in enumerate(self.distorters):
            sample = self.distort(record, index)
            if not np.array_equal(sample["image"], sample["clean"]):
                name = distorter.type_names[index]
                raise MrsslError(f"distortion {name}: changes a slice at severity 0")
        return sample | {"types": np.ones_like(sample["types"])}


def sweep(model: torch.nn.Module, data: RunData, severities: Sequence[float], slices: int) -> Sweep:
    """Score ``model`` on some slices of the test data, each type and severity by itself.

    Args:
        model: of the embedded engine.
        data: described without training data.
        severities: in [0, 1].
        slices: at most so many, spread evenly over the data.
    """
    places = np.linspace(0, len(data.test) - 1, min(slices, len(data.test))).round().astype(int)
    records = [data.test[place] for place in places]
    count = max(record["image_id"] for record in records) + 1
    names = data.type_names
    results = {}
    for severity in sorted(set(severities)):
        kind, turns = (Probe, len(names)) if severity > 0 else (UnchangedProbe, 1)
        probe = kind(data.test_mapper, severity, count)
        pairs = [{**record, "probe": index} for index in range(turns) for record in records]
        loader = build_loader(
            EvaluationSet(pairs, probe), batch_size=TEST_BATCH, collate=collate_with_truth
        )
        results[severity] = evaluate(
            model, loader, pretext_evaluator(names), description=f"severity {severity:g}"
        )
        recall = results[severity]["localization"]["recall"]
        print(f"severity {severity:g}: recall {recall:.3f}", flush=True)
    return Sweep(names, results, slices=len(records))


def parse_severities(text: str) -> tuple[float, ...]:
    """The numbers of ``"0,0.5,1"``."""
    numbers = tuple(float(part) for part in text.split(","))
    if not all(0 <= number <= 1 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text}: each must lie in [0, 1]")
    return numbers


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = checkpoint_parser(__doc__, "pretraining")
    options.add_argument(
        "--severities",
        type=parse_severities,
        default=SEVERITIES,
        metavar="S,S,...",
        help="each in [0, 1] (default: 0,0.25,0.5,1)",
    )
    options.add_argument(
        "--slices", type=int, default=100, help="at most, spread evenly (default: 100)"
    )
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate, print the table, and write."""
    args = parse(parser(), argv)
    optional_import("matplotlib", "pip install matplotlib")
    if args.slices < 1:
        raise MrsslError(f"--slices {args.slices}: give at least 1")
    cfg = configuration(args)
    if not is_pretraining(cfg):
        raise ConfigError(f"{args.config_file}: not a configuration of the pretext")
    data, content = RunData.for_weights(cfg)
    found = sweep(load_model(data, content), data, args.severities, args.slices)
    text = format_sweep(found)
    print(text)
    write_text(args.output / "distortions.md", text + "\n")
    write_results(
        {
            "weights": Path(args.weights).name,
            "slices": found.slices,
            "found_from_recall": FOUND,
            "severities": {f"{severity:g}": r for severity, r in found.results.items()},
        },
        args.output / "distortions.json",
    )
    with written_whole(args.output / "distortions.png") as path:
        draw_recall(found, path)


if __name__ == "__main__":
    run_main(main)
