"""What volumes are scored with: threshold, names, classes that overlap."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from mrssl.config import ConfigError
from mrssl.engines.datasets import RunData
from mrssl.errors import MrsslError
from mrssl.evaluation import VolumeEvaluator

from .conftest import FINETUNE, PRETRAIN, config, run


def test_dice_counts_instances_from_the_configured_score_on(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    for threshold in (0.3, 0.5):
        cfg = config(
            repository_root, FINETUNE, phantom, tmp_path,
            "MRSSL.EVALUATION.SCORE_THRESHOLD", threshold,
        )  # fmt: skip
        evaluator = RunData(cfg).evaluator()
        volumes = [e for e in evaluator.evaluators if isinstance(e, VolumeEvaluator)]
        assert [e.score_threshold for e in volumes] == [threshold]


def test_structures_are_named_by_the_layout_of_the_training_volumes(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    cfg = config(repository_root, FINETUNE, phantom, tmp_path / "joint")
    layout = RunData(cfg).class_layout
    assert layout is not None
    # Balls of the phantom, 0.75 of 64 voxels apart from left to right.
    assert np.linalg.norm(layout.offsets[0, 1]) == pytest.approx(0.75 / 2 * 63, rel=0.02)
    for overrides in (
        ("MRSSL.EVALUATION.JOINT_NAMES", False),
        ("MRSSL.DATA.INSTANCES", "component"),
    ):
        cfg = config(repository_root, FINETUNE, phantom, tmp_path / "each", *overrides)
        assert RunData(cfg).class_layout is None


def test_classes_that_share_label_values_are_scored_as_they_are_and_not_named_together(
    repository_root: Path, phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    description = json.loads(phantom.read_text())
    description["labels"] = {"background": 0, "both": [1, 2], "large": 2}
    nested = phantom.with_name("nested.json")
    nested.write_text(json.dumps(description))
    cfg = config(repository_root, FINETUNE, nested, tmp_path, "SOLVER.MAX_ITER", 1)
    with caplog.at_level(logging.WARNING):
        data = RunData(cfg)
        assert data.class_layout is None
    assert "JOINT_NAMES is left aside: classes share label values (both, large)" in caplog.text
    assert data.overlapping == [(0, 1)]
    records = data.test[2:6]
    truth = [data.test_mapper(record) for record in records]
    evaluator = data.evaluator()
    evaluator.process(truth, [{**t, "scores": np.array([0.8, 0.9])} for t in truth])
    assert evaluator.evaluate()["dice"]["dice"] == 1.0
    run(cfg)
    scans = config(
        repository_root, FINETUNE, nested, tmp_path,
        "MODEL.WEIGHTS", tmp_path / "model_final.pth",
        "DATASETS.TEST", f"('{nested.parent / 'images'}',)",
    )  # fmt: skip
    unlabeled, _ = RunData.for_weights(scans, labeled=False)
    assert unlabeled.class_values == [(1, 2), 2]
    assert unlabeled.class_layout is None


def test_data_sets_that_number_the_classes_otherwise_are_refused(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    description = json.loads(phantom.read_text())
    names = [name for name in description["labels"] if name != "background"]
    description["labels"] = {name: 5 + value for value, name in enumerate(names)}
    other = phantom.with_name("renumbered.json")
    other.write_text(json.dumps(description))
    test = ("DATASETS.TEST", f"('{other}:test',)")
    with pytest.raises(ConfigError, match=r"DATASETS.TEST .*its labels \[5, 6\] are not those of"):
        RunData(config(repository_root, FINETUNE, phantom, tmp_path, *test))


def test_subjects_of_both_training_and_test_data_are_told(
    repository_root: Path, phantom: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    split = json.loads((phantom.parent / "split.json").read_text())
    shared = sorted(split["train"])[0]
    test = ("DATASETS.TEST", f"('{phantom}:train[{shared}]',)")
    for overrides, told in ((test, True), ((), False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            RunData(config(repository_root, FINETUNE, phantom, tmp_path, *overrides))
        assert (f"in DATASETS.TRAIN too ({shared})" in caplog.text) is told


def test_the_layout_travels_with_the_weights(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    overrides = ("SOLVER.MAX_ITER", 1)
    trained = run(config(repository_root, FINETUNE, phantom, tmp_path / "a", *overrides))
    assert "slicewise" in trained["dice"]
    scored = ("DATASETS.TRAIN", "()", "MODEL.WEIGHTS", tmp_path / "a" / "model_final.pth")
    cfg = config(repository_root, FINETUNE, phantom, tmp_path / "b", *scored)
    assert run(cfg, eval_only=True)["dice"] == trained["dice"]
    content = torch.load(scored[3], weights_only=True)
    del content["mrssl"]["class_layout"]["places"]  # as of an earlier version
    torch.save(content, scored[3])
    with pytest.raises(MrsslError, match=r"model_final.pth: a layout of classes without 'places'"):
        run(cfg, eval_only=True)
    content["mrssl"]["class_layout"] = {}
    torch.save(content, scored[3])
    with pytest.raises(ConfigError, match=r"JOINT_NAMES is on, and .*model_final.pth does not say"):
        run(cfg, eval_only=True)


def test_a_checkpoint_of_other_classes_is_neither_scored_nor_resumed(
    repository_root: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    run(config(repository_root, FINETUNE, phantom, output, "SOLVER.MAX_ITER", 1))
    weights = output / "model_final.pth"

    def relabelled(name: str, labels: dict[str, int]) -> Path:
        description = json.loads(phantom.read_text()) | {"labels": {"background": 0} | labels}
        path = phantom.with_name(f"{name}.json")
        path.write_text(json.dumps(description))
        return path

    for names in (("large", "small"), ("left", "right")):
        data = relabelled(names[0], {name: value for value, name in enumerate(names, 1)})
        message = rf"model_final.pth: its classes \['small', 'large'\] .* \['{names[0]}', "
        cfg = config(repository_root, FINETUNE, data, output, "SOLVER.MAX_ITER", 2)
        with pytest.raises(ConfigError, match=message):
            run(cfg, resume=True)
        cfg = config(repository_root, FINETUNE, data, tmp_path / "scored", "MODEL.WEIGHTS", weights)
        with pytest.raises(ConfigError, match=message):
            run(cfg, eval_only=True)

    data = relabelled("numbers", {"small": 2, "large": 3})
    cfg = config(repository_root, FINETUNE, data, tmp_path / "scored", "MODEL.WEIGHTS", weights)
    RunData.for_weights(cfg)
    assert "trained with the labels [1, 2] for small, large, now they are [2, 3]" in (
        capsys.readouterr().out
    )
    content = torch.load(weights, weights_only=True)
    content["mrssl"] |= {"class_names": [], "class_values": []}  # foreign
    torch.save(content, weights)
    RunData.for_weights(cfg)
    assert "labels" not in capsys.readouterr().out


def test_a_checkpoint_of_other_distortions_is_neither_scored_nor_resumed(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    """Nor where there are as many of them."""
    ours = ("MRSSL.PRETEXT.DISTORTIONS", "('gamma', 'rotation')")
    run(config(repository_root, PRETRAIN, phantom, tmp_path, *ours, "SOLVER.MAX_ITER", 1))
    weights = tmp_path / "model_final.pth"
    others = ("MRSSL.PRETEXT.DISTORTIONS", "('gamma', 'inpainting')", "MODEL.WEIGHTS", weights)
    cfg = config(repository_root, PRETRAIN, phantom, tmp_path, *others, "SOLVER.MAX_ITER", 2)
    for how in ({"eval_only": True}, {"resume": True}):
        with pytest.raises(
            ConfigError, match=r"model_final\.pth: trained on other types .*rotation"
        ):
            run(cfg, **how)


def test_whole_volumes_are_scored_whatever_is_left_out_of_training(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    counts = []
    for overrides in ((), ("MRSSL.DATA.MIN_INSTANCE_PIXELS", 150)):
        keys = ("MRSSL.DATA.KEEP_EMPTY", False, *overrides)
        data = RunData(config(repository_root, FINETUNE, phantom, tmp_path, *keys))
        assert len(data.test) == 8
        assert {record["num_slices"] for record in data.test} == {8}
        counts.append(len(data.train))
    assert 3 * 8 > counts[0] > counts[1] > 0


def test_what_is_tested_on_borrows_from_test_subjects_alone(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    cfg = config(repository_root, PRETRAIN, phantom, tmp_path, "MRSSL.PRETEXT.OTHER_SUBJECT", 1.0)
    data = RunData(cfg)
    for records, mapper in ((data.test, data.test_mapper), (data.train, data.train_mapper)):
        files = {record["file_name"] for record in records}
        assert {mapper(record)["donor"]["file_name"] for record in records} <= files
