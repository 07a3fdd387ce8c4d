"""What ``tools/train_net.py`` runs on the embedded engine."""

from __future__ import annotations

from argparse import Namespace

from fvcore.common.config import CfgNode

from mrssl.checkpoint import load_strict
from mrssl.engines.datasets import RunData
from mrssl.engines.device import with_device
from mrssl.engines.distributed import get_rank, get_world_size
from mrssl.engines.output import prepare_output, write_config, write_scores, write_subjects
from mrssl.engines.torchvision.batches import collate_with_truth
from mrssl.engines.torchvision.evaluation import evaluate
from mrssl.engines.torchvision.model import build_model, check_names
from mrssl.engines.torchvision.trainer import Trainer
from mrssl.evaluation import Results


def main(cfg: CfgNode, args: Namespace) -> Results:
    """Train, or evaluate only, as ``args`` (of ``tools/train_net.py``) ask.

    Every process of a run comes here, and knows the others already.

    Returns:
        The last evaluation's results; ``{}`` on all but the main process.
    """
    cfg = with_device(cfg)
    check_names(cfg)
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
    cfg = data.with_classes(cfg)
    model = build_model(cfg, len(data.type_names)).to(cfg.MODEL.DEVICE)
    load_strict(model, content, names="torchvision", where=cfg.MODEL.WEIGHTS)
    loader = data.test_loader(
        rank=get_rank(), world_size=get_world_size(), collate=collate_with_truth
    )
    evaluator = data.evaluator()
    results = evaluate(model, loader, evaluator)
    write_subjects(cfg, evaluator)
    return results
