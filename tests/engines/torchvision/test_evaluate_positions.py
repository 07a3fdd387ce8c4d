"""What a model says of positions, against those who know less; with a real, untrained model."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import evaluate_positions
from mrssl.config import load_cfg
from mrssl.engines.torchvision import build_model
from mrssl.errors import MrsslError

from .conftest import arguments, save_pretrained

CONFIG = "configs/quick_schedules/pretrain_R_18_FPN.yaml"
OPTIONS = (
    "MRSSL.PRETEXT.DISTORTIONS", "('gamma',)", "MRSSL.POSITION_HEAD.LOSS_WEIGHT", "1.0",
    "MRSSL.AUGMENT.PRETRAIN", "True", "INPUT.CROP.ENABLED", "True",
    "INPUT.CROP.TYPE", "relative_range", "INPUT.CROP.SIZE", "(0.5,0.5)", "MODEL.DEVICE", "cpu",
)  # fmt: skip


def test_who_knows_more_is_nearer() -> None:
    offsets = np.array([[-10.0, -5.0, 0.0], [10.0, 5.0, 0.0]])
    windows = [("a", np.array([20.0, 0.0, 4.0])), ("b", np.array([-20.0, 0.0, -4.0]))]
    found = [(who, place + offsets + 1.0, place + offsets) for who, place in windows]
    table = evaluate_positions.distances(found)
    np.testing.assert_allclose(table["model"], [1.0, 1.0, 1.0])
    np.testing.assert_allclose(table["place in the window"], [20.0, 0.0, 4.0])
    np.testing.assert_allclose(table["middle of all"], [20.0, 5.0, 4.0])


def test_squares_lie_in_the_window() -> None:
    boxes = evaluate_positions.squares(100, 60)
    assert boxes.shape == (16, 4) and boxes.min() > 0
    assert boxes[:, [0, 2]].max() < 60 and boxes[:, [1, 3]].max() < 100
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], torch.full((16, 2), 9.0))


@pytest.fixture(scope="module")
def weights(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = load_cfg(repository_root / CONFIG, list(OPTIONS))
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    return save_pretrained(path, build_model(cfg, 1), cfg, ("gamma",))


def test_the_command_writes_table_picture_and_distances(
    repository_root: Path, weights: Path, phantom: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "out"
    evaluate_positions.main(
        [
            *arguments(repository_root / CONFIG, weights, f"{phantom}:test", output),
            "--slices",
            "3",
            *OPTIONS,
        ]
    )
    content = json.loads((output / "positions.json").read_text())
    assert content["slices"] == 3 and len(content["distance_mm_per_subject"]) == 1
    # Untrained, it says the middle of the volume.
    distance = content["distance_mm"]
    np.testing.assert_allclose(distance["model"], distance["middle of all"], rtol=0.5)
    assert "| place in the window " in (output / "positions.md").read_text()
    assert cv2.imread(str(output / "positions.png")).std() > 5
    figures, picture = ((output / f"positions.{kind}").stat() for kind in ("json", "png"))
    assert figures.st_mtime_ns < picture.st_mtime_ns  # which may fail


@pytest.mark.parametrize(
    ("slices", "extra", "message"),
    [
        ("0", (), "slices"),
        ("3", ("MRSSL.POSITION_HEAD.LOSS_WEIGHT", "0.0"), "no position branch"),
    ],
)
def test_what_cannot_be_evaluated_is_told(
    slices: str,
    extra: tuple[str, ...],
    message: str,
    repository_root: Path,
    weights: Path,
    phantom: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("matplotlib")
    given = [*arguments(repository_root / CONFIG, weights, f"{phantom}:test", tmp_path), "--slices"]
    with pytest.raises(MrsslError, match=message):
        evaluate_positions.main([*given, slices, *OPTIONS, *extra])
