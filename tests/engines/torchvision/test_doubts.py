"""What is doubtful about the data is said before a run, and beside what comes of it."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import segment
from mrssl.checkpoint import Provenance, load_checkpoint
from mrssl.data.preparing import prepare_store
from mrssl.engines.datasets import RunData
from mrssl.engines.torchvision import Trainer

from .conftest import FINETUNE, PRETRAIN, config


def scan(folder: Path, name: str, *, placed: bool) -> None:
    """A scan with a sheet of tissue; its header says where it lies, or nothing."""
    folder.mkdir(exist_ok=True)
    values = np.random.default_rng(0).integers(50, 200, (24, 24, 6)).astype(np.int16)
    image = nib.Nifti1Image(values, np.diag([1.0, 1.0, 3.0, 1.0]))
    if not placed:
        image.set_sform(None, 0)
        image.set_qform(None, 0)
    nib.save(image, folder / name)


def test_doubtful_volumes_are_told_before_a_run(
    repository_root: Path, phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scan(tmp_path / "scans", "good.nii", placed=True)
    test = ("DATASETS.TEST", f"('{tmp_path / 'scans'}',)")
    RunData(config(repository_root, PRETRAIN, phantom, tmp_path, *test))
    assert "doubtful" not in caplog.text
    scan(tmp_path / "scans", "bad.nii", placed=False)
    with caplog.at_level(logging.WARNING):
        data = RunData(config(repository_root, PRETRAIN, phantom, tmp_path, *test))
    assert "1 volumes are doubtful, the first bad.nii: " in caplog.text
    assert [Path(file).name for file, _ in data.faults] == ["bad.nii"]


def test_slices_of_other_planes_than_the_checkpoints_are_told(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    """ "W" is axial in NIfTI and sagittal in axial DICOM: the letter alone tells nothing."""
    cfg = config(repository_root, PRETRAIN, phantom, tmp_path, "MRSSL.DATA.SLICE_AXIS", "coronal")
    data = RunData(cfg)
    assert data.planes == ["coronal"]
    described = data.provenance(data.cfg, 1).to_dict()
    assert Provenance.from_dict(described).planes == ("coronal",)
    assert data.differences(Provenance(planes=("coronal",))) == []
    assert data.differences(Provenance()) == []
    assert data.differences(Provenance(planes=("coronal",), slice_axis="H")) == []
    assert len(data.differences(Provenance(planes=("axial",), slice_axis="W"))) == 1
    (line,) = data.differences(Provenance(planes=("axial", "sagittal")))
    assert line == (
        "MRSSL.DATA.SLICE_AXIS: there are coronal slices, the checkpoint was trained on axial and "
        "sagittal ones"
    )


def test_segmenting_tells_both(
    repository_root: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    trained = config(
        repository_root, FINETUNE, phantom, tmp_path / "run", "MRSSL.DATA.SLICE_AXIS", "W",
        "SOLVER.MAX_ITER", 1, "DATASETS.TEST", "()",
    )  # fmt: skip
    Trainer(trained).train()
    weights = tmp_path / "run" / "model_final.pth"
    plane = load_checkpoint(weights)["mrssl"]["planes"]
    scan(tmp_path / "scans", "bad.nii", placed=False)
    capsys.readouterr()
    segment.main(
        [
            "--config-file", str(repository_root / FINETUNE), "--weights", str(weights),
            "--dataset", str(tmp_path / "scans"), "--output", str(tmp_path / "out"),
            "MRSSL.DATA.SLICE_AXIS", "D",
        ]
    )  # fmt: skip
    told = capsys.readouterr().out
    assert plane == ["axial"]
    assert "there are sagittal slices, the checkpoint was trained on axial ones" in told
    assert "warning: bad: " in told


def test_volumes_that_the_cache_cannot_hold_are_told(
    repository_root: Path, phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each slice would cost the decoding of a volume; a store reads slices alone."""
    prepare_store(phantom, tmp_path / "store")
    for source, mib, told in (
        (phantom, 0, True), (phantom, 2048, False), (tmp_path / "store" / "dataset.json", 0, False)
    ):  # fmt: skip
        caplog.clear()
        train = ("DATASETS.TRAIN", f"('{source}:train',)", "MRSSL.DATA.CACHE_MIB", mib)
        RunData(config(repository_root, PRETRAIN, phantom, tmp_path, *train))
        assert ("tools/prepare_data.py makes a store" in caplog.text) is told
