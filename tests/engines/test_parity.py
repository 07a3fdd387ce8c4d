"""One contract, two engines: the same weights find the same, the same batch costs the same.

The weights are trained here for a few iterations, unless MRSSL_TEST_CHECKPOINT names a checkpoint
of one of the two configurations: then those of its task are taken from there.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrssl.checkpoint import load_checkpoint, load_strict
from mrssl.config import load_cfg

pytestmark = pytest.mark.detectron2

CONFIGS = {
    "pretrain": "configs/pretrain/distortion_R_18_FPN_small.yaml",
    "finetune": "configs/finetune/mask_R_18_FPN_small.yaml",
}
NAMED = os.environ.get("MRSSL_TEST_CHECKPOINT")
#: What is trained for a few iterations only is of small slices, and unsure.
SIZES = () if NAMED else (
    "INPUT.MIN_SIZE_TRAIN", "(96,)", "INPUT.MIN_SIZE_TEST", "96", "INPUT.MAX_SIZE_TEST", "160",
)  # fmt: skip
SCORE = 0.05 if NAMED else 0.02
SLICES = 50
ITERATIONS = {"pretrain": 25, "finetune": 40}


def config(
    root: Path, data: Path, output: Path, *overrides: Any, engine: str, task: str = "pretrain"
) -> Any:
    options = [
        "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(output),
        "DATASETS.TRAIN", f"('{data}:train',)", "DATASETS.TEST", f"('{data}:train',)",
        "SOLVER.IMS_PER_BATCH", "4", "DATALOADER.NUM_WORKERS", "0", *SIZES,
        *map(str, overrides),
    ]  # fmt: skip
    if engine == "torchvision":
        return load_cfg(root / CONFIGS[task], options)
    from mrssl.engines.detectron2 import get_cfg

    return load_cfg(root / CONFIGS[task], options, cfg=get_cfg())


def models(
    root: Path, data: Path, output: Path, content: Any, *overrides: Any, task: str = "pretrain"
) -> tuple[Any, Any, Any]:
    """The embedded engine's model, Detectron2's, both with the same weights, and the data."""
    from detectron2.modeling import build_model as build_detectron2

    from mrssl.engines.datasets import RunData
    from mrssl.engines.torchvision import build_model

    mine, other = (
        config(root, data, output, *overrides, engine=engine, task=task)
        for engine in ("torchvision", "detectron2")
    )
    described = RunData(mine)
    ours = build_model(described.with_classes(mine), len(described.type_names))
    theirs = build_detectron2(described.with_classes(other))
    load_strict(ours, content, names="torchvision")
    load_strict(theirs, content)
    return ours, theirs, described


@pytest.fixture(scope="module")
def spine(shared_data: Path) -> Path:
    return shared_data / "spine" / "dataset.json"


@pytest.fixture(scope="module", params=list(CONFIGS))
def trained(
    request: pytest.FixtureRequest,
    repository_root: Path,
    spine: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Any]:
    """A checkpoint, of either task, whose model finds something, if not well."""
    task = request.param
    if NAMED and (content := load_checkpoint(NAMED))["mrssl"]["task"] == task:
        return content
    from mrssl.engines.torchvision import Trainer

    folder = tmp_path_factory.mktemp("parity")
    cfg = config(
        repository_root, spine, folder, "SOLVER.MAX_ITER", ITERATIONS[task],
        "SOLVER.BASE_LR", 1e-3, "SOLVER.WARMUP_ITERS", 3, "DATASETS.TEST", "()",
        engine="torchvision", task=task,
    )  # fmt: skip
    Trainer(cfg).train()
    return load_checkpoint(folder / "model_final.pth")


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of boxes (N, 4) with those of the same place."""
    low, high = np.maximum(a[:, :2], b[:, :2]), np.minimum(a[:, 2:], b[:, 2:])
    both = np.prod((high - low).clip(min=0), axis=1)
    areas = [np.prod(x[:, 2:] - x[:, :2], axis=1) for x in (a, b)]
    return both / (areas[0] + areas[1] - both)


