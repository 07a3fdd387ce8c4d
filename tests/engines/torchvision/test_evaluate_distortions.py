"""The sweep over types and severities, with a model that knows the answer and with a real one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import evaluate_distortions
from distortion_report import Sweep, format_sweep
from mrssl.config import load_cfg
from mrssl.engines.datasets import RunData
from mrssl.engines.torchvision import build_model
from mrssl.errors import MrsslError

from .conftest import arguments, save_pretrained

CONFIG = "configs/quick_schedules/pretrain_R_18_FPN.yaml"
TYPES = ("gamma", "inpainting", "rotation")
OPTIONS = ("MRSSL.PRETEXT.DISTORTIONS", repr(TYPES))


class KnowsTheAnswer(torch.nn.Module):
    """Finds, names and restores every region in which a pixel changed, and nothing else."""

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        return [self._find(item["targets"]) for item in inputs]

    def _find(self, targets: dict[str, Any]) -> dict[str, torch.Tensor]:
        seen = targets["masks"].flatten(1).any(1)
        return {
            "boxes": targets["boxes"][seen],
            "scores": torch.ones(int(seen.sum())),
            "classes": torch.zeros(int(seen.sum()), dtype=torch.int64),
            "type_scores": targets["types"][seen],
            "restored": targets["restoration"].pixels[1],
        }


def test_all_is_found_at_severity_one_and_nothing_at_zero(
    repository_root: Path, phantom: Path
) -> None:
    options = ["MODEL.DEVICE", "cpu", "DATASETS.TEST", f"('{phantom}:test',)", *OPTIONS]
    data = RunData(load_cfg(repository_root / CONFIG, options), training=False)
    found = evaluate_distortions.sweep(KnowsTheAnswer(), data, [1.0, 0.0], slices=5)
    assert list(found.results) == [0.0, 1.0] and found.slices == 5
    assert found.recall()[:, 0].tolist() == [0.0] * 3
    assert (found.recall()[:, 1] > 0.9).all()
    strongest = found.results[1.0]
    for name in TYPES:
        assert strongest["localization"][f"AP50-{name}"] > 0.9
        assert strongest["type"][f"AP-{name}"] > 0.9
        assert strongest["restoration"][f"PSNR-gain-{name}"] > 5
    assert found.results[0.0]["localization"]["false-detections"] == 0.0
    text = format_sweep(found)
    assert "3 of 3 types." in text and "0.000 of the regions are met by chance" in text


@pytest.mark.parametrize("size", ["0", "160"])
def test_what_lies_on_an_unchanged_region_is_found_by_chance(
    repository_root: Path, phantom: Path, size: str
) -> None:
    """The regions are where they would have been distorted, also in slices that are enlarged."""
    options = ["MODEL.DEVICE", "cpu", "DATASETS.TEST", f"('{phantom}:test',)", *OPTIONS]
    options += ["INPUT.MIN_SIZE_TEST", size, "INPUT.MAX_SIZE_TEST", "320"]
    data = RunData(load_cfg(repository_root / CONFIG, options), training=False)
    probe = evaluate_distortions.UnchangedProbe(data.test_mapper, 0.0, 1000)
    strong = evaluate_distortions.Probe(data.test_mapper, 1.0, 1000)
    sides = []
    for record in data.test[::3]:
        sample, distorted = (p({**record, "probe": 1}) for p in (probe, strong))
        assert bool(sample["view"]["enlarged"]) == (size == "160")
        assert not sample["masks"].any() and len(sample["boxes"]) == len(distorted["boxes"])
        for whole, tight in zip(sample["boxes"], distorted["boxes"], strict=True):
            assert (whole[:2] <= tight[:2] + 1).all() and (tight[2:] <= whole[2:] + 1).all()
            sides.append((tight[2:] - tight[:2]) / (whole[2:] - whole[:2]))
    assert np.median(sides) > 0.8


def test_the_report_names_what_is_not_found() -> None:
    results = {
        s: {
            "localization": {"recall-a": s, "recall-b": 0.4 * s, "AP50-a": 1.0, "AP50-b": 0.2},
            "type": {"AP-a": 0.8, "AP-b": float("nan")},
            "restoration": {
                "PSNR-a": 30.0, "PSNR-b": 20.0, "PSNR-gain-a": 5.0, "PSNR-gain-b": -1.0
            },
        }
        for s in (0.5, 1.0)
    }  # fmt: skip
    text = format_sweep(Sweep(["a", "b"], results, slices=7))
    assert "1 of 2 types; not found: b." in text
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[-3:]]
    assert rows[0] == ["a", "1.00", "0.80", "25.00", "5.00", "0.50", "1.00"]
    assert rows[1] == ["b", "0.20", "-", "21.00", "-1.00", "0.20", "0.40"]
    assert rows[2][:3] == ["mean", "0.60", "0.80"]


@pytest.fixture(scope="module")
def weights(repository_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cfg = load_cfg(repository_root / CONFIG, list(OPTIONS))
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "model.pth"
    return save_pretrained(path, build_model(cfg, len(TYPES)), cfg, TYPES)


def test_the_command_writes_table_picture_and_figures(
    repository_root: Path, weights: Path, phantom: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    evaluate_distortions.main(
        [
            *arguments(repository_root / CONFIG, weights, f"{phantom}:test", tmp_path / "out"),
            "--slices", "2", "--severities", "0,1", "MODEL.DEVICE", "cpu", *OPTIONS,
        ]
    )  # fmt: skip
    text = (tmp_path / "out" / "distortions.md").read_text()
    assert all(f"| {name} " in text for name in TYPES)
    assert cv2.imread(str(tmp_path / "out" / "distortions.png")).std() > 5
    figures, picture = (
        (tmp_path / "out" / f"distortions.{kind}").stat() for kind in ("json", "png")
    )
    assert figures.st_mtime_ns < picture.st_mtime_ns  # which may fail
    content = json.loads((tmp_path / "out" / "distortions.json").read_text())
    assert set(content["severities"]) == {"0", "1"} and content["slices"] == 2
    recall = content["severities"]["1"]["localization"]["recall-gamma"]
    assert np.isfinite(recall)
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--slices", "0"], "slices"),
        (["MODEL.ROI_HEADS.NAME", "StandardROIHeads"], "pretext"),
        (["MRSSL.PRETEXT.DISTORTIONS", "('gamma', 'swirl')"], "gamma, inpainting"),
    ],
)
def test_what_cannot_be_evaluated_is_told(
    extra: list[str],
    message: str,
    repository_root: Path,
    weights: Path,
    phantom: Path,
    tmp_path: Path,
) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(MrsslError, match=message):
        evaluate_distortions.main(
            [
                *arguments(repository_root / CONFIG, weights, f"{phantom}:test", tmp_path / "out"),
                *extra,
            ]
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["2", "0,-1", "0;1", "nan"])
def test_severities_out_of_range_are_a_wrong_argument(
    text: str, repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as caught:
        evaluate_distortions.main(
            [
                *arguments(repository_root / CONFIG, tmp_path, f"{phantom}:test", tmp_path / "out"),
                "--severities",
                text,
            ]
        )
    assert caught.value.code == 2
