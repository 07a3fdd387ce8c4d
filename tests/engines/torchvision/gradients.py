"""Losses, gradients and an evaluation, by one process or by several; see its caller."""

from __future__ import annotations

import json
import os
import sys
import tempfile

import numpy as np
import torch
import torch.distributed as dist

from mrssl.config import load_cfg
from mrssl.engines.distributed import gather_objects, get_rank, get_world_size
from mrssl.engines.torchvision import Trainer
from mrssl.engines.torchvision.batches import collate


def main(config: str, data: str, output: str) -> None:
    torch.set_num_threads(1)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{data}:train',)", "OUTPUT_DIR", folder,
            "DATASETS.TEST", f"('{data}:test',)",
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
    shares = gather_objects({name: float(loss.detach()) for name, loss in losses.items()})
    results = trainer.evaluate()
    if get_rank() == 0:
        means = {name: sum(share[name] for share in shares) / len(shares) for name in shares[0]}
        with open(f"{output}.json", "w") as file:
            json.dump({"losses": means, "results": results}, file)
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
