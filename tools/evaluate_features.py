#!/usr/bin/env python3
"""What pretrained features know of the anatomy before any fine-tuning: a linear probe.

Tells structures from background by ridge regression on the frozen pyramid, pixel by pixel on the
grid of its finest level (Alain & Bengio, 2016, arXiv 1610.01644). Fitted on one fold of the
subjects and scored on all others, so with few labels; the threshold is chosen where it is fitted.
Beside it, the share of the box head's outputs that no labelled structure activates: of these a
fine-tuning can make little. The first row is an untrained model, its norms' statistics estimated.

Written to --output:
  features.md    one row a checkpoint: Dice of the foreground, mean and each fold; silent outputs
  features.json  the same figures
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode
from tabulate import tabulate
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from mrssl.checkpoint import load_for_transfer
from mrssl.config import ConfigError, is_pretraining, load_cfg
from mrssl.engines.datasets import RunData
from mrssl.engines.device import with_device
from mrssl.engines.torchvision import MaskRCNN, build_model
from mrssl.engines.torchvision.backbone import STRIDES
from mrssl.engines.torchvision.batches import to_input
from mrssl.errors import MrsslError, run_main
from mrssl.evaluation import write_results
from mrssl.evaluation.metrics import dice
from mrssl.files import write_text

#: Weight of the penalty, a share of the number of pixels that are fitted on.
PENALTY = 1e-3
#: Thresholds of the regression's output that are tried where it is fitted.
THRESHOLDS = np.linspace(0.1, 0.6, 11)
UNTRAINED = "untrained"


@dataclass
class Slice:
    """A labelled slice: the model's input, where its structures are, and whose it is.

    Attributes:
        item: as the engine's model takes it.
        foreground: bool (h, w), on the grid of the finest level.
        boxes: float (N, 4), XYXY pixels of the input.
        subject: to whom it belongs.
    """

    item: dict[str, Tensor]
    foreground: Tensor
    boxes: Tensor
    subject: str


def read_slices(data: RunData, slices: int) -> list[Slice]:
    """``slices`` of each subject's slices that show a structure, evenly spread, or all of fewer."""
    by_subject: dict[str, list[int]] = {}
    for place, record in enumerate(data.test):
        by_subject.setdefault(record["subject_id"], []).append(place)
    found = []
    for subject, places in tqdm(by_subject.items(), desc="read", unit="subject"):
        samples = [data.test_mapper(data.test[place]) for place in places]
        samples = [sample for sample in samples if len(sample["masks"])]
        count = min(slices, len(samples))
        chosen = np.linspace(0, len(samples) - 1, count + 2)[1:-1].round().astype(int)
        if len(set(chosen)) < count:  # of few slices; the middles of equal parts all differ
            chosen = ((np.arange(count) + 0.5) * len(samples) / count).astype(int)
        found += [_slice(samples[place], subject) for place in chosen]
    return found


def _slice(sample: dict[str, np.ndarray], subject: str) -> Slice:
    """From a sample of evaluation, whose truth lies on the grid of the scan."""
    rows, columns = sample["image"].shape[1:]
    own = sample["masks"].shape[1:]
    mask = torch.from_numpy(sample["masks"]).any(0).float()[None, None]
    mask = F.interpolate(mask, (rows, columns), mode="bilinear", antialias=True)
    share = F.avg_pool2d(mask, STRIDES["p2"])[0, 0]
    scale = torch.tensor([columns / own[1], rows / own[0]] * 2)
    boxes = torch.from_numpy(sample["boxes"]) * scale
    return Slice({"image": to_input(sample)["image"]}, share > 0.5, boxes, subject)


@torch.no_grad()
def features_of(model: MaskRCNN, slices: Sequence[Slice]) -> tuple[list[Tensor], float]:
    """The pyramid at each pixel of the finest level, and how much of the box head is silent.

    Returns:
        Float64 (h * w, levels * C) of each slice; and the share, in [0, 1], of the box head's
        outputs that are 0 for all boxes of all slices.
    """
    found, active = [], []
    for one in tqdm(slices, desc="features", unit="slice", leave=False):
        images = model.preprocess([one.item])
        pyramid = model.backbone(images.tensors)
        size = pyramid["p2"].shape[-2:]
        levels = [
            F.interpolate(pyramid[name].float(), size, mode="bilinear")[0]
            for name in ("p2", "p3", "p4", "p5")
        ]
        h, w = one.foreground.shape
        found.append(torch.cat(levels)[:, :h, :w].flatten(1).T.cpu().double())
        boxes = [one.boxes.to(model.device)]
        pooled = model.roi_heads.box_roi_pool(pyramid, boxes, images.image_sizes)
        active.append((model.roi_heads.box_head(pooled) > 0).any(0).cpu())
    return found, 1 - float(torch.stack(active).any(0).float().mean())


