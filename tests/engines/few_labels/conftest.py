from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from few_labels_plan import Plan
from few_labels_yaml import load_plan

QUICK = "configs/quick_schedules"


def plan_content() -> dict[str, Any]:
    """A plan over the phantom: three training subjects, one test subject."""
    few = {"SOLVER.MAX_ITER": 4, "SOLVER.WARMUP_ITERS": 1}
    return {
        "dataset": "phantom",
        "labeled": [1, 2, "all"],
        "seeds": 3,
        "validation": {"subjects": 1, "period": 2},
        "pretrain": {"config": f"{QUICK}/pretrain_R_18_FPN.yaml", "opts": few},
        "pretrainings": {"mrssl": {}, "blind": {"opts": {"MRSSL.TYPE_HEAD.LOSS_WEIGHT": 0.0}}},
        "finetune": {"config": f"{QUICK}/finetune_R_18_FPN.yaml"},
        "schedules": {n: few for n in (1, 2, "all")},
        "arms": {
            "scratch": {},
            "mrssl": {"weights": "mrssl"},
            "blind": {"weights": "blind", "labeled": [2], "seeds": 2},
            "imagenet": {"weights": "imagenet"},
        },
        "tune": {
            "labeled": [1],
            "folds": 3,
            "grids": {"scratch": {"SOLVER.BASE_LR": [0.001, 0.01], "SOLVER.MAX_ITER": [2, 4]}},
        },
    }


@pytest.fixture
def write_plan(tmp_path: Path) -> Callable[..., Path]:
    """Write the plan with other values for some of its keys."""

    def write(**changes: Any) -> Path:
        path = tmp_path / "plan.yaml"
        path.write_text(yaml.safe_dump(plan_content() | changes, sort_keys=False))
        return path

    return write


@pytest.fixture
def plan(write_plan: Callable[..., Path]) -> Plan:
    return load_plan(write_plan())


@pytest.fixture
def data(phantom: Path, tmp_path: Path) -> Path:
    """The folder that holds the phantom's under the name that the plan has for it."""
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "phantom").symlink_to(phantom.parent)
    return folder
