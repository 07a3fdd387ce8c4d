from __future__ import annotations

from pathlib import Path

import pytest

from mrssl.config import ConfigError

from .conftest import MakeConfig

pytestmark = pytest.mark.detectron2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.NESTEROV", True),
        ("SOLVER.WEIGHT_DECAY_BIAS", 0.0),
        ("SOLVER.BIAS_LR_FACTOR", 2.0),
        ("SOLVER.WARMUP_METHOD", "constant"),
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

    with pytest.raises(ConfigError, match=f"^{key} {value}|^{key} '{value}'"):
        MRITrainer(make_config("finetune", tmp_path, key, value))


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


def test_every_configuration_here_is_heeded(repository_root: Path) -> None:
    from mrssl.config import load_cfg, restores_whole_slices
    from mrssl.engines.detectron2 import get_cfg
    from mrssl.engines.detectron2.config import check_heeded

    for file in sorted((repository_root / "configs").rglob("*.yaml")):
        cfg = load_cfg(file, cfg=get_cfg())
        if not restores_whole_slices(cfg):
            check_heeded(cfg)
