"""Feature levels and anchors that Detectron2 takes are not refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrssl.config import load_cfg
from mrssl.engines.pyramid import check_pyramid

SIZES, RATIOS = "MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"
LEVELS, OTHER = "MODEL.RPN.IN_FEATURES", "['res4']"


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (LEVELS, "['p2', 'p4', 'p6']", SIZES, "[[8], [32], [128]]"),
        (
            SIZES,
            "[[8, 16], [32], [64], [99], [256]]",
            RATIOS,
            "[[1], [1, 2], [1, 2], [1, 2], [1, 3]]",
        ),
        ("MODEL.META_ARCHITECTURE", "RetinaNet", LEVELS, OTHER),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals", LEVELS, OTHER),
        ("MODEL.BACKBONE.NAME", "build_resnet_backbone", "MODEL.ROI_HEADS.IN_FEATURES", OTHER),
        ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "-1"),
    ],
)
def test_what_detectron2_takes(repository_root: Path, overrides: tuple[str, ...]) -> None:
    file = repository_root / "configs/finetune/mask_R_18_FPN_small.yaml"
    check_pyramid(load_cfg(file, list(overrides)))
