"""What ``tools/train_net.py`` runs on the embedded engine: processes, a training, an evaluation."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from fvcore.common.config import CfgNode
from torch import nn

from mrssl.checkpoint import load_strict
from mrssl.config import check_empty_slices, load_cfg
from mrssl.engines.datasets import RunData
from mrssl.engines.device import told_device, with_device
from mrssl.engines.launching import Processes, launch_processes
from mrssl.engines.output import prepare_output, write_config, write_scores, write_subjects
from mrssl.engines.torchvision.batches import collate_with_truth
from mrssl.engines.torchvision.evaluation import evaluate
from mrssl.engines.torchvision.model import build_model, check_names
from mrssl.engines.torchvision.trainer import Trainer
from mrssl.evaluation import Results


def launch(args: Namespace) -> None:
    """Run ``args.num_gpus`` processes on each of ``args.num_machines``, or this one of torchrun's.

    Raises:
        MrsslError: a configuration or data that cannot be used.
    """
    cfg = with_device(load_cfg(args.config_file, args.opts))
    print(told_device(cfg), flush=True)
    launch_processes(main, Processes.asked_for(args, cfg), (cfg, args))


def main(cfg: CfgNode, args: Namespace) -> Results:
    """Train, or evaluate only, as ``args`` (of ``tools/train_net.py``) ask.

    Every process of a run comes here, and knows the others already.

    Returns:
        The last evaluation's results; ``{}`` on all but the main process.
    """
    cfg = with_device(cfg)
    check_names(cfg)
    if not args.eval_only:
        check_empty_slices(cfg)
    prepare_output(cfg, resume=args.resume, eval_only=args.eval_only)
    if args.eval_only:
        results = evaluate_only(cfg)
    else:
        trainer = Trainer(cfg, resume=args.resume)
        write_config(cfg)
        results = trainer.train()
    write_scores(cfg, results)
    return results


def evaluate_only(cfg: CfgNode) -> Results:
    """Score ``MODEL.WEIGHTS`` on ``DATASETS.TEST``."""
    data, content = RunData.for_weights(cfg)
    evaluator = data.evaluator()
    loader = data.test_loader(collate=collate_with_truth)
    results = evaluate(load_model(data, content), loader, evaluator)
    write_subjects(cfg, evaluator)
    return results


def load_model(data: RunData, content: Mapping[str, Any]) -> nn.Module:
    """The model of a checkpoint, in evaluation mode, on ``MODEL.DEVICE``.

    Args:
        data: by :meth:`RunData.for_weights`.
        content: likewise, what the checkpoint in ``MODEL.WEIGHTS`` holds.

    Raises:
        MrsslError: it is of another model than the configuration describes.
    """
    cfg = data.with_classes(data.cfg)
    model = build_model(cfg, len(data.type_names)).to(cfg.MODEL.DEVICE)
    load_strict(model, content, names="torchvision", where=cfg.MODEL.WEIGHTS)
    return model.eval()
