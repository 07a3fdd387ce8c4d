"""Half precision is for features; boxes stay exact, as Detectron2 has them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mrssl.engines.torchvision import Trainer
from mrssl.engines.torchvision.batches import collate

from .conftest import PRETRAIN, config


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_boxes_are_exact_under_mixed_precision(
    repository_root: Path, phantom: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    trainer = Trainer(config(repository_root, PRETRAIN, phantom, tmp_path))
    samples = trainer.data.train_loader(start_iteration=0, collate=collate)
    inputs = next(samples)
    for item in inputs:
        item["targets"]["boxes"] = item["targets"]["boxes"] + 0.3  # no number of half precision
    seen: dict[str, list[torch.Tensor]] = {}
    heads = trainer.model.roi_heads
    select = heads.select_training_samples

    def watched(proposals, targets):  # type: ignore[no-untyped-def]
        result = select(proposals, targets)
        seen.update(true=[t["boxes"] for t in targets], proposals=result[0], deltas=result[3])
        return result

    heads.select_training_samples = watched
    with torch.autocast("cpu", dtype):
        trainer.model(inputs)
    assert all(boxes.dtype == torch.float32 for found in seen.values() for boxes in found)
    anchors = trainer.model.rpn.anchor_generator.cell_anchors
    assert all(level.dtype == torch.float32 for level in anchors)
    # torchvision adds the true boxes to the proposals: those that are sampled are as they were.
    kept = [
        (proposals[:, None] == true[None]).all(-1).any()
        for proposals, true in zip(seen["proposals"], seen["true"], strict=True)
        if len(true)
    ]
    assert kept and all(kept)