@torch.no_grad()
def test_the_same_weights_find_the_same_on_real_slices(
    repository_root: Path, spine: Path, trained: dict[str, Any], tmp_path: Path
) -> None:
    from mrssl.engines.detectron2.dataset_mapper import to_input as detectron2_input
    from mrssl.engines.detectron2.evaluation import to_prediction as detectron2_prediction
    from mrssl.engines.torchvision.batches import to_input, to_prediction

    ours, theirs, data = models(
        repository_root, spine, tmp_path, trained, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", SCORE,
        task=trained["mrssl"]["task"],
    )  # fmt: skip
    ours.eval()
    theirs.eval()
    records = data.test[:: max(len(data.test) // SLICES, 1)][:SLICES]
    assert len(records) == SLICES
    found = changed = 0
    for record in records:
        sample = data.test_mapper(record)
        a = to_prediction(ours([to_input(sample)])[0])
        x = detectron2_input(sample, is_train=False)
        b = detectron2_prediction(x, theirs([x])[0]["instances"])
        assert a.keys() == b.keys()
        assert len(a["scores"]) == len(b["scores"])
        np.testing.assert_array_equal(a["classes"], b["classes"])
        np.testing.assert_allclose(a["scores"], b["scores"], atol=1e-4)
        for name in {"type_scores", "restored"} & a.keys():
            np.testing.assert_allclose(a[name], b[name], atol=1e-4)
        if len(a["scores"]):
            assert box_iou(a["boxes"], b["boxes"]).min() >= 0.999
            assert (a["masks"] != b["masks"]).mean((1, 2)).max() <= 0.005
        found += len(a["scores"])
        if data.pretraining:
            middle = sample["image"][1] / 255
            changed += int(np.abs(a["restored"] - middle).max() > 1e-3)
    assert found >= SLICES  # or else there was nothing to agree on
    assert changed >= SLICES // 2 or not data.pretraining


def test_the_same_batch_costs_the_same(repository_root: Path, spine: Path, tmp_path: Path) -> None:
    """All losses, where no proposal and no anchor is left to chance."""
    from detectron2.utils.events import EventStorage

    from mrssl.checkpoint import to_detectron2
    from mrssl.engines.detectron2.dataset_mapper import to_input as detectron2_input
    from mrssl.engines.torchvision import build_model
    from mrssl.engines.torchvision.batches import to_input

    everything = (
        "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 100000, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0,
        "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100000, "MODEL.RPN.POSITIVE_FRACTION", 1.0,
        "MRSSL.DISTORTION_HEAD.MAX_ROIS", 100000, "MRSSL.POSITION_HEAD.LOSS_WEIGHT", 1.0,
        "MRSSL.SLICE_DECODER.LOSS_WEIGHT", 2.0,
    )  # fmt: skip
    torch.manual_seed(0)
    initial = build_model(
        config(repository_root, spine, tmp_path, *everything, engine="torchvision"), 8
    )
    # The last layer of the restoration starts at zero: moved, so that the loss depends on all.
    torch.nn.init.normal_(
        initial.roi_heads.distortion_branch.restoration_head.predictor.weight, std=0.01
    )
    content = {"model": to_detectron2(initial.state_dict())}
    ours, theirs, data = models(repository_root, spine, tmp_path, content, *everything)
    samples = [data.train_mapper(record) for record in data.train[5:200:50]]
    assert sum(len(sample["boxes"]) for sample in samples) >= 4
    ours.train()
    theirs.train()
    with torch.no_grad(), EventStorage():
        a = ours([to_input(sample) for sample in samples])
        b = theirs([detectron2_input(sample, is_train=True) for sample in samples])
    assert a.keys() == b.keys()
    for name in ("loss_type", "loss_restoration", "loss_position", "loss_slice"):
        assert float(a[name]) > 0.1
        assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-5), name
    for name in ("loss_mask", "loss_cls", "loss_box_reg"):
        assert float(a[name]) == pytest.approx(float(b[name]), abs=1e-4), name
    for name in ("loss_rpn_cls", "loss_rpn_loc"):  # small: of a batch of 100,000 anchors a slice
        assert float(a[name]) > 0
        assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-4), name


def test_both_begin_alike(repository_root: Path, spine: Path, tmp_path: Path) -> None:
    """Before any training each tensor has the same spread: parity of weights cannot show it."""
    from detectron2.modeling import build_model as build_detectron2

    from mrssl.checkpoint import to_detectron2
    from mrssl.engines.torchvision import build_model

    cfg = config(repository_root, spine, tmp_path, engine="torchvision")
    ours = to_detectron2(build_model(cfg, 8).state_dict())
    theirs = build_detectron2(
        config(repository_root, spine, tmp_path, engine="detectron2")
    ).state_dict()
    for name in ours.keys() & theirs.keys():
        spreads = [float(state[name].double().std(correction=0)) for state in (ours, theirs)]
        if min(spreads) == 0 or ours[name].numel() >= 500:
            assert spreads[0] == pytest.approx(spreads[1], rel=0.1), name
