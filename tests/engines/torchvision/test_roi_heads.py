"""How many detections a slice keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mrssl.config import load_cfg
from mrssl.engines.torchvision.roi_heads import build_roi_heads


@pytest.mark.parametrize(("most", "kept"), [(-1, 6), (0, 0), (4, 4), (9, 6)])
def test_a_negative_number_of_detections_means_all(
    repository_root: Path, most: int, kept: int
) -> None:
    file = repository_root / "configs/finetune/mask_R_18_FPN_small.yaml"
    options = ["TEST.DETECTIONS_PER_IMAGE", str(most), "MODEL.ROI_HEADS.NUM_CLASSES", "1"]
    heads = build_roi_heads(load_cfg(file, options), 0)
    corner = 15.0 * torch.arange(6)[:, None]
    apart = torch.cat([corner, corner, corner + 10, corner + 10], 1)
    logits = torch.tensor([[0.0, 5.0]]).expand(6, -1)
    boxes, _, _ = heads.postprocess_detections(logits, torch.zeros(6, 8), [apart], [(99, 99)])
    assert len(boxes[0]) == kept
