"""Gradients of one iteration on a batch of four, by one process or by several; see its caller."""

from __future__ import annotations

import os
import sys
import tempfile

import numpy as np
import torch
import torch.distributed as dist

from mrssl.config import load_cfg
from mrssl.engines.distributed import get_rank, get_world_size
from mrssl.engines.torchvision import Trainer
from mrssl.engines.torchvision.batches import collate


def main(config: str, data: str, output: str) -> None:
    torch.set_num_threads(1)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{data}:train',)", "OUTPUT_DIR", folder,
            "SOLVER.IMS_PER_BATCH", "4", "MRSSL.PRETEXT.CLEAN_SHARE", "0.4",
            # The statistics of batch norm are each process's own.
            "MODEL.RESNETS.NORM", "GN", "MODEL.FPN.NORM", "GN",
            "MRSSL.DISTORTION_HEAD.NORM", "GN",
        ]  # fmt: skip
        trainer = Trainer(load_cfg(config, overrides))
    loader = trainer.data.train_loader(
        start_iteration=3, rank=get_rank(), world_size=get_world_size(), collate=collate
    )
    losses = trainer.wrapped(next(iter(loader)))
    sum(losses.values()).backward()
    if get_rank() == 0:
        gradients = {
            name: parameter.grad.numpy()
            for name, parameter in trainer.model.named_parameters()
            if parameter.grad is not None
        }
        np.savez(output, **gradients)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