def probe(features: Sequence[Tensor], slices: Sequence[Slice], folds: int) -> list[float]:
    """Dice of the foreground on the subjects outside each fold, fitted on those inside it.

    Args:
        features: of each slice, float64 (h * w, D).
        slices: as many.
        folds: into which the subjects are dealt, in the order of their names.
    """
    subjects = sorted({one.subject for one in slices})
    fold_of = {subject: place % folds for place, subject in enumerate(subjects)}
    scores = []
    for fold in range(folds):
        pairs = list(zip(features, slices, strict=True))
        inside = [pair for pair in pairs if fold_of[pair[1].subject] == fold]
        outside = [pair for pair in pairs if fold_of[pair[1].subject] != fold]
        (x, wanted), (others, true) = (
            (torch.cat([f for f, _ in part]), torch.cat([s.foreground.flatten() for _, s in part]))
            for part in (inside, outside)
        )
        mean, deviation = x.mean(0), x.std(0) + 1e-6
        x, others = (x - mean) / deviation, (others - mean) / deviation
        level = wanted.double().mean()
        gram = x.T @ x + PENALTY * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
        weights = torch.linalg.solve(gram, x.T @ (wanted.double() - level))
        fitted, told = ((part @ weights + level).numpy() for part in (x, others))
        best = max(THRESHOLDS, key=lambda t: dice(fitted > t, wanted.numpy()))
        scores.append(dice(told > best, true.numpy()))
    return scores


def load(cfg: CfgNode, weights: str, slices: Sequence[Slice]) -> MaskRCNN:
    """The model with ``weights``, or untrained: then with statistics of the slices in its norms."""
    torch.manual_seed(0)
    model = build_model(cfg)
    assert isinstance(model, MaskRCNN)
    model.to(cfg.MODEL.DEVICE)
    if weights != UNTRAINED:
        load_for_transfer(model, weights, scope="detector", names="torchvision")
        return model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the plain mean over all batches
    model.train()
    with torch.no_grad():
        for start in range(0, len(slices), 4):
            batch = [one.item for one in slices[start : start + 4]]
            model.backbone(model.preprocess(batch).tensors)
    return model.eval()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--config-file", required=True, help="of a fine-tuning")
    options.add_argument("--weights", required=True, nargs="+", help="pretrained checkpoints")
    options.add_argument("--dataset", required=True, help="labelled: dataset.json:split")
    options.add_argument("--output", required=True, type=Path, metavar="DIR")
    options.add_argument("--folds", type=int, default=4, help="of the subjects (default: 4)")
    options.add_argument("--slices", type=int, default=3, help="of a subject (default: 3)")
    options.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="overrides: KEY VALUE ..."
    )
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Probe, print the table, and write."""
    args = parser().parse_args(argv)
    if args.slices < 1 or args.folds < 2:
        raise MrsslError(f"--slices {args.slices} --folds {args.folds}: at least 1 and 2 are meant")
    cfg = with_device(
        load_cfg(args.config_file, ["DATASETS.TEST", repr((args.dataset,)), *args.opts])
    )
    if is_pretraining(cfg):
        raise ConfigError(f"{args.config_file}: a configuration of the pretext has no labels")
    data = RunData(cfg, training=False)
    cfg = data.with_classes(cfg)
    slices = read_slices(data, args.slices)
    subjects = len({one.subject for one in slices})
    if subjects < args.folds:
        raise MrsslError(f"{args.dataset}: {subjects} subjects with labels for {args.folds} folds")
    rows = []
    for weights in (UNTRAINED, *args.weights):
        features, silent = features_of(load(cfg, weights, slices), slices)
        scores = probe(features, slices, args.folds)
        rows.append({"weights": weights, "dice": scores, "silent": silent})
    text = tabulate(
        [
            [
                row["weights"],
                f"{np.mean(row['dice']):.3f}",
                ", ".join(f"{score:.3f}" for score in row["dice"]),
                f"{row['silent']:.2f}",
            ]
            for row in rows
        ],
        headers=["weights", "Dice", "by fold", "silent box-head outputs"],
        tablefmt="pipe",
        disable_numparse=True,
    )
    print(text)
    write_text(args.output / "features.md", text + "\n")
    write_results(
        {"dataset": args.dataset, "subjects": subjects, "slices": len(slices), "rows": rows},
        args.output / "features.json",
    )


if __name__ == "__main__":
    run_main(main)
