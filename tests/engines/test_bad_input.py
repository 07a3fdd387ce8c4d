"""What a user gets wrong: one line that names the file or key, and nothing half-written.

On either engine; what reads data and configurations is theirs in common, what calls it is not.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch

import train_net
from mrssl.checkpoint import save_checkpoint
from mrssl.config import load_cfg
from mrssl.engines.datasets import RunData
from mrssl.errors import MissingDependencyError, MrsslError

PRETRAIN = "configs/quick_schedules/pretrain_R_18_FPN.yaml"
FINETUNE = "configs/quick_schedules/finetune_R_18_FPN.yaml"


@pytest.fixture(params=["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "detectron2":
        # A second a time, for a log that nobody reads.
        monkeypatch.setattr("detectron2.engine.defaults.collect_env_info", str)
    return request.param


@pytest.fixture
def attempt(engine: str, repository_root: Path, tmp_path: Path):
    """Run tools/train_net.py in this process; returns the error's text."""

    def run(*overrides: object, config: str = PRETRAIN, flags: tuple[str, ...] = ()) -> str:
        output = tmp_path / "output"
        with pytest.raises(MrsslError) as caught:
            train_net.main(
                ["--engine", engine, "--config-file", str(repository_root / config), *flags,
                 "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output), *map(str, overrides)]
            )  # fmt: skip
        text = str(caught.value)
        assert "\n" not in text
        assert not list(output.rglob("*.pth"))
        assert not list(output.rglob(".*"))
        return text

    return run


def train_on(path: object) -> tuple[str, str]:
    return "DATASETS.TRAIN", f"('{path}',)"


def test_an_empty_folder(attempt, tmp_path: Path) -> None:
    empty = tmp_path / "scans"
    empty.mkdir()
    assert "scans: no MRI volume found" in attempt(*train_on(empty))


def test_a_missing_folder(attempt, tmp_path: Path) -> None:
    assert "nowhere" in attempt(*train_on(tmp_path / "nowhere"))


def test_a_text_file_called_nifti(attempt, tmp_path: Path) -> None:
    (tmp_path / "notes.nii.gz").write_text("not a scan")
    assert "notes.nii.gz" in attempt(*train_on(tmp_path / "notes.nii.gz"))


def test_a_truncated_dicom(attempt, tmp_path: Path) -> None:
    whole = Path(pydicom.data.get_testdata_file("MR_small.dcm")).read_bytes()
    (tmp_path / "scan.dcm").write_bytes(whole[: len(whole) // 2])
    assert "scan.dcm" in attempt(*train_on(tmp_path / "scan.dcm"))


def test_a_label_of_another_shape(attempt, phantom: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(phantom.parent, tmp_path / "copy")
    label = nib.Nifti1Image(np.zeros((9, 9, 9), np.uint8), np.eye(4))
    nib.save(label, copy / "labels" / "subject1.nii.gz")
    text = attempt(*train_on(f"{copy / 'dataset.json'}:train"), config=FINETUNE)
    assert "subject1.nii.gz" in text
    assert "9" in text


def test_a_missing_split(attempt, phantom: Path) -> None:
    assert "validation" in attempt(*train_on(f"{phantom}:validation"))


def test_a_misspelt_key(attempt, phantom: Path) -> None:
    assert "SOLVER.BASE_LEARNING_RATE" in attempt("SOLVER.BASE_LEARNING_RATE", 1)


def test_a_value_of_the_wrong_type(attempt) -> None:
    assert "SOLVER.MAX_ITER" in attempt("SOLVER.MAX_ITER", "many")


def test_a_misspelt_key_in_the_file(attempt, tmp_path: Path, repository_root: Path) -> None:
    file = tmp_path / "typo.yaml"
    file.write_text(f"_BASE_: '{repository_root / PRETRAIN}'\nMRSSL: {{PRETEXTS: 1}}\n")
    text = attempt(config=str(file))
    assert "typo.yaml" in text
    assert "MRSSL.PRETEXTS" in text


def test_a_data_set_that_is_no_path(attempt) -> None:
    assert attempt("DATASETS.TRAIN", "(1,)").startswith("DATASETS.TRAIN 1: a path")


def test_no_training_data(attempt) -> None:
    assert "DATASETS.TRAIN is empty" in attempt()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.META_ARCHITECTURE", "GeneralisedRCNN"),
        ("MODEL.ROI_HEADS.NAME", "DistortionROIHead"),
        ("MODEL.ROI_MASK_HEAD.NAME", "ImprovedMaskHeads"),
        ("MODEL.RESNETS.DEPTH", 20),
        ("MODEL.FPN.NORM", "BatchNorm"),
        ("MODEL.DEVICE", "gpu"),
        ("SOLVER.IMS_PER_BATCH", 0),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosine"),
        ("MRSSL.SOLVER.OPTIMIZER", "ADAM"),
    ],
)
def test_a_value_that_names_nothing(attempt, phantom: Path, key: str, value: object) -> None:
    text = attempt(*train_on(phantom), key, value)
    assert key in text
    assert str(value) in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.ROI_HEADS.IN_FEATURES", "['p9']"),
        ("MODEL.ROI_HEADS.IN_FEATURES", "['p3', 'p2']"),
        ("MODEL.FPN.IN_FEATURES", "['layer1']"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32]]"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[[-16]]"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[]"),
        ("MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[1.0], [1.0, 2.0], [1.0], [1.0], [1.0]]"),
        ("MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4']"),
        ("MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4']"),
        ("MODEL.RPN.IN_FEATURES", "['p3', 'p2']"),
        ("MODEL.PIXEL_MEAN", "[60.0]"),
        ("MODEL.FPN.OUT_CHANNELS", 0),
        ("MODEL.ROI_BOX_HEAD.FC_DIM", -1),
        ("MODEL.RPN.IOU_THRESHOLDS", "[0.7, 0.3]"),
    ],
)
def test_values_that_do_not_suit_one_another(
    attempt, phantom: Path, tmp_path: Path, key: str, value: object
) -> None:
    assert attempt(*train_on(phantom), key, value).startswith(key)
    assert not list((tmp_path / "output").glob("*"))


