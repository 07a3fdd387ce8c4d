"""Loading into a model: what fits within a scope, and what the report says of the rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mrssl.checkpoint import (
    CheckpointError,
    Provenance,
    load_for_transfer,
    load_strict,
    save_checkpoint,
    to_detectron2,
    to_torchvision,
)
from mrssl.errors import MrsslError

BRANCH = "roi_heads.distortion_branch"
GROUPS_BY_SCOPE = {
    "backbone": {"backbone"},
    "fpn": {"backbone", "fpn"},
    "rpn": {"backbone", "fpn", "rpn"},
    "detector": {"backbone", "fpn", "rpn", "box_head", "mask_head", "restoration_head"},
}


class Branch(nn.Module):
    """Stands for the pretext's branch: only its names matter here."""

    def __init__(self, types: int = 4) -> None:
        super().__init__()
        self.type_head = nn.Sequential(nn.Linear(2, types))
        self.restoration_head = nn.Sequential(nn.Linear(2, 1))


@pytest.fixture(scope="module")
def pretrained(torchvision_model):
    model = torchvision_model(classes=1, seed=2)
    model.roi_heads.distortion_branch = Branch()
    provenance = Provenance(type_names=("a", "b", "c", "d"))
    return {"model": to_detectron2(model.state_dict()), "mrssl": provenance.to_dict()}


def counts(report, kind):
    return {group: row[kind] for group, row in report.counts().items() if row[kind]}


@pytest.mark.parametrize("scope", GROUPS_BY_SCOPE)
def test_scopes(torchvision_model, pretrained, scope):
    model = torchvision_model(classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_for_transfer(model, pretrained, scope=scope, names="torchvision")

    groups = GROUPS_BY_SCOPE[scope] - {"restoration_head"}  # this model has no such branch
    assert set(counts(report, "loaded")) == groups
    assert not report.mismatched
    after = model.state_dict()
    source = to_torchvision(pretrained["model"])
    for name in report.loaded:
        assert torch.equal(after[name], source[name]), name
    for name in report.new:
        assert torch.equal(after[name], before[name]), name
    # every tensor of the model is told of once, and every one of the checkpoint too
    assert sorted((*report.loaded, *report.new)) == sorted(after)
    assert sorted((*report.loaded, *report.dropped)) == sorted(source)


def test_parts_of_the_scope_can_start_anew(torchvision_model, pretrained):
    model = torchvision_model(classes=3)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_for_transfer(
        model, pretrained, scope="detector", reinit=("box_head", "rpn"), names="torchvision"
    )
    assert set(counts(report, "loaded")) == {"backbone", "fpn", "mask_head"}
    assert {"box_head", "rpn"} <= set(counts(report, "new")) & set(counts(report, "dropped"))
    after = model.state_dict()
    for part in ("roi_heads.box_head.", "rpn."):
        names = [name for name in after if name.startswith(part)]
        assert names and all(torch.equal(after[name], before[name]) for name in names)


def test_predictors_are_new_even_where_shapes_agree(torchvision_model, pretrained):
    report = load_for_transfer(
        torchvision_model(classes=1), pretrained, scope="detector", names="torchvision"
    )
    assert counts(report, "new") == {"box_predictor": 4, "mask_predictor": 2}
    assert counts(report, "dropped") == {
        "box_predictor": 4,
        "mask_predictor": 2,
        "type_head": 2,
        "restoration_head": 2,
    }
    # the deconvolution does not depend on the classes
    assert "roi_heads.mask_predictor.conv5_mask.weight" in report.loaded


@pytest.mark.parametrize(
    "types, loaded", [("abcd", True), ("abdc", False), ("abcde", False), (None, False)]
)
def test_type_head_is_loaded_between_equal_types(torchvision_model, pretrained, types, loaded):
    model = torchvision_model(classes=1)
    model.roi_heads.distortion_branch = Branch(len(types or "abcd"))
    report = load_for_transfer(
        model, pretrained, scope="detector", names="torchvision", type_names=types and tuple(types)
    )
    assert (f"{BRANCH}.type_head.0.weight" in report.loaded) == loaded
    assert f"{BRANCH}.restoration_head.0.weight" in report.loaded
    assert not report.mismatched


def test_mismatched_tensors_keep_their_initialisation(torchvision_model, pretrained):
    model = torchvision_model(classes=1)
    model.roi_heads.box_head.fc6 = nn.Linear(32 * 7 * 7, 10)
    before = model.roi_heads.box_head.fc6.weight.clone()
    report = load_for_transfer(model, pretrained, scope="detector", names="torchvision")
    names = {name: shapes for name, *shapes in report.mismatched}
    assert names["roi_heads.box_head.fc6.weight"] == [(24, 1568), (10, 1568)]
    assert torch.equal(model.roi_heads.box_head.fc6.weight, before)
    text = str(report)
    assert "fc6.weight: [24, 1568] in the checkpoint, [10, 1568] in the model" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("box_head"))
    assert row == ["box_head", "2", "0", "0", "2"]


