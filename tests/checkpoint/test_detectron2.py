"""Against Detectron2 itself: every name, every number, and exports in its own checkpointer."""

from __future__ import annotations

import pytest
import torch
import yaml

from mrssl.checkpoint import (
    Provenance,
    export_checkpoint,
    load_for_transfer,
    load_strict,
    save_checkpoint,
    to_detectron2,
    to_torchvision,
)

pytestmark = pytest.mark.detectron2

# Every depth with every normalisation, and every option of the heads.
VARIANTS = [
    {"depth": depth, "norm": norm, "head_norm": head_norm, **options}
    for depth, options in ((18, {}), (34, {"fc": 3}), (50, {"convs": 4}), (101, {"classes": 1}))
    for norm, head_norm in (("FrozenBN", ""), ("BN", ""), ("GN", "GN"))
]


def build(config, tmp_path, device="cpu"):
    """The model that stock Detectron2 builds from a plain configuration."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    path = tmp_path / "plain.yaml"
    path.write_text(yaml.safe_dump({"VERSION": 2, **config}))
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = device
    return build_model(cfg).eval()


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_every_name_and_shape(torchvision_model, detectron2_config, tmp_path, variant):
    ours = to_detectron2(torchvision_model(**variant).state_dict())
    with torch.device("meta"):  # names and shapes only
        theirs = build(detectron2_config(**variant), tmp_path, "meta").state_dict()
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}


@pytest.mark.parametrize(
    "variant",
    [
        {"depth": 18, "norm": "GN", "head_norm": "GN"},
        {"depth": 34, "norm": "BN", "fc": 3},
        {"depth": 50, "norm": "FrozenBN", "convs": 4},
    ],
    ids=lambda v: "-".join(map(str, v.values())),
)
@torch.no_grad()
def test_both_libraries_compute_the_same(
    torchvision_model, detectron2_config, random_state, tmp_path, variant
):
    tv = torchvision_model(**variant)
    state = random_state(tv)
    tv.load_state_dict(state)
    d2 = build(detectron2_config(**variant), tmp_path)
    load_strict(d2, {"model": to_detectron2(state)})
    for name, tensor in to_torchvision(d2.state_dict()).items():  # and back out of the model
        assert torch.equal(tensor, state[name]), name

    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    ours, theirs = list(tv.backbone(image).values()), list(d2.backbone(image).values())
    assert len(ours) == len(theirs) == 5
    assert_close(theirs, ours)
    rpns = d2.proposal_generator.rpn_head(theirs), tv.rpn.head(ours)
    for d2_levels, levels in zip(*rpns, strict=True):  # logits, deltas
        assert_close(d2_levels, levels)

    crops = torch.rand(6, 32, 7, 7)
    logits, deltas = tv.roi_heads.box_predictor(tv.roi_heads.box_head(crops))
    d2_logits, d2_deltas = d2.roi_heads.box_predictor(d2.roi_heads.box_head(crops))
    assert_close(d2_logits.roll(1, dims=1), logits)
    assert_close(d2_deltas, deltas[:, 4:])

    crops = torch.rand(2, 32, 14, 14)
    masks = tv.roi_heads.mask_predictor(tv.roi_heads.mask_head(crops))
    assert_close(d2.roi_heads.mask_head.layers(crops), masks[:, 1:])


def assert_close(theirs, ours):
    for tensor in ours:
        assert 1e-2 < tensor.abs().mean() < 1e2  # or else the tolerances would mean nothing
    torch.testing.assert_close(theirs, ours, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, torchvision_model, detectron2_config, random_state):
    """A pretraining checkpoint of the embedded engine's kind, and its state."""
    model = torchvision_model(classes=1)
    model.roi_heads.distortion_branch = torch.nn.ModuleDict({"type_head": torch.nn.Linear(2, 4)})
    config = detectron2_config(classes=1)
    config["MODEL"]["ROI_HEADS"]["NAME"] = "DistortionROIHeads"
    state = to_detectron2(random_state(model))
    path = tmp_path_factory.mktemp("run") / "model_final.pth"
    provenance = Provenance(task="pretrain", model_config=config)
    save_checkpoint(path, {"model": state, "mrssl": provenance.to_dict()})
    return path, state


def test_export_loads_in_the_stock_checkpointer(checkpoint, tmp_path):
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    path, state = checkpoint
    output = tmp_path / "detector.pth"
    report = export_checkpoint(path, output, to="detectron2")
    cfg = get_cfg()
    cfg.merge_from_file(str(report.config))  # stock keys only: an unknown one would be an error
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    incompatible = []
    checkpointer = DetectionCheckpointer(model)
    checkpointer._log_incompatible_keys = incompatible.append
    checkpointer.load(str(output))
    (keys,) = incompatible
    assert not (keys.missing_keys or keys.unexpected_keys or keys.incorrect_shapes)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_transfer_into_a_detectron2_model(checkpoint, detectron2_config, tmp_path):
    model = build(detectron2_config(classes=4), tmp_path)
    report = load_for_transfer(model, checkpoint[0], scope="detector")
    counts = report.counts()
    assert {group for group, row in counts.items() if row["new"]} == {
        "box_predictor",
        "mask_predictor",
    }
    assert not report.mismatched
    for name in report.loaded:
        assert torch.equal(model.state_dict()[name], checkpoint[1][name]), name
