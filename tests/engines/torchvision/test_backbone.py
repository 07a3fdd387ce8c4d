"""What ``MODEL.BACKBONE.FREEZE_AT`` freezes, under unchanged names; keys that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from mrssl.checkpoint import load_for_transfer, load_strict, to_detectron2
from mrssl.config import load_cfg
from mrssl.engines.torchvision import build_model
from mrssl.engines.torchvision.backbone import build_backbone
from mrssl.errors import MrsslError

STEM_AND_RES2 = ("backbone.body.conv1.", "backbone.body.bn1.", "backbone.body.layer1.")
COUNTER = "num_batches_tracked"


def options(freeze_at: int, norm: str = "BN", depth: int = 18) -> list[str]:
    return [
        "MODEL.BACKBONE.FREEZE_AT", str(freeze_at), "MODEL.RESNETS.NORM", norm,
        "MODEL.RESNETS.DEPTH", str(depth), "MODEL.RESNETS.STRIDE_IN_1X1", "False",
        "MODEL.RESNETS.RES2_OUT_CHANNELS", "64" if depth < 50 else "256",
        "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone", "MODEL.FPN.OUT_CHANNELS", "32",
        "MODEL.RESNETS.OUT_FEATURES", "('res2', 'res3', 'res4', 'res5')",
        "MODEL.FPN.IN_FEATURES", "('res2', 'res3', 'res4', 'res5')",
    ]  # fmt: skip


def model(freeze_at: int, **more: Any) -> nn.ModuleDict:
    """A backbone in training mode, named as in a detector."""
    return nn.ModuleDict(
        {"backbone": build_backbone(load_cfg(None, options(freeze_at, **more)))}
    ).train()


def trained() -> dict[str, Tensor]:
    """An unfrozen backbone after one pass: its statistics are no longer the initial ones."""
    source = model(0)
    with torch.no_grad():
        for name, parameter in source.named_parameters():
            if ".bn" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        source["backbone"](torch.randn(2, 3, 64, 64) + 1)
    return {name: tensor.clone() for name, tensor in source.state_dict().items()}


def moved(module: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, x in module.state_dict().items() if not torch.equal(x, before[name])}


def test_a_pass_in_training_leaves_the_statistics_of_frozen_stages() -> None:
    torch.manual_seed(0)
    net = model(2)
    load_strict(net, {"model": to_detectron2(trained())}, names="torchvision")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net["backbone"](torch.randn(2, 3, 64, 64) + 1)["p2"].sum().backward()
    running = {n for n in before if n.endswith((".running_mean", ".running_var", COUNTER))}
    assert moved(net, before) == {n for n in running if not n.startswith(STEM_AND_RES2)}
    given = {name for name, p in net.named_parameters() if p.grad is not None}
    assert not any(name.startswith(STEM_AND_RES2) for name in given)
    assert "backbone.body.layer2.0.conv1.weight" in given


@pytest.mark.parametrize(("freeze_at", "frozen"), [(0, 0), (1, 1), (2, 5), (3, 10), (5, 20)])
def test_stages_are_counted_from_the_stem(freeze_at: int, frozen: int) -> None:
    norms = [m for m in model(freeze_at).modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == frozen  # a stage of ResNet-18: 4, and 1 in the shortcut of all but res2
    assert {norm.eps for norm in norms} <= {1e-5}


def test_group_normalisation_has_no_statistics_and_stays() -> None:
    net = model(5, norm="GN")
    norms = [m for m in net["backbone"].body.modules() if isinstance(m, nn.GroupNorm)]
    assert len(norms) == 20
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())


@pytest.mark.parametrize("counters", [True, False])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("freeze_at", [0, 2])
def test_weights_of_any_run_load_and_leave_bit_for_bit(
    freeze_at: int, strict: bool, counters: bool
) -> None:
    """From a run with or without frozen stages, of this engine or Detectron2, and exported."""
    torch.manual_seed(0)
    state = to_detectron2(trained())
    if not counters:
        state = {name: tensor for name, tensor in state.items() if not name.endswith(COUNTER)}
    net = model(freeze_at)
    if strict:
        load_strict(net, {"model": state}, names="torchvision")
    else:
        report = load_for_transfer(net, {"model": state}, scope="fpn", names="torchvision")
        assert not (report.new or report.dropped or report.mismatched or report.notes)
    leaving = to_detectron2(net.state_dict())
    weights = {name for name in state if not name.endswith(COUNTER)}
    assert weights == {name for name in leaving if not name.endswith(COUNTER)}
    assert all(torch.equal(leaving[name], state[name]) for name in weights)


@pytest.mark.detectron2
@pytest.mark.parametrize(("freeze_at", "depth"), [(0, 18), (1, 18), (2, 18), (2, 50), (5, 18)])
def test_a_pass_in_training_is_that_of_detectron2(freeze_at: int, depth: int) -> None:
    """Features, and what the pass leaves in the statistics; in float64, to compare tightly."""
    from detectron2.modeling import build_backbone as build_detectron2

    from mrssl.engines.detectron2 import get_cfg

    torch.manual_seed(0)
    ours = model(freeze_at, depth=depth)
    cfg = load_cfg(None, options(freeze_at, depth=depth), cfg=get_cfg())
    theirs = nn.ModuleDict({"backbone": build_detectron2(cfg)}).train()
    state = to_detectron2(ours.state_dict())
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    load_strict(theirs, {"model": state})
    ours.double()
    theirs.double()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64) + 1
    with torch.no_grad():
        a, b = ours["backbone"](x), theirs["backbone"](x)
    assert a.keys() == b.keys()
    for level in a:
        torch.testing.assert_close(a[level], b[level])
    found, expected = to_detectron2(ours.state_dict()), theirs.state_dict()
    for name in found:
        if not name.endswith(COUNTER):
            torch.testing.assert_close(found[name], expected[name], msg=name)
    trainable = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (ours, theirs)]
    assert set(to_detectron2(dict.fromkeys(trainable[0], x))) == trainable[1]
    eps = [sorted(m.eps for m in net.modules() if hasattr(m, "eps")) for net in (ours, theirs)]
    assert eps[0] == eps[1]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.RESNETS.STEM_OUT_CHANNELS", "32"),
        ("MODEL.RESNETS.RES2_OUT_CHANNELS", "128"),
        ("MODEL.RESNETS.OUT_FEATURES", "('res3', 'res4', 'res5')"),
        ("MODEL.FPN.IN_FEATURES", "('res3', 'res4', 'res5')"),
        ("MODEL.RPN.IN_FEATURES", "('p3', 'p4', 'p5', 'p6')"),
        ("MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals"),
        ("MODEL.ROI_BOX_HEAD.NAME", "Nonsense"),
        ("MODEL.RPN.IOU_THRESHOLDS", "[0.5]"),
        ("MODEL.ROI_HEADS.IOU_THRESHOLDS", "[0.5, 0.7]"),
        ("MODEL.ROI_HEADS.IOU_THRESHOLDS", "[]"),
    ],
)
def test_a_key_that_this_engine_cannot_heed_is_told(
    repository_root: Path, key: str, value: str
) -> None:
    file = repository_root / "configs/finetune/mask_R_18_FPN_small.yaml"
    with pytest.raises(MrsslError, match=f"^{key} "):
        build_model(load_cfg(file, [key, value]))