def test_norms_of_other_kind_are_noted(torchvision_model, pretrained):
    report = load_for_transfer(
        torchvision_model(norm="GN"), pretrained, scope="backbone", names="torchvision"
    )
    (note,) = report.notes
    assert "backbone: the checkpoint normalises by running statistics" in note
    assert f"note: {note}" in str(report)
    same = load_for_transfer(
        torchvision_model(norm="BN"), pretrained, scope="backbone", names="torchvision"
    )
    assert not same.notes and counts(same, "new").get("backbone") is None


def test_nothing_loaded_is_an_error(torchvision_model, pretrained, tmp_path):
    path = tmp_path / "model.pth"
    save_checkpoint(path, {"model": {"backbone.fpn_lateral2.weight": torch.ones(1)}})
    with pytest.raises(CheckpointError, match=r"model\.pth: not one of its 1 tensors fits"):
        load_for_transfer(torchvision_model(), path, scope="fpn", names="torchvision")
    with pytest.raises(MrsslError, match="scope 'neck': one of backbone, fpn, rpn, detector"):
        load_for_transfer(torchvision_model(), pretrained, scope="neck", names="torchvision")
    with pytest.raises(
        MrsslError, match=r"no part of scope 'fpn' .* 'box_head': one of backbone, f"
    ):
        load_for_transfer(torchvision_model(), pretrained, scope="fpn", reinit=["box_head"])


def test_tensors_that_are_not_finite_are_refused(torchvision_model, pretrained):
    name = "backbone.bottom_up.res3.0.conv1.weight"
    broken = {"model": {**pretrained["model"]}}
    broken["model"][name] = torch.full_like(broken["model"][name], float("nan"))
    model = torchvision_model()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"^b\.pth: .*layer2\.0\.conv1\.weight holds NaN"):
        load_for_transfer(model, broken, scope="backbone", names="torchvision", where="b.pth")
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


# -- strict ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
def test_strict_round_trip(torchvision_model, random_state, tmp_path, norm):
    source = torchvision_model(norm=norm, seed=2)
    source.load_state_dict(random_state(source))
    path = tmp_path / "model.pth"
    save_checkpoint(path, {"model": to_detectron2(source.state_dict())})
    target = nn.DataParallel(torchvision_model(norm=norm))
    load_strict(target, path, names="torchvision")
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.module.state_dict()[name], tensor), name


def test_strict_tolerates_the_counters_of_batch_norm_alone(torchvision_model, random_state):
    model = torchvision_model(norm="BN")
    state = to_detectron2(random_state(model))
    load_strict(torchvision_model(), {"model": state}, names="torchvision")
    plain = {n: t for n, t in state.items() if not n.endswith("num_batches_tracked")}
    load_strict(model, {"model": plain}, names="torchvision")


def test_strict_names_what_is_wrong_and_changes_nothing(torchvision_model, pretrained):
    model = torchvision_model(classes=3)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        load_strict(model, pretrained, names="torchvision")
    message = str(caught.value)
    assert "another model" in message and f"unknown {BRANCH}.type_head.0.weight" in message
    assert "more" in message and "\n" not in message
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    state = dict(pretrained["model"])
    del state["backbone.fpn_output2.bias"]
    with pytest.raises(CheckpointError, match=r"missing backbone\.fpn\.layer_blocks\.0\.0\.bias"):
        load_strict(model, {"model": state}, names="torchvision")
