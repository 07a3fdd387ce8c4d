from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import benchmark_few_labels
from few_labels import run as few_labels_run
from few_labels.bench import Bench
from few_labels.plan import Plan, Run
from few_labels.plan_file import load_plan
from mrssl.errors import MrsslError

RESULTS = {
    "dice": {
        "dice": 0.5, "foreground": 0.7, "instances": 0.6, "slicewise": 0.4,
        "dice-small": 0.4, "dice-large": 0.6,
    },
    "hd95": {"hd95": 3.0, "missed": 1.0},
    "segm": {"AP": 0.3, "AP50": 0.6},
}  # fmt: skip


class Trainings:
    """Stands in for tools/train_net.py: leaves its files, and counts."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.fail = False

    def __call__(self, argv: Sequence[str]) -> int:
        self.calls.append(list(argv))
        folder = Path(argv[argv.index("OUTPUT_DIR") + 1])
        (folder / "inference").mkdir(parents=True, exist_ok=True)
        if "--eval-only" in argv:
            if self.fail:
                raise MrsslError("the lights went out")
            assert Path(argv[argv.index("MODEL.WEIGHTS") + 1]).is_file()
            (folder / "inference" / "results.json").write_text(json.dumps(RESULTS))
            subject = {"subject3": {"volumes": 1, "dice": {"dice": 0.5}}}
            (folder / "inference" / "per_subject.json").write_text(json.dumps(subject))
        else:
            (folder / "model_final.pth").write_bytes(b"weights")
            lines = [{"iteration": 1, "total_loss": 1.0}, {"iteration": 2, "dice/dice": 0.4}]
            (folder / "metrics.json").write_text("".join(json.dumps(x) + "\n" for x in lines))
        return 0


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


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    fake = Trainings()
    monkeypatch.setattr(few_labels_run.train_net, "main", fake)
    return fake


@pytest.fixture
def bench(plan: Plan, data: Path, tmp_path: Path) -> Bench:
    return Bench(plan, data, tmp_path / "out", device="cpu")


def run_of(bench: Bench, run_id: str) -> Run:
    return benchmark_few_labels._by_id(bench, run_id)
