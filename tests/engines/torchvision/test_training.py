from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mrssl.checkpoint import load_checkpoint
from mrssl.config import ConfigError, with_values
from mrssl.engines.torchvision import Trainer
from mrssl.engines.torchvision.batches import collate
from mrssl.errors import MrsslError

from .conftest import FINETUNE, PRETRAIN, config, metrics, run

TIMINGS = {"images_per_second", "data_share", "overhead_share"}


@pytest.fixture(scope="module")
def pretrained(
    repository_root: Path, phantom: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of an uninterrupted small pretraining run."""
    folder = tmp_path_factory.mktemp("pretrained")
    run(config(repository_root, PRETRAIN, phantom, folder))
    return folder


def test_a_pretraining_run_leaves_what_it_should(pretrained: Path) -> None:
    rows = metrics(pretrained)
    assert [r["iteration"] for r in rows if "total_loss" in r] == [1, 2, 3, 4, 5, 6]
    assert {
        "loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask", "loss_type",
        "loss_restoration", "lr",
    } <= set(rows[0])  # fmt: skip
    results = json.loads((pretrained / "inference" / "results.json").read_text())
    assert {"localization", "type", "restoration"} <= set(results)
    events = EventAccumulator(str(pretrained)).Reload()
    assert [picture.step for picture in events.Images("samples")] == [6]
    assert "loss_restoration" in events.Tags()["scalars"]
    checkpoint = load_checkpoint(pretrained / "model_final.pth")
    assert checkpoint["mrssl"]["task"] == "pretrain"
    page = (pretrained / "summary.html").read_text()
    assert page.count("data:image/png;base64") >= 4  # curves and samples
    assert "restoration/PSNR" in page
    assert "DistortionROIHeads" in page
    assert "backbone.bottom_up.res2.0.conv1.weight" in checkpoint["model"]
    assert not list(pretrained.rglob(".*"))


def test_resuming_continues_as_if_nothing_had_happened(
    repository_root: Path, phantom: Path, pretrained: Path, tmp_path: Path
) -> None:
    cfg = config(repository_root, PRETRAIN, phantom, tmp_path)
    trainer = Trainer(cfg)  # stopped dead after five of six iterations; the checkpoint is of three
    stream = iter(trainer.data.train_loader(start_iteration=0, collate=collate))
    for _ in range(3):
        trainer.step(next(stream))
    trainer.checkpoints.save(trainer.state(), trainer.iteration)
    for _ in range(2):
        trainer.step(next(stream))

    run(cfg, resume=True)
    whole = {r["iteration"]: r for r in metrics(pretrained) if "total_loss" in r}
    resumed = {r["iteration"]: r for r in metrics(tmp_path) if "total_loss" in r}
    assert sorted(resumed) == [4, 5, 6]
    for iteration, row in resumed.items():
        timeless = {k: v for k, v in row.items() if k not in TIMINGS}
        assert timeless == {k: whole[iteration][k] for k in timeless}
        assert set(row) >= TIMINGS
    expected = load_checkpoint(pretrained / "model_final.pth")["model"]
    found = load_checkpoint(tmp_path / "model_final.pth")["model"]
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_a_damaged_newest_checkpoint_is_skipped_and_named(
    repository_root: Path, phantom: Path, pretrained: Path, tmp_path: Path
) -> None:
    newest = (pretrained / "model_final.pth").read_bytes()
    (tmp_path / "model_0000003.pth").write_bytes(newest)
    (tmp_path / "model_0000005.pth").write_bytes(newest[: len(newest) // 2])
    trainer = Trainer(config(repository_root, PRETRAIN, phantom, tmp_path), resume=True)
    assert trainer.iteration == 6
    assert any("model_0000005.pth" in note and "skipped" in note for note in trainer.notes)


def test_fine_tuning_takes_the_weights_and_is_scored(
    repository_root: Path, phantom: Path, pretrained: Path, tmp_path: Path
) -> None:
    weights = pretrained / "model_final.pth"
    cfg = config(repository_root, FINETUNE, phantom, tmp_path, "MODEL.WEIGHTS", weights)
    trainer = Trainer(cfg)
    source = load_checkpoint(weights)["model"]
    stem = trainer.model.state_dict()["backbone.body.conv1.weight"]
    assert torch.equal(stem, source["backbone.bottom_up.stem.conv1.weight"])
    assert trainer.cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert "backbone" in trainer.notes[0]

    results = run(cfg)
    assert {"bbox", "segm", "dice", "hd95", "assd"} <= set(results)
    subjects = json.loads((tmp_path / "inference" / "per_subject.json").read_text())
    assert list(subjects) == ["subject3"]
    assert subjects["subject3"]["dice"]["dice"] == pytest.approx(results["dice"]["dice"])
    scored = with_values(cfg, {"MODEL.WEIGHTS": str(tmp_path / "model_final.pth")})
    again = run(scored, eval_only=True)
    for task, values in results.items():
        assert again[task] == pytest.approx(values, nan_ok=True, abs=1e-9)


def test_transferred_parameters_can_be_frozen_and_slowed(
    repository_root: Path, phantom: Path, pretrained: Path, tmp_path: Path
) -> None:
    cfg = config(
        repository_root, FINETUNE, phantom, tmp_path,
        "MODEL.WEIGHTS", pretrained / "model_final.pth",
        "MRSSL.TRANSFER.SCOPE", "rpn", "MRSSL.TRANSFER.REINIT", "('rpn', 'fpn')",
        "MRSSL.TRANSFER.FREEZE_ITERS", 1, "MRSSL.TRANSFER.LR_FACTOR", 0.1,
    )  # fmt: skip
    trainer = Trainer(cfg)
    assert {name.split(".")[1] for name in trainer.transferred} == {"body"}
    rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert sorted(rates) == pytest.approx([0.1 * cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR])
    stream = iter(trainer.data.train_loader(start_iteration=0, collate=collate))
    stem = trainer.model.backbone.body.conv1.weight
    mean = trainer.model.backbone.body.bn1.running_mean
    start, start_mean = stem.detach().clone(), mean.clone()
    trainer.model.train()  # as an evaluation leaves it
    trainer.step(next(stream))
    assert torch.equal(stem, start)
    assert torch.equal(mean, start_mean)
    trainer.step(next(stream))
    assert not torch.equal(stem, start)
    assert not torch.equal(mean, start_mean)


def test_thawing_leaves_what_freeze_at_froze(
    repository_root: Path, phantom: Path, pretrained: Path, tmp_path: Path
) -> None:
    cfg = config(
        repository_root, FINETUNE, phantom, tmp_path,
        "MODEL.WEIGHTS", pretrained / "model_final.pth", "MODEL.BACKBONE.FREEZE_AT", 2,
        "MRSSL.TRANSFER.FREEZE_ITERS", 1,
    )  # fmt: skip
    trainer = Trainer(cfg)
    stream = iter(trainer.data.train_loader(start_iteration=0, collate=collate))
    trainer.step(next(stream))
    trainer.checkpoints.save(trainer.state(), trainer.iteration)
    resumed = Trainer(cfg, resume=True)
    batch = next(stream)
    for run_on in (trainer, resumed):
        run_on.step(batch)
        trained = {p for group in run_on.optimizer.param_groups for p in group["params"]}
        assert {p for p in run_on.model.parameters() if p.requires_grad} == trained
        assert {p for p in run_on.model.parameters() if p.grad is not None} <= trained
        body = run_on.model.backbone.body
        assert body.layer2[0].conv1.weight in trained
        assert body.layer1[0].conv1.weight not in trained


@pytest.mark.parametrize(
    ("file", "metric", "known"),
    [(FINETUNE, "dice/mean", "dice/slicewise"), (PRETRAIN, "AP50", "localization/AP50")],
)
def test_a_metric_that_nothing_has_is_named_before_training(
    file: str, metric: str, known: str, repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    named = ("MRSSL.SOLVER.BEST_METRIC", metric)
    cfg = config(repository_root, file, phantom, tmp_path, *named)
    with pytest.raises(ConfigError, match=f"BEST_METRIC: no metric '{metric}'.*{known}"):
        Trainer(cfg)
    cfg = config(repository_root, file, phantom, tmp_path, named[0], known)
    assert Trainer(cfg).data.best_metric == known


def test_a_loss_that_is_not_finite_names_itself_and_the_slices(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    trainer = Trainer(config(repository_root, FINETUNE, phantom, tmp_path))
    stream = trainer.data.train_loader(start_iteration=0, collate=collate)
    batch = next(iter(stream))
    with torch.no_grad():
        trainer.model.roi_heads.box_predictor.cls_score.weight.fill_(float("nan"))
    with pytest.raises(MrsslError, match=r"loss_cls.*not finite.*subject\d"):
        trainer.step(batch)


def test_an_average_is_what_is_scored_and_saved_and_survives_a_resume(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / name for name in ("plain", "whole", "resumed")]
    for folder in folders[:2]:
        decay = 0.0 if folder.name == "plain" else 0.9
        run(config(repository_root, PRETRAIN, phantom, folder, "MRSSL.SOLVER.EMA_DECAY", decay))
    plain, whole = (load_checkpoint(folder / "model_final.pth") for folder in folders[:2])
    for name, tensor in plain["model"].items():  # training itself is left alone
        assert torch.equal(whole["unaveraged"][name], tensor), name
    stem = "backbone.bottom_up.stem.conv1.weight"
    assert not torch.equal(whole["model"][stem], plain["model"][stem])
    assert whole["averaged_updates"] == 6

    folders[2].mkdir()
    (folders[2] / "model_0000002.pth").write_bytes((folders[1] / "model_0000002.pth").read_bytes())
    cfg = config(
        repository_root, PRETRAIN, phantom, folders[2], "MRSSL.SOLVER.EMA_DECAY", 0.9
    )  # fmt: skip
    results = run(cfg, resume=True)
    resumed = load_checkpoint(folders[2] / "model_final.pth")
    for entry in ("model", "unaveraged"):
        for name, tensor in whole[entry].items():
            assert torch.equal(resumed[entry][name], tensor), name

    scored = with_values(cfg, {"MODEL.WEIGHTS": str(folders[2] / "model_final.pth")})
    again = run(scored, eval_only=True)
    for task, values in results.items():
        assert again[task] == pytest.approx(values, nan_ok=True, abs=0, rel=0)


def test_training_ends_early_where_nothing_betters(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    cfg = config(
        repository_root, FINETUNE, phantom, tmp_path,
        "TEST.EVAL_PERIOD", 1, "SOLVER.CHECKPOINT_PERIOD", 2, "MRSSL.SOLVER.PATIENCE", 2,
        # At its worst from the start: a model that was hardly trained is sure of nothing.
        "MRSSL.SOLVER.BEST_METRIC", "hd95/missed", "MRSSL.EVALUATION.SCORE_THRESHOLD", 1.0,
    )  # fmt: skip
    run(cfg)
    # The first evaluation is the best, two more do not better it.
    assert load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 1
    final = load_checkpoint(tmp_path / "model_final.pth")
    assert (final["iteration"], final["evaluations_since_best"]) == (3, 2)
    before = (tmp_path / "model_final.pth").read_bytes()
    (tmp_path / "model_final.pth").unlink()
    trainer = Trainer(cfg, resume=True)  # the count goes on
    assert (trainer.iteration, trainer.best.evaluations_since_best) == (2, 1)
    (tmp_path / "model_final.pth").write_bytes(before)
    assert "dice" in run(cfg, resume=True)  # a run that is over stays as it is
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert [r["iteration"] for r in metrics(tmp_path) if "dice/dice" in r] == [1, 2, 3]
    cfg.defrost()
    cfg.MRSSL.SOLVER.PATIENCE = 3
    run(cfg, resume=True)  # unless it is given more patience
    assert load_checkpoint(tmp_path / "model_final.pth")["iteration"] == 4


@pytest.mark.parametrize(
    ("overrides", "tasks"),
    [
        (("MRSSL.TYPE_HEAD.LOSS_WEIGHT", 0.0), {"localization", "restoration"}),
        (("MRSSL.RESTORATION_HEAD.LOSS_WEIGHT", 0.0), {"localization", "type"}),
        (("MODEL.MASK_ON", False), {"localization", "type", "restoration"}),
    ],
    ids=["no type", "no restoration", "no mask"],
)
def test_the_pretext_without_one_of_its_parts_is_trained_and_scored(
    repository_root: Path,
    phantom: Path,
    tmp_path: Path,
    overrides: tuple[Any, ...],
    tasks: set[str],
) -> None:
    cfg = config(repository_root, PRETRAIN, phantom, tmp_path, *overrides)
    trainer = Trainer(cfg)
    stream = trainer.data.train_loader(start_iteration=0, collate=collate)
    trainer.step(next(iter(stream)))
    trainer.model.roi_heads.score_thresh = 0.0  # barely trained: else it finds nothing
    assert set(trainer.evaluate()) == tasks


def test_a_run_that_was_killed_in_its_last_evaluation_leaves_its_final_checkpoint_alone(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    cfg = config(repository_root, FINETUNE, phantom, tmp_path, "SOLVER.MAX_ITER", 2)
    run(cfg)
    before = (tmp_path / "model_final.pth").read_bytes()
    (tmp_path / "inference" / "results.json").unlink()
    assert "dice" in run(cfg, resume=True)
    assert (tmp_path / "model_final.pth").read_bytes() == before
    assert (tmp_path / "inference" / "results.json").is_file()
    longer = config(repository_root, FINETUNE, phantom, tmp_path, "SOLVER.MAX_ITER", 3)
    run(longer, resume=True)
    assert load_checkpoint(tmp_path / "model_final.pth")["iteration"] == 3


def test_figures_on_record_survive_a_resume(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    def shown() -> list[tuple[float, str]]:
        return [
            (r["iteration"], "losses" if "total_loss" in r else "scores") for r in metrics(tmp_path)
        ]

    for iterations in (2, 2, 4):  # to its end, once more, and beyond
        options = ("SOLVER.MAX_ITER", iterations, "MRSSL.LOG_PERIOD", 2)
        run(config(repository_root, PRETRAIN, phantom, tmp_path, *options), resume=True)
        expected = [(n, what) for n in range(2, iterations + 1, 2) for what in ("losses", "scores")]
        assert shown() == expected
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [point.step for point in events.Scalars("total_loss")] == [2, 4]
    assert {point.step for point in events.Scalars("localization/AP50")} == {2, 4}


def test_a_resume_that_finds_nothing_says_so(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    cfg = config(repository_root, PRETRAIN, phantom, tmp_path)
    told = f"{tmp_path}: nothing to resume from: starting anew"
    assert Trainer(cfg, resume=True).notes == [told]
    assert Trainer(cfg).notes == []


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("SOLVER.WEIGHT_DECAY", 0.0, r"SOLVER\.WEIGHT_DECAY"),
        ("SOLVER.BASE_LR", 0.5, r"SOLVER\.BASE_LR"),
        ("MRSSL.TYPE_HEAD.LOSS_WEIGHT", 0.0, "of another model than the configuration's: unknown"),
        ("MODEL.ROI_BOX_HEAD.FC_DIM", 64, "of another model than the configuration's: "),
    ],
)
def test_a_resume_that_is_refused_names_the_key_and_leaves_the_folder_alone(
    repository_root: Path,
    phantom: Path,
    pretrained: Path,
    tmp_path: Path,
    key: str,
    value: object,
    told: str,
) -> None:
    (tmp_path / "model_0000005.pth").write_bytes((pretrained / "model_final.pth").read_bytes())
    (tmp_path / "config.yaml").write_text("of the run")
    cfg = config(repository_root, PRETRAIN, phantom, tmp_path, key, value)
    with pytest.raises(MrsslError, match=rf"model_0000005\.pth: .*{told}"):
        run(cfg, resume=True)
    assert (tmp_path / "config.yaml").read_text() == "of the run"


def test_a_resume_describes_itself_anew(
    repository_root: Path, phantom: Path, pretrained: Path, tmp_path: Path
) -> None:
    for name in ("model_final.pth", "metrics.json"):
        (tmp_path / name).write_bytes((pretrained / name).read_bytes())
    (tmp_path / "config.yaml").write_text("of the run")
    cfg = config(repository_root, PRETRAIN, phantom, tmp_path, "DATASETS.TEST", "()")
    run(cfg, resume=True)
    assert (tmp_path / "config.yaml").read_text() == cfg.dump()
