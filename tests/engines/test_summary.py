"""``summary.html`` of either engine: it may be sent to anybody."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pydicom
import pytest

import train_net
from mrssl.config import load_cfg
from mrssl.engines.summary import write_summary
from mrssl.privacy import patient_marks

PRETRAIN = "configs/quick_schedules/pretrain_R_18_FPN.yaml"
BOTH = ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)]


@pytest.mark.slow
@pytest.mark.parametrize("engine", BOTH)
def test_a_patient_is_not_named(
    engine: str, repository_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, output = tmp_path / "Doe_Jane", tmp_path / "jane_doe"
    scans.mkdir()
    scan = pydicom.dcmread(pydicom.data.get_testdata_file("MR_small.dcm"))
    scan.PatientName = "Doe^Jane"
    scan.save_as(scans / "0001.dcm")
    arguments = [
        "--engine", engine, "--config-file", str(repository_root / PRETRAIN),
        "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{scans}',)", "OUTPUT_DIR", str(output),
        "SOLVER.MAX_ITER", "1",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["train_net.py", *arguments])
    train_net.main(arguments)
    page = (output / "summary.html").read_text()
    assert "DATASETS.TRAIN" in page
    assert "jane" not in page.lower()


def test_notes_name_no_patient_either(repository_root: Path, tmp_path: Path) -> None:
    cfg = load_cfg(repository_root / PRETRAIN, ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)])
    (tmp_path / "metrics.json").write_text(json.dumps({"total_loss": 1.0, "iteration": 1}) + "\n")
    notes = ["skipped scans/Doe_Jane/0001.dcm: truncated"]
    marks = patient_marks("Doe^Jane", "")
    page = write_summary(cfg, {}, engine="torchvision", notes=notes, marks=marks).read_text()
    assert "skipped scans/~" in page
    assert "jane" not in page.lower()
