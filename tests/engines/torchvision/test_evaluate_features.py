"""The linear probe: finds what is there to be found, and nothing in noise."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import evaluate_features
from evaluate_features import Slice, probe
from mrssl.config import load_cfg
from mrssl.engines.torchvision import build_model
from mrssl.errors import MrsslError

from .conftest import arguments, save_pretrained

CONFIG = "configs/quick_schedules/finetune_R_18_FPN.yaml"


def slices() -> list[Slice]:
    """Of eight subjects, each with another disc."""
    grid = torch.arange(24)
    found = []
    for number in range(8):
        distance = (grid[:, None] - 8 - number) ** 2 + (grid[None] - 12) ** 2
        found.append(Slice({}, distance < 36, torch.zeros(0, 4), f"s{number}"))
    return found


@pytest.mark.parametrize(("signal", "least", "most"), [(1.0, 0.95, 1.0), (0.0, 0.1, 0.5)])
def test_the_probe_finds_a_direction_and_no_noise(signal: float, least: float, most: float) -> None:
    torch.manual_seed(0)
    direction = torch.randn(12, dtype=torch.float64)
    features = [
        signal * one.foreground.flatten()[:, None] * direction
        + 0.1 * torch.randn(24 * 24, 12, dtype=torch.float64)
        for one in slices()
    ]
    scores = probe(features, slices(), folds=4)
    assert len(scores) == 4
    assert least <= min(scores) and max(scores) <= most


@pytest.mark.parametrize("slices", [1, 2, 3, 7])
def test_as_many_slices_as_asked_for_are_read_if_there_are(
    slices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {"one": 1, "two": 2, "three": 3, "many": 40, "none": 0}
    records = [
        {"subject_id": subject, "masks": [()] * (place < count)}
        for subject, count in shown.items()
        for place in range(count + 1)  # the last shows nothing
    ]
    monkeypatch.setattr(evaluate_features, "_slice", lambda sample, subject: sample)
    data = SimpleNamespace(test=records, test_mapper=lambda record: record)
    found = evaluate_features.read_slices(data, slices)
    assert len({id(sample) for sample in found}) == len(found)
    assert all(sample["masks"] for sample in found)
    of = [sample["subject_id"] for sample in found]
    assert {s: of.count(s) for s in shown} == {s: min(n, slices) for s, n in shown.items()}


@pytest.fixture(scope="module")
def weights(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = load_cfg(repository_root / CONFIG, ["MODEL.DEVICE", "cpu"])
    torch.manual_seed(1)
    model = build_model(cfg)
    with torch.no_grad():  # a box head that says nothing
        model.roi_heads.box_head.fc7.bias.fill_(-1e3)
    return save_pretrained(tmp_path_factory.mktemp("weights") / "model.pth", model, cfg)


def test_the_command_compares_with_an_untrained_model(
    repository_root: Path, weights: Path, phantom: Path, tmp_path: Path
) -> None:
    given = arguments(repository_root / CONFIG, weights, f"{phantom}:train", tmp_path / "out")
    evaluate_features.main(
        [*given, "--slices", "2", "--folds", "2", "--opts", "MODEL.DEVICE", "cpu"]
    )
    content = json.loads((tmp_path / "out" / "features.json").read_text())
    assert [row["weights"] for row in content["rows"]] == ["untrained", str(weights)]
    assert [row["silent"] for row in content["rows"]][1] == 1.0 > content["rows"][0]["silent"]
    assert all(len(row["dice"]) == 2 for row in content["rows"])
    assert "| untrained " in (tmp_path / "out" / "features.md").read_text()


def test_more_folds_than_subjects_are_told(
    repository_root: Path, weights: Path, phantom: Path, tmp_path: Path
) -> None:
    given = arguments(repository_root / CONFIG, weights, f"{phantom}:train", tmp_path)
    with pytest.raises(MrsslError, match="subjects with labels for 99 folds"):
        evaluate_features.main([*given, "--folds", "99", "--opts", "MODEL.DEVICE", "cpu"])
