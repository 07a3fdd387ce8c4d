#!/usr/bin/env python3
"""Speed against peers, as ratios within one run: mapper, training step, inference, distortions.

And the memory of a loader worker.

The steps are those of the small configuration (or --config-file) on slices of the given size; the
stock models get the same images, boxes and masks, and the same numbers of anchors and proposals.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch

from arguments import add_overrides, parse, positive
from benchmark_distortions import benchmark_distortions
from benchmark_memory import worker_memory
from benchmark_steps import load_weights, make_mapper, ratio, step_of
from mrssl.checkpoint import to_torchvision
from mrssl.config import load_cfg
from mrssl.engines.torchvision import build_model
from mrssl.engines.torchvision.batches import collate
from mrssl.errors import run_main
from mrssl.files import write_text

CONFIG = "configs/pretrain/distortion_R_18_FPN_small.yaml"


def time_mapper(cfg: Any, *, size: int = 256, seconds: float = 4.0) -> float:
    """Distorted slices a second from one core, everything between a decoded volume and a sample."""
    mapper, records = make_mapper(cfg, size)
    mapper.min_sizes = (0,)
    cv2.setNumThreads(1)
    mapper(records[0])
    start, made = time.process_time(), 0
    while time.process_time() - start < seconds:
        mapper(records[made % len(records)], epoch=made)
        made += 1
    return made / (time.process_time() - start)


def stock_torchvision(cfg: Any) -> torch.nn.Module:
    """Torchvision's own Mask R-CNN with this configuration's backbone, widths and counts."""
    from torchvision.models.detection import MaskRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
    from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
    from torchvision.ops import MultiScaleRoIAlign

    from mrssl.engines.torchvision.backbone import build_backbone

    node, rpn = cfg.MODEL, cfg.MODEL.RPN
    channels, classes = node.FPN.OUT_CHANNELS, node.ROI_HEADS.NUM_CLASSES + 1
    levels = list(node.ROI_HEADS.IN_FEATURES)
    box, mask = node.ROI_BOX_HEAD, node.ROI_MASK_HEAD
    anchors = node.ANCHOR_GENERATOR
    return MaskRCNN(
        build_backbone(cfg),
        min_size=cfg.INPUT.MIN_SIZE_TRAIN[0],
        max_size=cfg.INPUT.MAX_SIZE_TRAIN,
        image_mean=node.PIXEL_MEAN,
        image_std=node.PIXEL_STD,
        rpn_anchor_generator=AnchorGenerator(
            tuple(map(tuple, anchors.SIZES)), (tuple(anchors.ASPECT_RATIOS[0]),) * 5
        ),
        rpn_pre_nms_top_n_train=rpn.PRE_NMS_TOPK_TRAIN,
        rpn_post_nms_top_n_train=rpn.POST_NMS_TOPK_TRAIN,
        rpn_batch_size_per_image=rpn.BATCH_SIZE_PER_IMAGE,
        box_roi_pool=MultiScaleRoIAlign(levels, box.POOLER_RESOLUTION, box.POOLER_SAMPLING_RATIO),
        box_head=TwoMLPHead(channels * box.POOLER_RESOLUTION**2, box.FC_DIM),
        box_predictor=FastRCNNPredictor(box.FC_DIM, classes),
        box_batch_size_per_image=node.ROI_HEADS.BATCH_SIZE_PER_IMAGE,
        mask_roi_pool=MultiScaleRoIAlign(
            levels, mask.POOLER_RESOLUTION, mask.POOLER_SAMPLING_RATIO
        ),
        mask_head=MaskRCNNHeads(channels, [mask.CONV_DIM] * mask.NUM_CONV, 1),
        mask_predictor=MaskRCNNPredictor(mask.CONV_DIM, mask.CONV_DIM, classes),
    )


Losses = Callable[[], dict[str, torch.Tensor]]


def torchvision_pair(
    cfg: Any, weights: Path | None = None
) -> tuple[tuple[torch.nn.Module, Losses], tuple[torch.nn.Module, Losses]]:
    """Ours and torchvision's stock Mask R-CNN, each with its losses of one and the same batch."""
    mapper, records = make_mapper(cfg, max(cfg.INPUT.MIN_SIZE_TRAIN))
    inputs = collate([mapper(r) for r in records[: cfg.SOLVER.IMS_PER_BATCH]])
    device = cfg.MODEL.DEVICE
    assert mapper.distorter is not None, "a pretraining configuration is needed"
    ours = build_model(cfg, len(mapper.distorter.type_names)).to(device).train()
    stock = stock_torchvision(cfg).to(device).train()
    for model in (ours, stock):
        load_weights(model, weights, to_torchvision)
    images = [x["image"].to(device) for x in inputs]
    kept = ("boxes", "labels", "masks")
    targets = [{k: x["targets"][k].to(device) for k in kept} for x in inputs]
    return (ours, lambda: ours(inputs)), (stock, lambda: stock(images, targets))


def step_ratio_torchvision(cfg: Any, rounds: int, weights: Path | None = None) -> dict[str, float]:
    """Our pretraining step over the step of torchvision's stock Mask R-CNN."""
    ours, stock = (step_of(cfg, *side) for side in torchvision_pair(cfg, weights))
    return ratio(ours, stock, rounds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default=str(Path(__file__).parents[1] / CONFIG))
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--distortions", action="store_true", help="measure the distortions only")
    only.add_argument("--steps", action="store_true", help="measure steps and inference only")
    parser.add_argument("--rounds", type=positive, default=8, help="pairs of steps")
    parser.add_argument(
        "--weights", type=Path, help="a pretraining checkpoint: steps late in training"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    add_overrides(parser)
    args = parse(parser, arguments)
    cuda = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = load_cfg(args.config_file, ["MODEL.DEVICE", cuda, *args.opts])
    figures: dict[str, Any] = {"device": _device()}
    if not args.distortions and not args.steps:
        figures["mapper_slices_per_second"] = time_mapper(cfg)
    if not args.distortions:
        step = step_ratio_torchvision(cfg, args.rounds, args.weights)
        figures["step_ratio_torchvision"] = step.pop("ratio")
        figures["step_torchvision"] = step
        figures |= {"step_ratio_detectron2": None, "inference_ratio_detectron2": None}
        if importlib.util.find_spec("detectron2"):
            from benchmark_detectron2 import benchmark_detectron2

            figures |= benchmark_detectron2(
                args.config_file, args.opts, rounds=args.rounds, weights=args.weights
            )
    if not args.steps:
        # Before the peers are imported, whose pages the worker would inherit.
        figures["worker_memory"] = worker_memory(cfg)
        figures["distortions"] = benchmark_distortions()
    print(json.dumps(figures, indent=2))
    if args.json:
        write_text(args.json, json.dumps(figures, indent=2))


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    run_main(main)
