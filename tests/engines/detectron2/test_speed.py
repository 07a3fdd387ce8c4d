"""What the two branches cost: a pretraining step beside one of stock Mask R-CNN."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.detectron2, pytest.mark.slow]


def test_a_pretraining_step_costs_little_more_than_mask_rcnn(repository_root: Path) -> None:
    from benchmark_detectron2 import benchmark_detectron2

    file = repository_root / "configs/pretrain/distortion_R_18_FPN_small.yaml"
    assert benchmark_detectron2(file, rounds=5)["step_ratio_detectron2"] <= 1.15
