"""Shared by the tests of the embedded engine."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from mrssl.config import load_cfg
from mrssl.engines.torchvision import main

PRETRAIN = "configs/quick_schedules/pretrain_R_18_FPN.yaml"
FINETUNE = "configs/quick_schedules/finetune_R_18_FPN.yaml"


def config(root: Path, file: str, data: Path, output: Path, *overrides: Any) -> Any:
    return load_cfg(
        root / file,
        [
            "MODEL.DEVICE", "cpu",
            "DATASETS.TRAIN", f"('{data}:train',)",
            "DATASETS.TEST", f"('{data}:test',)",
            "OUTPUT_DIR", str(output),
            *map(str, overrides),
        ],
    )  # fmt: skip


def run(cfg: Any, **flags: bool) -> Any:
    return main(cfg, Namespace(**({"resume": False, "eval_only": False} | flags)))


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
