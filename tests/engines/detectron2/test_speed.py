"""What the two branches cost: a pretraining step beside one of stock Mask R-CNN."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from .conftest import MakeConfig

pytestmark = [pytest.mark.detectron2, pytest.mark.slow]

LIMIT = 1.15
ROUNDS = 5


def step(model: Any, batch: Any, optimizer: Any) -> float:
    """Processor seconds of one iteration: what else the machine does does not count."""
    start = time.process_time()
    optimizer.zero_grad(set_to_none=True)
    sum(model(batch).values()).backward()
    optimizer.step()
    return time.process_time() - start


def test_a_pretraining_step_costs_little_more_than_mask_rcnn(
    make_config: MakeConfig, repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from mrssl.config import load_cfg
    from mrssl.engines.datasets import RunData
    from mrssl.engines.detectron2 import MRIDatasetMapper, get_cfg

    file = repository_root / "configs/pretrain/distortion_R_18_FPN_small.yaml"
    options = ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{phantom}:train',)"]
    cfg = load_cfg(file, options, cfg=get_cfg())
    stock = cfg.clone()
    stock.defrost()
    stock.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    data = RunData(cfg)
    mapper = MRIDatasetMapper(data.train_mapper)
    batch = [mapper(record, epoch=0) for record in data.train[1:24:6]]
    torch.manual_seed(0)
    models = [build_model(c) for c in (cfg, stock)]
    models[1].load_state_dict(models[0].state_dict(), strict=False)
    optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-5) for model in models]
    seconds: list[list[float]] = [[], []]
    with EventStorage():
        for turn in range(ROUNDS + 1):
            for i in (0, 1):  # by turns, so that both meet the same conditions
                torch.manual_seed(turn)  # the same proposals
                seconds[i].append(step(models[i], batch, optimizers[i]))
    ours, theirs = (min(times[1:]) for times in seconds)
    assert ours <= LIMIT * theirs, f"{ours:.3f} s against {theirs:.3f} s: {ours / theirs:.3f} x"
