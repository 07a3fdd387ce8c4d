"""Shared by the tests of the embedded engine."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from mrssl.checkpoint import Provenance, save_checkpoint, to_detectron2
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


def save_pretrained(path: Path, model: nn.Module, cfg: Any, type_names: Sequence[str] = ()) -> Path:
    """A checkpoint as a pretraining leaves it."""
    provenance = Provenance.from_config(
        cfg, task="pretrain", class_names=["distorted"], type_names=type_names
    )
    content = {"model": to_detectron2(model.state_dict()), "mrssl": provenance.to_dict()}
    save_checkpoint(path, content)
    return path


def arguments(config: Path, weights: Path, dataset: str, output: Path) -> list[str]:
    """The command line of a tool that uses a checkpoint on a data set."""
    named = {"--config-file": config, "--weights": weights, "--dataset": dataset}
    return [*(str(part) for pair in named.items() for part in pair), "--output", str(output)]
