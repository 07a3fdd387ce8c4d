"""What ``tools/train_net.py`` runs on Detectron2."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import torch
from detectron2.engine import default_setup
from detectron2.engine import launch as detectron2_launch
from detectron2.modeling import build_model
from fvcore.common.config import CfgNode
from torch.multiprocessing import ProcessRaisedException

from mrssl.checkpoint import Provenance, input_differences, load_checkpoint, load_strict
from mrssl.config import (
    WHOLE_SLICE_RESTORATION,
    ConfigError,
    load_cfg,
    restores_whole_slices,
)
from mrssl.engines.datasets import RunData
from mrssl.engines.detectron2.catalog import load_registered
from mrssl.engines.detectron2.config import get_cfg, with_device
from mrssl.engines.detectron2.trainer import MRITrainer, score
from mrssl.engines.distributed import is_main_process
from mrssl.engines.output import prepare_output
from mrssl.errors import MrsslError
from mrssl.evaluation import Results, print_table, write_results


def launch(args: Namespace) -> None:
    """Run ``args.num_gpus`` processes on this machine: on its GPUs, or on the CPU without CUDA.

    Args:
        args: of ``tools/train_net.py``.

    Raises:
        MrsslError: a configuration, data or weights that cannot be used.
    """
    cfg = with_device(load_cfg(args.config_file, args.opts, cfg=get_cfg()))
    if restores_whole_slices(cfg):
        raise ConfigError(
            f"MODEL.META_ARCHITECTURE {WHOLE_SLICE_RESTORATION!r} is the torchvision engine's: "
            "give --engine torchvision"
        )
    count = torch.cuda.device_count()
    if cfg.MODEL.DEVICE.startswith("cuda") and args.num_gpus > count:
        raise MrsslError(f"--num-gpus {args.num_gpus}: this machine has {count}")
    if args.num_machines > 1 and not args.dist_url.startswith("tcp://"):
        raise MrsslError("--dist-url tcp://HOST:PORT is needed with several machines")
    try:
        detectron2_launch(
            main,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(cfg, args),
        )
    except ProcessRaisedException as error:
        raise _first_fault(error) from error


def _first_fault(error: ProcessRaisedException) -> Exception:
    """The error of a process that was told the user in words, out of its traceback."""
    kind, _, text = str(error).strip().splitlines()[-1].partition(": ")
    return MrsslError(text) if kind.startswith("mrssl.") and text else error


def main(cfg: CfgNode, args: Namespace) -> Results:
    """Train, or evaluate only, in this process; the last evaluation's results."""
    prepare_output(cfg, resume=args.resume or args.eval_only)
    default_setup(cfg, args)
    if args.eval_only:
        results = evaluate_only(cfg)
    else:
        trainer = MRITrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
    if results and is_main_process():
        print_table(results)
        write_results(results, Path(cfg.OUTPUT_DIR) / "inference" / "results.json")
    return results


def evaluate_only(cfg: CfgNode) -> Results:
    """Score ``MODEL.WEIGHTS`` on ``DATASETS.TEST``."""
    if not cfg.MODEL.WEIGHTS:
        raise ConfigError("MODEL.WEIGHTS is empty: --eval-only needs a checkpoint")
    if not cfg.DATASETS.TEST:
        raise ConfigError("DATASETS.TEST is empty: there is nothing to evaluate on")
    data = RunData(cfg, training=False, load=load_registered)
    cfg = data.with_classes(cfg)
    model = build_model(cfg)
    content = load_checkpoint(cfg.MODEL.WEIGHTS)
    load_strict(model, content, where=cfg.MODEL.WEIGHTS)
    for line in input_differences(Provenance.from_dict(content.get("mrssl", {})), cfg):
        print(f"warning: {line}")
    return score(model, data)


__all__ = ["evaluate_only", "launch", "main"]
