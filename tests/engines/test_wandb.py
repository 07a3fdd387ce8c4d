"""Weights & Biases, which is not installed here: its interface stands in for it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mrssl.config import get_cfg
from mrssl.engines.writers import WandB
from mrssl.errors import MissingDependencyError


def config(folder: Path) -> Any:
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder / "run7")
    cfg.MRSSL.WANDB_PROJECT = "knees"
    return cfg


def test_figures_and_pictures_go_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[tuple[dict[str, Any], int]] = []
    begun: list[dict[str, Any]] = []
    module: Any = ModuleType("wandb")
    run = SimpleNamespace(
        log=lambda values, step: logged.append((values, step)),
        finish=lambda: logged.append(({}, -1)),
    )
    module.init = lambda **options: begun.append(options) or run
    module.Image = lambda image: image.shape
    monkeypatch.setitem(sys.modules, "wandb", module)
    for _ in range(2):
        board = WandB(config(tmp_path))
    board.write(3, {"total_loss": 1.5})
    board.picture(3, "samples", np.zeros((4, 6, 3), np.uint8))
    board.close()
    assert logged == [({"total_loss": 1.5}, 3), ({"samples": (4, 6, 3)}, 3), ({}, -1)]
    assert begun[0]["project"] == "knees"
    assert begun[0]["name"] == "run7"
    assert begun[0]["id"] == begun[1]["id"]  # a resumed run is the same one
    assert begun[0]["config"]["MRSSL"]["WANDB_PROJECT"] == "knees"


def test_asked_for_and_not_installed_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingDependencyError, match="pip install wandb"):
        WandB(config(tmp_path))
