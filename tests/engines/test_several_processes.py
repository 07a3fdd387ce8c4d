"""Two processes, or four, do what one does with the whole batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrssl.engines.datasets import RunData

pytestmark = pytest.mark.slow
TASKS = ("pretrain_R_18_FPN", "finetune_R_18_FPN")
ENGINES = [
    pytest.param("torchvision"),
    pytest.param("detectron2", marks=pytest.mark.detectron2),
]


@pytest.fixture(scope="module")
def tests(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two subjects whose slices differ in shape: a batch with both is padded."""
    folder = tmp_path_factory.mktemp("narrow")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
        whole: Any = nib.load(phantom.parent / kind / "subject2.nii.gz")
        part = np.asarray(whole.dataobj)[:, 6:-6, :5]
        nib.save(nib.Nifti1Image(part, whole.affine), folder / kind / "narrow.nii.gz")
    description = json.loads(phantom.read_text())
    description["training"] = [
        {"image": "./images/narrow.nii.gz", "label": "./labels/narrow.nii.gz"}
    ]
    (folder / "dataset.json").write_text(json.dumps(description))
    return f"('{folder / 'dataset.json'}', '{phantom}:test')"


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_gradients_and_scores_are_those_of_one_process(
    repository_root: Path, phantom: Path, tests: str, tmp_path: Path, engine: str
) -> None:
    script = Path(__file__).with_name("whole_batch.py")
    configs = [repository_root / f"configs/quick_schedules/{task}.yaml" for task in TASKS]
    for count in (1, 2, 4):
        launcher = [sys.executable]
        if count > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={count}"]
        subprocess.run(
            [*launcher, script, engine, phantom, tests, tmp_path, *configs],
            check=True,
            env=os.environ | {"PYTHONPATH": str(repository_root), "OMP_NUM_THREADS": "1"},
            timeout=1200,
        )
    for task in TASKS:
        one, told = found(tmp_path, 1, task)
        scale = max(np.abs(gradient).max() for gradient in one.values())
        assert any(value for row in told["results"].values() for value in row.values())
        for count in (2, 4):
            several, theirs = found(tmp_path, count, task)
            assert theirs["losses"] == pytest.approx(told["losses"], abs=1e-5)
            assert one.keys() == several.keys()
            for name, gradient in one.items():
                np.testing.assert_allclose(
                    several[name], gradient, atol=1e-5 * max(scale, 1.0), err_msg=name
                )
            # To the last digit, NaN (written as such) included.
            assert json.dumps(theirs["results"]) == json.dumps(told["results"])


def found(folder: Path, count: int, task: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Gradients; losses and results."""
    path = folder / f"{count}_{task}.npz"
    return dict(np.load(path)), json.loads(path.with_suffix(".json").read_text())


@pytest.mark.parametrize("engine", ENGINES)
def test_torchrun_trains_and_one_process_scores_the_same(
    repository_root: Path, phantom: Path, tests: str, tmp_path: Path, engine: str
) -> None:
    tool = str(repository_root / "tools" / "train_net.py")
    common = [
        "--engine", engine, "--config-file",
        repository_root / f"configs/quick_schedules/{TASKS[1]}.yaml",
    ]  # fmt: skip
    options = [
        "MODEL.DEVICE",
        "cpu",
        "DATASETS.TRAIN",
        f"('{phantom}:train',)",
        "DATASETS.TEST",
        tests,
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = os.environ | {"PYTHONPATH": str(repository_root), "OMP_NUM_THREADS": "1"}

    def results(folder: str, *command: Any) -> str:
        arguments = [*command, "OUTPUT_DIR", tmp_path / folder]
        subprocess.run([*map(str, arguments)], check=True, env=environment, timeout=1200)
        return (tmp_path / folder / "inference" / "results.json").read_text()

    trained = results("trained", *torchrun, tool, *common, *options, "SOLVER.MAX_ITER", 2)
    scored = [
        *common,
        "--eval-only",
        *options,
        "MODEL.WEIGHTS",
        tmp_path / "trained/model_final.pth",
    ]
    assert results("scored", sys.executable, tool, *scored) == trained
    assert results("again", *torchrun, tool, *scored) == trained
    assert any(value for row in json.loads(trained).values() for value in row.values())


def test_every_test_slice_falls_to_one_process_in_whole_batches() -> None:
    data = RunData.__new__(RunData)
    for slices in (0, 1, 7, 8, 9, 64):
        data.test = [{}] * slices
        for processes in (1, 2, 3, 5, 8):
            shares = [data.test_share(rank, processes) for rank in range(processes)]
            assert [index for share in shares for index in share] == list(range(slices))
            assert all(share.start % 4 == 0 for share in shares if share)
