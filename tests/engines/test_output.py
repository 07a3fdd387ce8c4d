"""The folder of a run, while another command looks at it."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from mrssl.checkpoint import save_checkpoint
from mrssl.config import get_cfg
from mrssl.engines.output import prepare_output, write_config
from mrssl.files import written_whole


def config(folder: Path, weights: str = "") -> Any:
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.MODEL.WEIGHTS = str(folder), weights
    return cfg


def test_scoring_leaves_the_folder_of_a_training_alone(tmp_path: Path) -> None:
    prepare_output(config(tmp_path), resume=False)
    write_config(config(tmp_path))
    before = (tmp_path / "config.yaml").read_bytes()
    save_checkpoint(tmp_path / "model_best.pth", {"model": {}})
    with written_whole(tmp_path / "model_0000001.pth") as temporary:
        temporary.write_bytes(b"half of it so far")
        prepare_output(config(tmp_path, "model_best.pth"), resume=False, eval_only=True)
    assert (tmp_path / "model_0000001.pth").read_bytes() == b"half of it so far"
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_scoring_describes_itself_in_a_folder_of_its_own(tmp_path: Path) -> None:
    prepare_output(config(tmp_path / "new", "model_best.pth"), resume=False, eval_only=True)
    assert "model_best.pth" in (tmp_path / "new" / "config.yaml").read_text()


@pytest.mark.detectron2
def test_detectron2s_setup_leaves_it_alone_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrssl.engines.detectron2 import get_cfg as detectron2_cfg
    from mrssl.engines.detectron2.run import main

    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr("detectron2.engine.defaults.collect_env_info", str)
    monkeypatch.setitem(main.__globals__, "evaluate_only", lambda cfg: {})
    (run / "config.yaml").write_text("of the training")
    (run / "log.txt").write_text("of the training")
    cfg = detectron2_cfg()
    cfg.OUTPUT_DIR, cfg.MODEL.DEVICE, cfg.SEED = str(run), "cpu", 0
    main(cfg, Namespace(resume=False, eval_only=True, config_file=""))
    assert sorted(os.listdir(run)) == ["config.yaml", "log.txt"]
    assert {path.read_text() for path in run.iterdir()} == {"of the training"}
    assert not list(elsewhere.iterdir())
