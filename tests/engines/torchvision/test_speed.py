"""What pretraining costs: the mapper's pace, and a step beside one of stock Mask R-CNN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmark_speed import time_mapper, torchvision_pair
from mrssl.config import load_cfg


@pytest.fixture
def cfg(repository_root: Path):
    file = repository_root / "configs/pretrain/distortion_R_18_FPN_small.yaml"
    return load_cfg(file, ["MODEL.DEVICE", "cpu"])


def test_a_pretraining_step_costs_little_more_than_mask_rcnn(cfg) -> None:
    """In operations, which any machine counts alike."""
    torch.manual_seed(0)
    counted = []
    for _, losses in torchvision_pair(cfg):
        with FlopCounterMode(display=False) as counter:
            torch.manual_seed(1)  # the same proposals
            sum(losses().values()).backward()
        counted.append(counter.get_total_flops())
    ours, stock = counted
    assert 1.0 < ours / stock <= 1.25


def test_one_core_feeds_a_gpu(cfg) -> None:
    """In processor time, which others on the machine do not take much of."""
    assert time_mapper(cfg, seconds=1.0) >= 150
