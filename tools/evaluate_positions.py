#!/usr/bin/env python3
"""How well a pretrained model tells where in the volume a region lies (MRSSL.POSITION_HEAD).

Undistorted windows of the slices, drawn as in pretraining (INPUT.CROP), with the same squares laid
over each. To compare with: somebody who sees where in the window a square lies, but not what of the
volume the window shows; and the middle of all. Only what is better than the first knows anatomy.

Written to --output:
  positions.md    mean distance, mm, along columns, rows and slices
  positions.png   told against true position
  positions.json  the same distances, by subject too
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

from arguments import parse
from checkpoint_cli import checkpoint_parser, configuration
from mrssl.config import ConfigError
from mrssl.data.mapper import SliceMapper
from mrssl.engines.datasets import RunData
from mrssl.engines.torchvision import MaskRCNN, load_model
from mrssl.engines.torchvision.batches import to_input
from mrssl.errors import MrsslError, optional_import, run_main
from mrssl.evaluation import write_results
from mrssl.files import write_text, written_whole

AXES = ("columns", "rows", "slices")
#: Centres and side of the squares, as shares of a window's sides and of its shorter one.
CENTRES, SIDE = (0.2, 0.4, 0.6, 0.8), 0.15


def squares(height: int, width: int) -> torch.Tensor:
    """Boxes (N, 4), XYXY, of the squares in a window of ``height`` x ``width`` pixels."""
    y, x = (c.ravel() for c in np.meshgrid(CENTRES, CENTRES, indexing="ij"))
    centres = np.stack([x * width, y * height], axis=1)
    half = SIDE * min(height, width) / 2
    return torch.from_numpy(np.hstack([centres - half, centres + half])).float()


@torch.no_grad()
def told(model: MaskRCNN, window: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """What the position branch says of ``boxes`` in ``window`` (3, H, W): mm, (N, 3)."""
    heads = model.roi_heads
    assert heads.position_head is not None
    images = model.preprocess([{"image": window}])
    pooled = heads.box_roi_pool(
        model.backbone(images.tensors), [boxes.to(model.device)], images.image_sizes
    )
    return heads.position_head.millimetres(heads.box_head(pooled)).cpu()


def compare(
    model: MaskRCNN, data: RunData, mapper: SliceMapper, slices: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Subject, told and true positions (N, 3), mm, of some windows, spread over the data."""
    places = np.linspace(0, len(data.test) - 1, min(slices, len(data.test))).round().astype(int)
    for place in tqdm(places, unit="slice"):
        record = data.test[place]
        item = to_input(mapper(record))
        boxes = squares(*item["image"].shape[1:])
        true = item["targets"]["position"].of_boxes(boxes)
        yield record["subject_id"], told(model, item["image"], boxes).numpy(), true.numpy()


def distances(found: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Mean distances along the three axes, mm: of the model, and of those who know less."""
    guess = np.concatenate([answer for _, answer, _ in found])
    true = np.concatenate([place for _, _, place in found])
    window = np.concatenate([place - place.mean(0) for _, _, place in found])
    middle = true.mean(0)
    return {
        "model": np.abs(guess - true).mean(0),
        "place in the window": np.abs(window + middle - true).mean(0),
        "middle of all": np.abs(middle - true).mean(0),
    }


def draw(found: Sequence[tuple[str, np.ndarray, np.ndarray]], path: Path) -> None:
    """Told against true position, one colour a subject, as PNG.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    optional_import("matplotlib", "pip install matplotlib")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    for number, (axis, name) in enumerate(zip(figure.subplots(1, 3), AXES, strict=True)):
        for subject in dict.fromkeys(subject for subject, _, _ in found):
            mine = [(true, guess) for who, guess, true in found if who == subject]
            true, guess = (np.concatenate(part)[:, number] for part in zip(*mine, strict=True))
            axis.plot(true, guess, ".", markersize=3)
        axis.axline((0, 0), slope=1, color="black", linewidth=0.8)
        axis.set(xlabel=f"true position along {name}, mm", ylabel="told, mm", aspect="equal")
        axis.set_adjustable("datalim")
    figure.savefig(path, dpi=130, format="png")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = checkpoint_parser(__doc__, "pretraining")
    options.add_argument(
        "--slices", type=int, default=200, help="at most, spread evenly (default: 200)"
    )
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate, print the table, and write."""
    args = parse(parser(), argv)
    optional_import("matplotlib", "pip install matplotlib")
    if args.slices < 1:
        raise MrsslError(f"--slices {args.slices}: give at least 1")
    args.opts += ["MRSSL.PRETEXT.CLEAN_SHARE", "1.0"]
    cfg = configuration(args)
    if cfg.MRSSL.POSITION_HEAD.LOSS_WEIGHT <= 0:
        raise ConfigError("MRSSL.POSITION_HEAD.LOSS_WEIGHT 0: there is no position branch")
    data, content = RunData.for_weights(cfg)
    model = load_model(data, content)
    assert isinstance(model, MaskRCNN)
    # As in training: evaluation shows whole slices, which a window tells nothing new of.
    mapper = SliceMapper.from_config(cfg, training=True)
    found = list(compare(model, data, mapper, args.slices))
    table = distances(found)
    text = tabulate(
        [[who, *(f"{mm:.1f}" for mm in row)] for who, row in table.items()],
        headers=["mean distance, mm", *AXES],
        tablefmt="pipe",
        disable_numparse=True,
    )
    print(text)
    write_text(args.output / "positions.md", text + "\n")
    subjects = dict.fromkeys(subject for subject, _, _ in found)
    write_results(
        {
            "weights": Path(args.weights).name,
            "slices": len(found),
            "distance_mm": {who: row.tolist() for who, row in table.items()},
            "distance_mm_per_subject": {
                subject: distances([f for f in found if f[0] == subject])["model"].tolist()
                for subject in subjects
            },
        },
        args.output / "positions.json",
    )
    with written_whole(args.output / "positions.png") as path:
        draw(found, path)


if __name__ == "__main__":
    run_main(main)
