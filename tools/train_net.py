#!/usr/bin/env python3
"""Pretrain on unlabelled MRI, fine-tune on labelled MRI, or evaluate: one command for all.

Pretraining (MODEL.ROI_HEADS.NAME: DistortionROIHeads in the configuration):
    tools/train_net.py --config-file configs/pretrain/distortion_R_50_FPN.yaml \
        DATASETS.TRAIN "('scans/',)" OUTPUT_DIR output/pretrain
Fine-tuning from it:
    tools/train_net.py --config-file configs/finetune/mask_R_50_FPN.yaml \
        MODEL.WEIGHTS output/pretrain/model_final.pth \
        DATASETS.TRAIN "('knees/dataset.json:train',)" \
        DATASETS.TEST "('knees/dataset.json:test',)" OUTPUT_DIR output/finetune
"""

from __future__ import annotations

import argparse

from arguments import add_overrides, parse, positive
from mrssl.engines import ENGINES, choose_engine
from mrssl.errors import run_main


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line of Detectron2's own tools, and ``--engine``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="YAML with Detectron2's keys")
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--resume", action="store_true", help="go on in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="score MODEL.WEIGHTS")
    parser.add_argument("--num-gpus", type=positive, default=1, help="processes on this machine")
    parser.add_argument("--num-machines", type=positive, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="of this one, from 0 up")
    parser.add_argument("--dist-url", default="auto", help="where processes meet: tcp://HOST:PORT")
    add_overrides(parser)
    args = parse(parser, argv)
    if not 0 <= args.machine_rank < args.num_machines:
        parser.error(f"--machine-rank {args.machine_rank}: of {args.num_machines} machines")
    return args


def main(argv: list[str] | None = None) -> int:
    """Choose the engine, and hand over to it."""
    args = parse_args(argv)
    engine = choose_engine(args.engine)
    print(f"engine: {engine}", flush=True)
    if engine == "detectron2":
        from mrssl.engines.detectron2 import launch
    else:
        from mrssl.engines.torchvision import launch
    launch(args)
    return 0


if __name__ == "__main__":
    run_main(main)
