"""Names under fields of view that are cut."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest

import evaluate_names
from mrssl.config import load_cfg
from mrssl.data.descriptions import describe
from mrssl.engines.torchvision import main
from mrssl.errors import MrsslError

CONFIG = "configs/quick_schedules/finetune_R_18_FPN.yaml"


@pytest.fixture(scope="module")
def weights(repository_root: Path, phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    options = ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{phantom}:train',)"]
    options += ["DATASETS.TEST", "()", "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", "1"]
    cfg = load_cfg(repository_root / CONFIG, options)
    main(cfg, Namespace(resume=False, eval_only=False))
    return folder / "model_final.pth"


def test_a_cut_volume_is_what_is_left_at_its_place(phantom: Path, tmp_path: Path) -> None:
    described = describe(f"{phantom}:test")
    axis = evaluate_names.row_axis(described)
    assert axis == 0  # both balls lie along x
    path = evaluate_names.write_cut(described, axis, -20, tmp_path)
    (_, before, label), *_ = evaluate_names.labeled_volumes(described)
    ((_, after, left),) = evaluate_names.labeled_volumes(describe(path))
    np.testing.assert_array_equal(after.array, before.array[20:])
    np.testing.assert_array_equal(left, label[20:])
    np.testing.assert_allclose(after.affine @ [0, 0, 0, 1], before.affine @ [20, 0, 0, 1])
    assert evaluate_names.cut(before, axis, 20) == slice(0, 44)
    with pytest.raises(MrsslError, match="--cut 40: takes more than half"):
        evaluate_names.cut(before, axis, 40)


def test_the_command_writes_table_picture_and_figures(
    repository_root: Path, weights: Path, phantom: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "out"
    named = {"--config-file": repository_root / CONFIG, "--weights": weights}
    named |= {"--dataset": f"{phantom}:test", "--output": output}
    given = [str(part) for pair in named.items() for part in pair]
    options = ["--cut", "10", "MODEL.DEVICE", "cpu"]
    evaluate_names.main([*given, *options])
    content = json.loads((output / "names.json").read_text())
    assert [row["cut_mm"] for row in content["rows"]] == [-10, 0, 10]
    assert content["axis"] == "D"
    assert set(content["rows"][0]["per_subject"]) == {"subject3"}
    assert "| +10 " in (output / "names.md").read_text()
    assert cv2.imread(str(output / "names.png")).std() > 5
    figures, picture = ((output / f"names.{kind}").stat() for kind in ("json", "png"))
    assert figures.st_mtime_ns < picture.st_mtime_ns  # which may fail
    with pytest.raises(MrsslError, match="JOINT_NAMES is off"):
        evaluate_names.main([*given, *options, "MRSSL.EVALUATION.JOINT_NAMES", "False"])
    with pytest.raises(SystemExit):
        evaluate_names.main([*given, "--cut", "0"])
