from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mrssl.checkpoint import CheckpointError, load_checkpoint
from mrssl.checkpoint.groups import by_group
from mrssl.config import with_values
from mrssl.errors import MrsslError

from .conftest import LOSSES, PRETRAIN, MakeConfig, losses, rows, run, tensors_equal

pytestmark = pytest.mark.detectron2


def test_a_pretraining_run_leaves_what_it_should(pretrained: Path) -> None:
    found = rows(pretrained)
    assert sorted(losses(pretrained)) == [0, 1, 2, 3, 4, 5]
    validated = [r["iteration"] for r in found if "validation/total_loss" in r]
    assert validated == [2, 5]
    assert {f"validation/{name}" for name in LOSSES} <= set(found[2])
    assert [r["iteration"] for r in found if "localization/AP50" in r] == [2, 6]
    results = json.loads((pretrained / "inference" / "results.json").read_text())
    assert {"localization", "type", "restoration"} <= set(results)
    assert list(pretrained.glob("events.out.tfevents.*"))
    names = {path.name for path in pretrained.glob("*.pth")}
    assert names == {"model_0000002.pth", "model_0000005.pth", "model_best.pth", "model_final.pth"}
    assert (pretrained / "last_checkpoint").read_text() == "model_final.pth"
    assert not list(pretrained.rglob(".*"))
    assert {"images_per_second", "data_share", "overhead_share", "grad_norm"} <= set(found[3])
    page = (pretrained / "summary.html").read_text()
    assert page.count("data:image/png;base64") >= 5  # curves and samples
    assert "restoration/PSNR" in page


def test_pictures_reach_tensorboard(pretrained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(pretrained)).Reload()
    assert [image.step for image in events.Images("samples")] == [2, 5]


def test_the_checkpoint_is_the_embedded_engines(pretrained: Path) -> None:
    checkpoint = load_checkpoint(pretrained / "model_final.pth")  # weights_only
    provenance = checkpoint["mrssl"]
    assert (provenance["task"], provenance["iteration"]) == ("pretrain", 6)
    assert len(provenance["type_names"]) == 8
    from mrssl.checkpoint import load_strict
    from mrssl.config import load_cfg
    from mrssl.engines.torchvision import build_model

    config = Path(__file__).parents[3] / PRETRAIN
    load_strict(build_model(load_cfg(config), 8), checkpoint, names="torchvision")


def test_resuming_continues_as_if_nothing_had_happened(
    make_config: MakeConfig, pretrained: Path, tmp_path: Path
) -> None:
    from mrssl.engines.detectron2 import MRITrainer

    cfg = make_config("pretrain", tmp_path, "TEST.EVAL_PERIOD", 3)
    trainer = MRITrainer(cfg)

    def stop_dead() -> None:  # in the fifth of six iterations; the checkpoint is of three
        if trainer.iter == 4:
            raise KeyboardInterrupt

    from detectron2.engine import hooks

    trainer.register_hooks([hooks.CallbackHook(before_step=lambda _: stop_dead())])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert [p.name for p in tmp_path.glob("model_0*.pth")] == ["model_0000002.pth"]

    run(cfg, resume=True)
    whole, resumed = losses(pretrained), losses(tmp_path)
    assert sorted(resumed) == sorted(whole)  # and none twice
    assert [r["iteration"] for r in rows(tmp_path)].count(3) == 1
    expected = load_checkpoint(pretrained / "model_final.pth")["model"]
    tensors_equal(load_checkpoint(tmp_path / "model_final.pth")["model"], expected, atol=0.0)


