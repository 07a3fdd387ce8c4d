from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrssl.config import ConfigError, load_cfg
from mrssl.errors import MrsslError

from .conftest import MakeConfig

pytestmark = pytest.mark.detectron2


#: In training and in evaluation.
NEVER_HEEDED = [
    ("MODEL.KEYPOINT_ON", True),
    ("MODEL.LOAD_PROPOSALS", True),
    ("TEST.AUG.ENABLED", True),
    ("TEST.EXPECTED_RESULTS", [["bbox", "AP", 38.5, 0.2]]),
]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *NEVER_HEEDED,
        ("SOLVER.NESTEROV", True),
        ("SOLVER.WEIGHT_DECAY_BIAS", 0.0),
        ("SOLVER.BIAS_LR_FACTOR", 2.0),
        ("SOLVER.WARMUP_METHOD", "constant"),
        ("SOLVER.RESCALE_INTERVAL", True),
        ("TEST.PRECISE_BN.ENABLED", True),
        ("DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler"),
        ("DATALOADER.FILTER_EMPTY_ANNOTATIONS", True),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"),
    ],
)
def test_a_key_that_the_trainer_would_not_heed_is_named(
    make_config: MakeConfig, tmp_path: Path, key: str, value: object
) -> None:
    from mrssl.engines.detectron2 import MRITrainer

    with pytest.raises(ConfigError, match=f"^{key} {re.escape(str(value))}|^{key} '{value}'"):
        MRITrainer(make_config("finetune", tmp_path, key, value))


@pytest.mark.parametrize(("key", "value"), NEVER_HEEDED)
def test_evaluation_alone_names_the_keys_that_it_would_not_heed(
    make_config: MakeConfig, tmp_path: Path, key: str, value: object
) -> None:
    from mrssl.engines.detectron2.run import evaluate_only

    with pytest.raises(ConfigError, match=f"^{key} "):
        evaluate_only(make_config("finetune", tmp_path, key, value, "SOLVER.NESTEROV", True))


@pytest.mark.parametrize(
    "options",
    [
        ("SOLVER.WEIGHT_DECAY", 0.01, "SOLVER.WEIGHT_DECAY_BIAS", 0.01),
        ("MRSSL.DATA.KEEP_EMPTY", False),
        ("MRSSL.DATA.KEEP_EMPTY", False, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", True),
    ],
)
def test_a_key_that_says_what_it_does_is_taken(
    make_config: MakeConfig, tmp_path: Path, options: tuple[object, ...]
) -> None:
    from mrssl.engines.detectron2.config import check_heeded

    check_heeded(make_config("finetune", tmp_path, *options))


@pytest.mark.parametrize("wrap", [classmethod, staticmethod, lambda f: f])
@pytest.mark.parametrize(
    "name",
    [
        "build_model", "build_optimizer", "build_lr_scheduler", "build_train_loader",
        "build_test_loader", "build_evaluator",
    ],
)  # fmt: skip
def test_a_factory_that_the_trainer_would_not_call_is_named(
    make_config: MakeConfig, tmp_path: Path, name: str, wrap: Callable[..., object]
) -> None:
    from mrssl.engines.detectron2 import MRITrainer

    own = type("Own", (), {name: wrap(lambda *args: None)})
    mixed = type("Mixed", (own, MRITrainer), {})
    with pytest.raises(MrsslError, match=f"^Own.{name}: MRITrainer does not call it"):
        mixed(make_config("finetune", tmp_path))


def test_a_subclass_may_override_what_is_called(make_config: MakeConfig, tmp_path: Path) -> None:
    from mrssl.engines.detectron2 import MRITrainer

    class Own(MRITrainer):
        @staticmethod
        def auto_scale_workers(cfg: Any, num_workers: int) -> Any:
            cfg = cfg.clone()
            cfg.defrost()
            cfg.SOLVER.MAX_ITER = 77
            cfg.freeze()
            return cfg

        def build_hooks(self) -> list[Any]:
            return super().build_hooks()[:2]

    trainer = Own(make_config("finetune", tmp_path))
    assert trainer.max_iter == 77
    assert len(trainer._hooks) == 2


def test_every_configuration_here_is_heeded(repository_root: Path) -> None:
    from mrssl.config import load_cfg, restores_whole_slices
    from mrssl.engines.detectron2 import get_cfg
    from mrssl.engines.detectron2.config import check_heeded

    for file in sorted((repository_root / "configs").rglob("*.yaml")):
        cfg = load_cfg(file, cfg=get_cfg())
        if not restores_whole_slices(cfg):
            check_heeded(cfg)


@pytest.mark.parametrize(
    "options",
    [
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR_END", 1e-4),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupMultiStepLR", "SOLVER.STEPS", (20, 60)),
    ],
)
def test_the_schedule_is_that_of_detectron2(
    make_config: MakeConfig, tmp_path: Path, options: tuple[object, ...]
) -> None:
    import torch
    from detectron2.solver import build_lr_scheduler

    from mrssl.engines.solver import IterationLR, build_schedule

    cfg = make_config(
        "finetune", tmp_path, "SOLVER.MAX_ITER", 100, "SOLVER.WARMUP_ITERS", 30,
        "SOLVER.WARMUP_FACTOR", 0.1, *options,
    )  # fmt: skip
    rates: list[list[float]] = []
    for build in (
        lambda optimizer: IterationLR(optimizer, build_schedule(cfg), cfg.SOLVER.MAX_ITER),
        lambda optimizer: build_lr_scheduler(cfg, optimizer),
    ):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = build(optimizer)
        rates.append([])
        for _ in range(100):
            rates[-1] += scheduler.get_last_lr()
            optimizer.step()
            scheduler.step()
    assert rates[0] == pytest.approx(rates[1], abs=1e-9)


def test_what_detectron2_writes_of_a_configuration_is_read_again(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    from mrssl.config import load_cfg
    from mrssl.engines.detectron2 import get_cfg

    cfg = make_config("pretrain", tmp_path, "MRSSL.DISTORTION_HEAD.MARGIN", 4)
    (tmp_path / "again.yaml").write_text(cfg.dump())
    assert load_cfg(tmp_path / "again.yaml", cfg=get_cfg()).MRSSL == cfg.MRSSL


@pytest.mark.parametrize("through", ["the file", "its base"])
def test_a_configuration_runs_no_code(through: str, tmp_path: Path) -> None:
    from mrssl.engines.detectron2 import get_cfg

    trace, file = tmp_path / "trace", tmp_path / "hostile.yaml"
    file.write_text(f'OUTPUT_DIR: !!python/object/apply:os.mkdir ["{trace}"]\n')
    if through == "its base":
        (tmp_path / "config.yaml").write_text("_BASE_: hostile.yaml\n")
        file = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match=file.name):
        load_cfg(file, cfg=get_cfg())
    assert not trace.exists()
