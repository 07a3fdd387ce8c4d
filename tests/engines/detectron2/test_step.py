from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from .conftest import MakeConfig

pytestmark = pytest.mark.detectron2


def test_boxes_reach_roi_align_unrounded_in_mixed_precision(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectron2.utils.events import EventStorage

    from mrssl.engines.detectron2 import MRITrainer

    cfg = make_config(
        "finetune", tmp_path, "SOLVER.AMP.ENABLED", True, "MRSSL.SOLVER.AMP_DTYPE", "bfloat16"
    )
    step = MRITrainer(cfg)._trainer
    layer = sys.modules["detectron2.layers.roi_align"]
    pool, seen = layer.roi_align, []

    def spy(features: Tensor, rois: Tensor, *arguments: Any, **keywords: Any) -> Tensor:
        seen.append(rois)
        return pool(features, rois, *arguments, **keywords)

    monkeypatch.setattr(layer, "roi_align", spy)
    levels: set[torch.dtype] = set()
    step.model.backbone.register_forward_hook(
        lambda module, inputs, features: levels.update(x.dtype for x in features.values())
    )
    with EventStorage():
        step.update(next(iter(step.data_loader)), 0)
    assert levels == {torch.bfloat16}
    boxes = torch.cat([rois[:, 1:] for rois in seen])
    assert boxes.dtype == torch.float32
    assert not torch.equal(boxes, boxes.bfloat16().float())
