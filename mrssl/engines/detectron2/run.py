"""What ``tools/train_net.py`` runs on Detectron2."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.engine import default_setup
from detectron2.modeling import build_model
from detectron2.utils.comm import create_local_process_group
from fvcore.common.config import CfgNode

from mrssl.checkpoint import load_strict
from mrssl.config import (
    WHOLE_SLICE_RESTORATION,
    ConfigError,
    load_cfg,
    restores_whole_slices,
    with_values,
)
from mrssl.engines.datasets import RunData
from mrssl.engines.detectron2.catalog import load_registered
from mrssl.engines.detectron2.config import check_heeded, check_names, get_cfg
from mrssl.engines.detectron2.scoring import score
from mrssl.engines.detectron2.trainer import MRITrainer
from mrssl.engines.device import told_device, with_device
from mrssl.engines.distributed import is_main_process
from mrssl.engines.launching import Processes, launch_processes
from mrssl.engines.output import CONFIG, prepare_output, write_config, write_scores
from mrssl.evaluation import Results
from mrssl.files import written_whole


def launch(args: Namespace) -> None:
    """Run ``args.num_gpus`` processes on each of ``args.num_machines``, or this one of torchrun's.

    They are on the machines' GPUs, or on the CPU without CUDA.

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
    check_names(cfg)
    print(told_device(cfg), flush=True)
    launch_processes(
        main, Processes.asked_for(args, cfg), (cfg, args), setup=create_local_process_group
    )


def main(cfg: CfgNode, args: Namespace) -> Results:
    """Train, or evaluate only, in this process; the last evaluation's results."""
    prepare_output(cfg, resume=args.resume, eval_only=args.eval_only)
    if args.eval_only:
        # Without a folder, or it would replace config.yaml and join in a training's log.
        default_setup(with_values(cfg, {"OUTPUT_DIR": None}), args)
        results = evaluate_only(cfg)
    else:
        with _config_put_back(cfg):
            default_setup(cfg, args)
        trainer = MRITrainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        write_config(cfg)
        results = trainer.train()
    write_scores(cfg, results)
    return results


@contextmanager
def _config_put_back(cfg: CfgNode) -> Iterator[None]:
    """Undo that ``default_setup`` replaces ``config.yaml`` before it is known if a resume goes."""
    file = Path(cfg.OUTPUT_DIR) / CONFIG
    before = file.read_bytes() if is_main_process() and file.exists() else None
    try:
        yield
    finally:
        if before is not None:
            with written_whole(file) as temporary:
                temporary.write_bytes(before)


def evaluate_only(cfg: CfgNode) -> Results:
    """Score ``MODEL.WEIGHTS`` on ``DATASETS.TEST``."""
    check_heeded(cfg, training=False)
    data, content = RunData.for_weights(cfg, load=load_registered)
    cfg = data.with_classes(cfg)
    model = build_model(cfg)
    load_strict(model, content, where=cfg.MODEL.WEIGHTS)
    return score(model, data)


__all__ = ["evaluate_only", "launch", "main"]