def test_a_damaged_newest_checkpoint_is_skipped(
    make_config: MakeConfig, pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from mrssl.engines.detectron2 import MRITrainer

    newest = (pretrained / "model_final.pth").read_bytes()
    (tmp_path / "model_0000003.pth").write_bytes(newest)
    (tmp_path / "model_0000005.pth").write_bytes(newest[: len(newest) // 2])
    trainer = MRITrainer(make_config("pretrain", tmp_path))
    trainer.resume_or_load(resume=True)
    assert trainer.start_iter == 6
    assert trainer.checkpointer.get_checkpoint_file().endswith("model_0000003.pth")


def test_fine_tuning_takes_the_weights_and_is_scored(
    make_config: MakeConfig, pretrained: Path, tmp_path: Path
) -> None:
    from mrssl.engines.detectron2 import MRITrainer

    weights = pretrained / "model_final.pth"
    cfg = make_config(
        "finetune", tmp_path, "MODEL.WEIGHTS", weights, "SOLVER.MAX_ITER", 3,
        "MRSSL.TRANSFER.LR_FACTOR", 0.1, "MRSSL.TRANSFER.FREEZE_ITERS", 2,
        "MRSSL.TRANSFER.REINIT", "('box_head',)",
    )  # fmt: skip
    trainer = MRITrainer(cfg)
    trainer.resume_or_load(resume=False)
    taken = set(by_group(trainer.transferred))
    assert "mask_head" in taken and "box_head" not in taken
    assert trainer.cfg.MODEL.ROI_HEADS.NUM_CLASSES == 2
    source = load_checkpoint(weights)["model"]
    stem = "backbone.bottom_up.stem.conv1.weight"
    assert torch.equal(trainer.bare_model.state_dict()[stem], source[stem])
    rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
    assert sorted(rates) == pytest.approx([0.1 * cfg.SOLVER.BASE_LR, cfg.SOLVER.BASE_LR])

    results = run(cfg)
    assert {"bbox", "segm", "dice", "hd95", "assd"} <= set(results)
    tuned = load_checkpoint(tmp_path / "model_final.pth")
    assert any("distortion_branch" in name for name in source)
    assert not any("distortion_branch" in name for name in tuned["model"])
    assert tuned["mrssl"]["class_names"] == ["small", "large"]
    assert not torch.equal(tuned["model"][stem], source[stem])  # the third iteration moved it

    scored = with_values(cfg, {"MODEL.WEIGHTS": str(tmp_path / "model_final.pth")})
    again = run(scored, eval_only=True)
    for task, values in results.items():
        assert again[task] == pytest.approx(values, nan_ok=True, abs=1e-9)


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_the_validation_loss_is_of_whole_slices_as_they_are(
    make_config: MakeConfig, tmp_path: Path, task: str
) -> None:
    from mrssl.engines.detectron2 import MRITrainer

    def batches(*overrides: Any) -> list[dict[str, Any]]:
        trainer = MRITrainer(make_config(task, tmp_path, *overrides))
        return [x for batch in trainer._validation_batches() for x in batch]

    plain = batches("MRSSL.AUGMENT.ROTATE", 0.0, "INPUT.CROP.ENABLED", False)
    changed = batches(
        "MRSSL.AUGMENT.ROTATE", 30.0, "MRSSL.AUGMENT.PRETRAIN", True, "INPUT.CROP.ENABLED", True,
        "INPUT.CROP.TYPE", "relative", "INPUT.CROP.SIZE", "[0.5, 0.5]",
    )  # fmt: skip
    assert len(plain) == len(changed) == 8
    for x, y in zip(plain, changed, strict=True):
        assert torch.equal(x["image"], y["image"])
        assert torch.equal(x["instances"].gt_masks.tensor, y["instances"].gt_masks.tensor)


def test_transferred_parameters_stay_frozen_as_long_as_told(
    make_config: MakeConfig, pretrained: Path, tmp_path: Path
) -> None:
    weights = pretrained / "model_final.pth"
    cfg = make_config(
        "finetune", tmp_path, "MODEL.WEIGHTS", weights, "SOLVER.MAX_ITER", 2,
        "MRSSL.TRANSFER.FREEZE_ITERS", 2, "DATASETS.TEST", "()",
    )  # fmt: skip
    run(cfg)
    source = load_checkpoint(weights)["model"]
    tuned = load_checkpoint(tmp_path / "model_final.pth")["model"]
    backbone = [name for name in source if name.startswith("backbone.")]
    assert any(name.endswith("running_mean") for name in backbone)
    assert all(torch.equal(tuned[name], source[name]) for name in backbone)
    new = "roi_heads.box_predictor.cls_score.bias"
    assert tuned[new].abs().max() > 0


def test_mixed_precision_trains_on_a_cpu_too(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = make_config(
        "pretrain", tmp_path, "SOLVER.AMP.ENABLED", True, "MRSSL.SOLVER.AMP_DTYPE", "bfloat16",
        "SOLVER.MAX_ITER", 2, "DATASETS.TEST", "()",
    )  # fmt: skip
    run(cfg)
    model = load_checkpoint(tmp_path / "model_final.pth")["model"]
    counters = {name for name in model if name.endswith("num_batches_tracked")}
    assert all(model[name].dtype == torch.float32 for name in set(model) - counters)


def test_training_ends_early_where_nothing_betters(make_config: MakeConfig, tmp_path: Path) -> None:
    cfg = make_config(
        "finetune", tmp_path, "TEST.EVAL_PERIOD", 1, "MRSSL.SOLVER.PATIENCE", 2,
        # At its worst from the start: a model that was hardly trained is sure of nothing.
        "MRSSL.SOLVER.BEST_METRIC", "hd95/missed", "MRSSL.EVALUATION.SCORE_THRESHOLD", 1.0,
    )  # fmt: skip
    run(cfg)
    final = load_checkpoint(tmp_path / "model_final.pth")
    assert final["iteration"] == 2  # the first evaluation is the best, two more do not better it
    assert load_checkpoint(tmp_path / "model_best.pth")["iteration"] == 0
    assert final["trainer"]["hooks"]["BestCheckpointer"]["evaluations_since_best"] == 2
    before = (tmp_path / "model_final.pth").read_bytes()
    assert "dice" in run(cfg, resume=True)  # a run that is over stays as it is
    assert (tmp_path / "model_final.pth").read_bytes() == before
    cfg.defrost()
    cfg.MRSSL.SOLVER.PATIENCE = 3
    run(cfg, resume=True)  # unless it is given more patience
    assert load_checkpoint(tmp_path / "model_final.pth")["iteration"] == 3


def test_a_run_that_was_killed_in_its_last_evaluation_is_ended_by_a_resume(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from mrssl.engines.detectron2 import trainer

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    def scored() -> list[int]:
        return [row["iteration"] for row in rows(tmp_path) if "localization/AP50" in row]

    cfg = make_config("pretrain", tmp_path, "SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 2)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(trainer, "score", killed)
        run(cfg)
    (tmp_path / "model_final.pth").unlink()  # or just before that was written
    for _ in range(2):
        assert "localization" in run(cfg, resume=True)
        assert scored() == [2]
        assert sorted(losses(tmp_path)) == [0, 1]
    for name in ("model_best.pth", "model_final.pth"):
        assert load_checkpoint(tmp_path / name)["mrssl"]["iteration"] == 2
    page = (tmp_path / "summary.html").read_text()
    assert "restoration/PSNR" in page
    assert "distorted | restored | clean" in page

    run(make_config("pretrain", tmp_path, "SOLVER.MAX_ITER", 3), resume=True)
    assert scored() == [2, 3]
    assert sorted(losses(tmp_path)) == [0, 1, 2]
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [point.step for point in events.Scalars("localization/AP50")] == [2, 3]


def test_a_metric_that_nothing_has_is_named(make_config: MakeConfig, tmp_path: Path) -> None:
    from mrssl.engines.detectron2 import MRITrainer

    cfg = make_config("finetune", tmp_path, "MRSSL.SOLVER.BEST_METRIC", "dice/mean")
    with pytest.raises(MrsslError, match=r"no metric 'dice/mean'.*dice/dice"):
        MRITrainer(cfg)


def test_a_loss_that_is_not_finite_names_itself_and_the_slices(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    from mrssl.engines.detectron2 import MRITrainer

    trainer = MRITrainer(make_config("finetune", tmp_path))
    with torch.no_grad():
        trainer.bare_model.roi_heads.box_predictor.cls_score.weight.fill_(float("nan"))
    with pytest.raises(MrsslError, match=r"loss_cls.*not finite.*subject\d"):
        trainer.train()


def test_an_average_is_what_is_scored_and_saved_and_survives_a_resume(
    make_config: MakeConfig, pretrained: Path, tmp_path: Path
) -> None:
    def averaged(folder: Path) -> Any:
        options = ("TEST.EVAL_PERIOD", 3, "MRSSL.SOLVER.EMA_DECAY", 0.9)
        return make_config("pretrain", folder, *options)

    run(averaged(tmp_path / "whole"))
    whole = load_checkpoint(tmp_path / "whole" / "model_final.pth")
    plain = load_checkpoint(pretrained / "model_final.pth")["model"]
    for name, tensor in plain.items():  # training itself is left alone
        assert torch.equal(whole["unaveraged"][name], tensor), name
    stem = "backbone.bottom_up.stem.conv1.weight"
    assert not torch.equal(whole["model"][stem], plain[stem])

    folder = tmp_path / "resumed"
    folder.mkdir()
    middle = (tmp_path / "whole" / "model_0000002.pth").read_bytes()
    (folder / "model_0000002.pth").write_bytes(middle)
    cfg = averaged(folder)
    results = run(cfg, resume=True)
    resumed = load_checkpoint(folder / "model_final.pth")
    assert resumed["averaged_updates"] == 6
    for entry in ("model", "unaveraged"):
        for name, tensor in whole[entry].items():
            assert torch.equal(resumed[entry][name], tensor), name

    scored = with_values(cfg, {"MODEL.WEIGHTS": str(folder / "model_final.pth")})
    again = run(scored, eval_only=True)
    for task, values in results.items():
        assert again[task] == pytest.approx(values, nan_ok=True, abs=0, rel=0)


def test_neither_engine_resumes_from_the_other(
    make_config: MakeConfig, repository_root: Path, pretrained: Path, tmp_path: Path
) -> None:
    from mrssl.config import load_cfg
    from mrssl.engines.detectron2 import MRITrainer
    from mrssl.engines.torchvision import Trainer

    content = (pretrained / "model_final.pth").read_bytes()
    (tmp_path / "model_0000005.pth").write_bytes(content)
    cfg = make_config("pretrain", tmp_path)
    embedded = load_cfg(
        repository_root / PRETRAIN,
        [
            "MODEL.DEVICE",
            "cpu",
            "DATASETS.TRAIN",
            repr(cfg.DATASETS.TRAIN),
            "OUTPUT_DIR",
            str(tmp_path),
        ],
    )
    with pytest.raises(CheckpointError, match="no training state of this engine"):
        Trainer(embedded, resume=True)
    other = load_checkpoint(pretrained / "model_final.pth")
    del other["trainer"]
    torch.save(other, tmp_path / "model_0000005.pth")
    with pytest.raises(CheckpointError, match="no training state of this engine"):
        MRITrainer(cfg).resume_or_load(resume=True)


def test_a_resume_that_finds_nothing_says_so(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrssl.engines.detectron2 import MRITrainer

    trainer, told = MRITrainer(make_config("pretrain", tmp_path)), list[str]()
    monkeypatch.setattr(trainer.checkpointer.logger, "info", told.append)
    trainer.resume_or_load(resume=False)
    assert told == []
    trainer.resume_or_load(resume=True)
    assert told == [f"{tmp_path}: nothing to resume from: starting anew"]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("MODEL.BACKBONE.FREEZE_AT", 2, r"MODEL\.BACKBONE\.FREEZE_AT"),
        ("SOLVER.BASE_LR", 0.5, r"SOLVER\.BASE_LR"),
        ("MRSSL.TYPE_HEAD.LOSS_WEIGHT", 0.0, "of another model than the configuration's: unknown"),
        ("MODEL.ROI_BOX_HEAD.FC_DIM", 64, "of another model than the configuration's: "),
    ],
)
def test_a_resume_that_is_refused_names_the_key_and_leaves_the_folder_alone(
    make_config: MakeConfig, pretrained: Path, tmp_path: Path, key: str, value: object, told: str
) -> None:
    (tmp_path / "model_0000005.pth").write_bytes((pretrained / "model_final.pth").read_bytes())
    (tmp_path / "config.yaml").write_text("of the run")
    with pytest.raises(MrsslError, match=rf"model_0000005\.pth: .*{told}"):
        run(make_config("pretrain", tmp_path, key, value), resume=True)
    assert (tmp_path / "config.yaml").read_text() == "of the run"


def test_a_resume_describes_itself_anew(
    make_config: MakeConfig, pretrained: Path, tmp_path: Path
) -> None:
    for name in ("model_final.pth", "metrics.json"):
        (tmp_path / name).write_bytes((pretrained / name).read_bytes())
    (tmp_path / "config.yaml").write_text("of the run")
    cfg = make_config("pretrain", tmp_path, "DATASETS.TEST", "()")
    run(cfg, resume=True)
    assert (tmp_path / "config.yaml").read_text() == cfg.dump()


def test_a_checkpoint_of_other_classes_is_neither_scored_nor_resumed(
    make_config: MakeConfig, pretrained: Path, tmp_path: Path
) -> None:
    content = load_checkpoint(pretrained / "model_final.pth")
    content["mrssl"] |= {"class_names": ["large", "small"], "class_values": [1, 2]}
    weights = tmp_path / "model_0000005.pth"
    torch.save(content, weights)
    message = r"model_0000005\.pth: its classes \['large', 'small'\] .* \['small', 'large'\]"
    with pytest.raises(MrsslError, match=message):
        run(make_config("finetune", tmp_path), resume=True)
    with pytest.raises(MrsslError, match=message):
        run(make_config("finetune", tmp_path / "s", "MODEL.WEIGHTS", weights), eval_only=True)


def test_without_a_period_only_the_final_checkpoint_is_saved(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    options = ("SOLVER.MAX_ITER", 1, "SOLVER.CHECKPOINT_PERIOD", 0, "DATASETS.TEST", "()")
    run(make_config("pretrain", tmp_path, *options))
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_final.pth"]
