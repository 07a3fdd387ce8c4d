"""Whole-slice restoration: the peer pretext trains, is scored, and its weights transfer."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from mrssl.checkpoint import load_checkpoint
from mrssl.config import load_cfg
from mrssl.engines.torchvision import Trainer, main
from mrssl.engines.torchvision.model import build_model
from mrssl.engines.torchvision.whole_slice import WholeSliceRestoration
from mrssl.structures import RestorationTargets

QUICK = ["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "3",
         "SOLVER.WARMUP_ITERS", "1", "INPUT.MIN_SIZE_TRAIN", "(64,)",
         "INPUT.MIN_SIZE_TEST", "64"]  # fmt: skip
PEER = "configs/pretrain/whole_slice_R_18_FPN_small.yaml"


def test_padding_is_left_out_and_the_output_has_the_slices_grid(repository_root: Path) -> None:
    model = build_model(load_cfg(repository_root / PEER, QUICK))
    assert isinstance(model, WholeSliceRestoration)
    clean = torch.rand(40, 50)
    targets = {"restoration": RestorationTargets(clean.expand(2, -1, -1), torch.zeros(0, 40, 50))}
    image = torch.full((3, 40, 50), 60.0)
    torch.nn.init.zeros_(model.decoder.predictor.weight)
    torch.nn.init.constant_(model.decoder.predictor.bias, 0.5)
    loss = model.train()([{"image": image, "targets": targets}])["loss_restoration"]
    assert loss.item() == pytest.approx(float(((clean - 0.5) ** 2).mean()), rel=1e-5)
    with torch.no_grad():
        (found,) = model.eval()([{"image": image, "height": 20, "width": 25}])
    assert found["restored"].shape == (20, 25)
    assert torch.allclose(found["restored"], torch.tensor(0.5))


@pytest.mark.slow
def test_the_peer_is_trained_scored_and_transferred(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    data = ["DATASETS.TRAIN", f"('{phantom}:train',)", "DATASETS.TEST", f"('{phantom}:test',)"]
    folder = tmp_path / "peer"
    cfg = load_cfg(repository_root / PEER, [*QUICK, *data, "OUTPUT_DIR", str(folder)])
    results = main(cfg, Namespace(resume=False, eval_only=False))
    assert np.isfinite(results["restoration"]["PSNR"])
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert rows[0]["loss_restoration"] > 0

    weights = folder / "model_final.pth"
    task = repository_root / "configs/quick_schedules/finetune_R_18_FPN.yaml"
    tuned = load_cfg(
        task,
        [*data, "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", str(tmp_path)],
    )
    trainer = Trainer(tuned)
    source = load_checkpoint(weights)["model"]
    state = trainer.model.state_dict()
    for ours, theirs in (
        ("backbone.body.layer4.1.conv2.weight", "backbone.bottom_up.res5.1.conv2.weight"),
        ("backbone.fpn.layer_blocks.0.0.weight", "backbone.fpn_output2.weight"),
    ):
        assert torch.equal(state[ours], source[theirs])
    assert {name.split(".")[0] for name in trainer.transferred} == {"backbone"}
