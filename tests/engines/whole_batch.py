"""Losses, gradients and an evaluation, by one process or by several; see its caller."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from mrssl.config import load_cfg
from mrssl.engines.distributed import gather_objects, get_rank, get_world_size

OVERRIDES = [
    "MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "4", "MRSSL.PRETEXT.CLEAN_SHARE", "0.4",
    # The statistics of batch norm are each process's own.
    "MODEL.RESNETS.NORM", "GN", "MODEL.FPN.NORM", "GN", "MRSSL.DISTORTION_HEAD.NORM", "GN",
]  # fmt: skip


def build(engine: str, config: Path, options: list[str]) -> tuple[Any, Any, Any, Any]:
    """A trainer, its model as it trains, its bare one, and the context that its losses need."""
    if engine == "torchvision":
        from mrssl.engines.torchvision import Trainer

        trainer: Any = Trainer(load_cfg(config, options))
        return trainer, trainer.wrapped, trainer.model, nullcontext()
    from detectron2.utils.events import EventStorage

    from mrssl.engines.detectron2 import MRITrainer, get_cfg

    trainer = MRITrainer(load_cfg(config, options, cfg=get_cfg()))
    return trainer, trainer._trainer.model, trainer.bare_model, EventStorage()


def collate(engine: str) -> Any:
    if engine == "torchvision":
        from mrssl.engines.torchvision.batches import collate

        return collate
    from mrssl.engines.detectron2.trainer import _to_inputs

    return _to_inputs


def measure(engine: str, config: Path, data: str, tests: str, output: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        options = [
            *OVERRIDES, "DATASETS.TRAIN", f"('{data}:train',)", "DATASETS.TEST", tests,
            "OUTPUT_DIR", folder,
        ]  # fmt: skip
        trainer, model, bare, context = build(engine, config, options)
        loader = trainer.data.train_loader(start_iteration=3, collate=collate(engine))
        torch.manual_seed(get_rank())  # nothing may follow from it
        with context:
            losses = model(next(iter(loader)))
        sum(losses.values()).backward()
        shares = gather_objects({name: float(loss.detach()) for name, loss in losses.items()})
        results = trainer.evaluate()
    if get_rank() == 0:
        means = {name: sum(share[name] for share in shares) / len(shares) for name in shares[0]}
        output.with_suffix(".json").write_text(json.dumps({"losses": means, "results": results}))
        gradients = {
            name: parameter.grad.numpy()
            for name, parameter in bare.named_parameters()
            if parameter.grad is not None
        }
        np.savez(output, **gradients)


def main(engine: str, data: str, tests: str, folder: str, *configs: str) -> None:
    torch.set_num_threads(1)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    for config in map(Path, configs):
        measure(engine, config, data, tests, Path(folder) / f"{get_world_size()}_{config.stem}.npz")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
