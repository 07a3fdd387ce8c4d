"""Shared by the tests of the Detectron2 engine; all of them need Detectron2."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mrssl.config import load_cfg

PRETRAIN = "configs/quick_schedules/pretrain_R_18_FPN.yaml"
FINETUNE = "configs/quick_schedules/finetune_R_18_FPN.yaml"

MakeConfig = Callable[..., Any]

LOSSES = {
    "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_type",
    "loss_restoration",
}  # fmt: skip


@pytest.fixture(scope="session")
def make_config(repository_root: Path, phantom: Path) -> MakeConfig:
    """``make_config("pretrain" | "finetune", output, KEY, VALUE, ...)``: frozen, on the phantom."""
    from mrssl.engines.detectron2 import get_cfg

    def make(task: str, output: Path, *overrides: Any) -> Any:
        file = {"pretrain": PRETRAIN, "finetune": FINETUNE}[task]
        options = [
            "MODEL.DEVICE", "cpu",
            "DATASETS.TRAIN", f"('{phantom}:train',)",
            "DATASETS.TEST", f"('{phantom}:test',)",
            "OUTPUT_DIR", str(output),
            *map(str, overrides),
        ]  # fmt: skip
        return load_cfg(repository_root / file, options, cfg=get_cfg())

    return make


def run(cfg: Any, **flags: bool) -> Any:
    """What ``tools/train_net.py`` does in each process."""
    from mrssl.engines.detectron2.run import main

    return main(
        cfg, Namespace(**({"resume": False, "eval_only": False, "config_file": ""} | flags))
    )


@pytest.fixture(scope="session")
def pretrained(make_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted small pretraining run, evaluated every three iterations."""
    folder = tmp_path_factory.mktemp("pretrained")
    run(make_config("pretrain", folder, "TEST.EVAL_PERIOD", 3))
    return folder


def tensors_equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], atol: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=atol, rtol=0.0, msg=name)


def rows(folder: Path) -> list[dict[str, Any]]:
    def no_constant(text: str) -> None:
        raise ValueError(f"{text} is no JSON")

    lines = (folder / "metrics.json").read_text().splitlines()
    return [json.loads(line, parse_constant=no_constant) for line in lines]


def losses(folder: Path) -> dict[int, dict[str, float]]:
    return {r["iteration"]: {k: r[k] for k in LOSSES} for r in rows(folder) if "loss_cls" in r}
