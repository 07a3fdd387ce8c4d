"""What the two branches cost: a pretraining step beside one of stock Mask R-CNN.

In operations, which any machine counts alike; ``tools/benchmark_speed.py`` measures the time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytestmark = pytest.mark.detectron2


def operations_of_a_step(cfg: Any, batch: Any) -> int:
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)
    model = build_model(cfg)
    with EventStorage(), FlopCounterMode(display=False) as counter:
        torch.manual_seed(1)  # the same proposals
        sum(model(batch).values()).backward()
    return counter.get_total_flops()


def test_a_pretraining_step_costs_little_more_than_mask_rcnn(repository_root: Path) -> None:
    from benchmark_steps import make_mapper
    from mrssl.config import load_cfg, with_values
    from mrssl.engines.detectron2 import MRIDatasetMapper, get_cfg

    file = repository_root / "configs/pretrain/distortion_R_18_FPN_small.yaml"
    cfg = load_cfg(file, ["MODEL.DEVICE", "cpu"], cfg=get_cfg())
    stock = with_values(cfg, {"MODEL.ROI_HEADS.NAME": "StandardROIHeads"})
    mapper, records = make_mapper(cfg, 224)
    batch = [MRIDatasetMapper(mapper)(record, epoch=0) for record in records[:4]]
    ours, theirs = operations_of_a_step(cfg, batch), operations_of_a_step(stock, batch)
    assert 1.0 < ours / theirs <= 1.15