@pytest.mark.parametrize("flags", [(), ("--eval-only",)], ids=["training", "evaluation"])
def test_labels_without_masks(attempt, tmp_path: Path, flags: tuple[str, ...]) -> None:
    weights = tmp_path / "model_final.pth"
    save_checkpoint(weights, {"model": {"backbone.fpn_lateral2.bias": torch.ones(1)}})
    data = ("DATASETS.TEST", f"('{tmp_path / 'nowhere'}',)", *train_on(tmp_path / "nowhere"))
    text = attempt(
        *data, "MODEL.WEIGHTS", weights, "MODEL.MASK_ON", False, config=FINETUNE, flags=flags
    )
    assert text.startswith("MODEL.MASK_ON False: ")


def test_two_keys_that_contradict_each_other(attempt, phantom: Path) -> None:
    text = attempt(*train_on(phantom), "DATALOADER.FILTER_EMPTY_ANNOTATIONS", True, config=FINETUNE)
    assert text.startswith("DATALOADER.FILTER_EMPTY_ANNOTATIONS True: MRSSL.DATA.KEEP_EMPTY")


def test_a_window_of_no_type(attempt, phantom: Path) -> None:
    crop = ("INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "square")
    assert "INPUT.CROP.TYPE 'square'" in attempt(*train_on(phantom), *crop, config=FINETUNE)


def test_windows_that_pretraining_would_not_show(attempt, phantom: Path) -> None:
    text = attempt(*train_on(phantom), "INPUT.CROP.ENABLED", True)
    assert "INPUT.CROP.ENABLED True" in text
    assert "MRSSL.AUGMENT.PRETRAIN" in text


def test_an_unknown_distortion(attempt, phantom: Path) -> None:
    text = attempt(*train_on(phantom), "MRSSL.PRETEXT.DISTORTIONS", "('blurr',)")
    assert "blurr" in text


def test_an_output_that_cannot_be_written(attempt, phantom: Path, tmp_path: Path) -> None:
    (tmp_path / "output").write_text("a file where the folder should be")
    assert "OUTPUT_DIR" in attempt(*train_on(phantom))


def test_the_folder_of_another_run_is_not_overwritten(
    engine: str, repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    (tmp_path / "model_0000001.pth").write_bytes(b"precious")
    with pytest.raises(MrsslError, match=r"another run.*--resume"):
        train_net.main(
            ["--engine", engine, "--config-file", str(repository_root / PRETRAIN),
             "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path), *train_on(phantom)]
        )  # fmt: skip
    assert (tmp_path / "model_0000001.pth").read_bytes() == b"precious"


def test_weights_that_do_not_exist(attempt, phantom: Path, tmp_path: Path) -> None:
    weights = tmp_path / "absent.pth"
    assert "absent.pth" in attempt(*train_on(phantom), "MODEL.WEIGHTS", weights)


def test_the_newest_checkpoint_is_not_guessed(attempt, tmp_path: Path) -> None:
    text = attempt(*train_on(tmp_path / "nowhere"), flags=("--eval-only", "--resume"))
    assert text.startswith("--eval-only --resume: ") and "MODEL.WEIGHTS" in text
    assert not (tmp_path / "output").exists()


def test_the_wrong_number_of_classes(attempt, phantom: Path) -> None:
    text = attempt(*train_on(phantom), "MODEL.ROI_HEADS.NUM_CLASSES", 3, config=FINETUNE)
    assert "NUM_CLASSES is 3" in text
    assert "small, large" in text


def test_a_test_set_with_other_classes(attempt, phantom: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(phantom.parent, tmp_path / "copy")
    description = json.loads((copy / "dataset.json").read_text())
    description["labels"] = {"background": 0, "little": 1, "large": 2}
    (copy / "dataset.json").write_text(json.dumps(description))
    text = attempt(
        *train_on(phantom), "DATASETS.TEST", f"('{copy / 'dataset.json'}',)", config=FINETUNE
    )
    assert "little" in text


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--config-file", "mine.yaml", "--engine", "caffe"],
        ["--config-file", "mine.yaml", "--num-gpus", "0"],
        ["--config-file", "mine.yaml", "--num-machines", "2", "--machine-rank", "2"],
    ],
    ids=["none", "engine", "no process", "rank"],
)
def test_wrong_arguments_exit_with_two(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        train_net.main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("benchmark_data", ["nowhere", "--rounds", "0"], "--rounds: 0 is less than 1"),
        ("benchmark_data", ["nowhere", "--entries", "100"], "--entries: more than 100 are"),
        ("benchmark_speed", ["--steps", "--rounds", "0"], "--rounds: 0 is less than 1"),
    ],
)
def test_a_benchmark_of_nothing_is_a_wrong_argument(
    tool: str, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(tool).main(arguments)
    assert caught.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "named"),
    [
        ("evaluate_distortions", ["--weights", "--dataset"]),
        ("evaluate_names", ["--weights", "--dataset"]),
        ("evaluate_positions", ["--weights", "--dataset"]),
        ("benchmark_few_labels", ["--data"]),
    ],
)
def test_what_draws_asks_for_matplotlib_before_its_work(
    tool: str, named: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    given = ["--config-file", "--output", *named]
    arguments = [text for name in given for text in (name, str(tmp_path / "nowhere"))]
    with pytest.raises(MissingDependencyError, match="pip install matplotlib"):
        importlib.import_module(tool).main(arguments)


@pytest.mark.slow
def test_exit_statuses(repository_root: Path, tmp_path: Path) -> None:
    def status(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, str(repository_root / "tools" / "train_net.py"), *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(repository_root)},
            timeout=120,
        )
        return done.returncode, done.stderr

    code, text = status(
        "--engine", "torchvision", "--config-file", str(repository_root / PRETRAIN),
        *train_on(tmp_path / "nowhere"), "OUTPUT_DIR", str(tmp_path / "out"),
    )  # fmt: skip
    assert code == 1
    assert text.startswith("error: ")
    assert text.count("\n") == 1


def test_subjects_that_stand_in_several_places_are_told(
    repository_root: Path, phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = shutil.copytree(phantom.parent, tmp_path / "other") / phantom.name
    sets = ["DATASETS.TRAIN", f"('{phantom}:train',)", "MODEL.DEVICE", "cpu"]
    sets += ["DATASETS.TEST", f"('{phantom}:test','{other}')"]
    RunData(load_cfg(repository_root / PRETRAIN, [*sets, "OUTPUT_DIR", str(tmp_path)]))
    namesakes, shared = (record.getMessage() for record in caplog.records)
    assert "are in other data sets of DATASETS.TEST too" in namesakes
    assert str(other) in namesakes
    assert "of the subjects of DATASETS.TEST are in DATASETS.TRAIN too" in shared
