"""The command line in one process and in two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from mrssl.checkpoint import load_checkpoint
from mrssl.errors import MrsslError

from .conftest import PRETRAIN, losses, tensors_equal

pytestmark = pytest.mark.detectron2


def train_net(root: Path, *arguments: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(root / "tools" / "train_net.py"), "--engine", "detectron2"]
    return subprocess.run(
        [*command, *map(str, arguments)], env=environment, text=True, capture_output=True,
        timeout=300, check=False,
    )  # fmt: skip


def test_two_processes_train_evaluate_and_resume(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    common = [
        "--config-file", repository_root / PRETRAIN, "--num-gpus", 2, "--dist-url", "auto",
    ]  # fmt: skip
    options = [
        "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{phantom}:train',)",
        "DATASETS.TEST", f"('{phantom}:test',)", "OUTPUT_DIR", tmp_path,
        "SOLVER.MAX_ITER", 4, "SOLVER.CHECKPOINT_PERIOD", 2,
    ]  # fmt: skip
    done = train_net(repository_root, *common, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    first = json.loads((tmp_path / "inference" / "results.json").read_text())
    final = load_checkpoint(tmp_path / "model_final.pth")["model"]
    assert sorted(losses(tmp_path)) == [0, 1, 2, 3]
    assert (tmp_path / "log.txt.rank1").exists()

    # Again from the checkpoint of two iterations, after everything later is gone.
    for name in ("model_final.pth", "model_0000003.pth", "model_best.pth", "last_checkpoint"):
        (tmp_path / name).unlink()
    done = train_net(repository_root, *common, "--resume", *options)
    assert done.returncode == 0, done.stderr[-2000:]
    assert sorted(losses(tmp_path)) == [0, 1, 2, 3]
    tensors_equal(load_checkpoint(tmp_path / "model_final.pth")["model"], final, atol=1e-5)
    second = json.loads((tmp_path / "inference" / "results.json").read_text())
    assert second["restoration"]["PSNR"] == pytest.approx(first["restoration"]["PSNR"], abs=1e-3)


def test_a_fault_in_a_child_process_is_one_line(repository_root: Path, tmp_path: Path) -> None:
    done = train_net(
        repository_root, "--config-file", repository_root / PRETRAIN, "--num-gpus", 2,
        "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", "('nowhere',)", "OUTPUT_DIR", tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: nowhere")
    assert "Traceback" not in done.stderr


def test_the_peer_pretext_is_refused_in_a_line(repository_root: Path) -> None:
    from mrssl.engines.detectron2 import launch

    file = repository_root / "configs/pretrain/whole_slice_R_18_FPN_small.yaml"
    args = Namespace(config_file=str(file), opts=[], num_gpus=1, num_machines=1)
    with pytest.raises(MrsslError, match="--engine torchvision"):
        launch(args)
