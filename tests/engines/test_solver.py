"""Learning rates of parameters that were loaded; clipping; where half precision pays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mrssl.checkpoint import CheckpointError
from mrssl.config import get_cfg
from mrssl.engines.solver import (
    IterationLR,
    build_optimizer,
    build_schedule,
    check_resumable,
    clip_gradients,
    mixed_precision,
)
from mrssl.errors import MrsslError


class Part(nn.Module):
    """Parameters under the names of a detector, in either naming."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            module: nn.Module = self
            *path, last = name.split(".")
            for key in path[:-1]:
                if not hasattr(module, key):
                    module.add_module(key, nn.Module())
                module = getattr(module, key)
            module.add_module(path[-1], nn.Linear(1, 1, bias=False))
            assert last == "weight"


@pytest.mark.parametrize(
    "names",
    [
        ("backbone.body.conv1.weight", "backbone.body.layer4.0.conv1.weight",
         "backbone.fpn.inner_blocks.0.0.weight", "rpn.head.cls_logits.weight"),
        ("backbone.bottom_up.stem.conv1.weight", "backbone.bottom_up.res5.0.conv1.weight",
         "backbone.fpn_lateral2.weight", "proposal_generator.rpn_head.objectness_logits.weight"),
    ],
    ids=["torchvision", "detectron2"],
)  # fmt: skip
def test_lower_stages_learn_more_slowly_if_they_were_loaded(names: tuple[str, ...]) -> None:
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR = 1.0
    cfg.MRSSL.TRANSFER.LR_FACTOR, cfg.MRSSL.TRANSFER.LAYER_DECAY = 0.8, 0.5
    new = "roi_heads.box_predictor.cls_score.weight"
    model = Part(*names, new)
    optimizer = build_optimizer(cfg, model, transferred=set(names))
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: rate[id(parameter)] for name, parameter in model.named_parameters()}
    wanted = [0.8 * 0.5**6, 0.8 * 0.5**2, 0.8 * 0.5, 0.8, 1.0]
    assert [found[name] for name in (*names, new)] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("kind", "order", "clipped"),
    [
        ("norm", 2.0, [1.0, -1.0]),
        ("full_model", 2.0, [0.6, -0.8]),
        ("full_model", float("inf"), [0.75, -1.0]),
        ("value", 2.0, [1.0, -1.0]),
        ("off", 2.0, [3.0, -4.0]),
    ],
)
def test_gradients_are_clipped_and_their_norm_before_is_told(
    kind: str, order: float, clipped: list[float]
) -> None:
    cfg = get_cfg()
    node = cfg.SOLVER.CLIP_GRADIENTS
    node.ENABLED, node.CLIP_VALUE, node.NORM_TYPE = kind != "off", 1.0, order
    node.CLIP_TYPE = "value" if kind == "off" else kind
    parameters = [nn.Parameter(torch.zeros(1)) for _ in clipped]
    for parameter, gradient in zip(parameters, (3.0, -4.0), strict=True):
        parameter.grad = torch.tensor([gradient])
    assert clip_gradients(cfg, parameters) == pytest.approx(5.0)
    found = [float(p.grad) for p in parameters if p.grad is not None]
    assert found == pytest.approx(clipped, rel=1e-5)
    node.ENABLED, node.CLIP_TYPE = True, "nobody"
    with pytest.raises(MrsslError, match="CLIP_TYPE 'nobody'"):
        clip_gradients(cfg, parameters)


@pytest.mark.detectron2
@pytest.mark.parametrize("kind", ["norm", "value"])
@pytest.mark.parametrize("order", [2.0, float("inf")])
def test_gradients_are_clipped_as_detectron2_clips_them(kind: str, order: float) -> None:
    from detectron2.solver.build import maybe_add_gradient_clipping

    cfg = get_cfg()
    node = cfg.SOLVER.CLIP_GRADIENTS
    node.ENABLED, node.CLIP_TYPE, node.CLIP_VALUE, node.NORM_TYPE = True, kind, 1.0, order
    gradients = [torch.tensor([3.0, -4.0]), torch.tensor([0.3, 0.4]), torch.tensor([-0.5, 2.0])]
    ours, theirs = ([nn.Parameter(torch.zeros(2)) for _ in gradients] for _ in range(2))
    for parameter, gradient in zip(ours + theirs, gradients * 2, strict=True):
        parameter.grad = gradient.clone()
    clip_gradients(cfg, ours)
    maybe_add_gradient_clipping(cfg, torch.optim.SGD(theirs, lr=1.0)).step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.parametrize(
    ("key", "value", "frozen"),
    [
        ("MRSSL.SOLVER.OPTIMIZER", "ADAMW", False),
        ("SOLVER.WEIGHT_DECAY", 0.0, False),
        ("SOLVER.WEIGHT_DECAY_NORM", 0.5, False),
        ("MRSSL.TRANSFER.LR_FACTOR", 1.0, False),
        ("MRSSL.TRANSFER.LR_FACTOR", 0.2, False),
        ("MRSSL.TRANSFER.LAYER_DECAY", 0.5, False),
        ("SOLVER.BASE_LR", 0.5, False),
        ("SOLVER.MOMENTUM", 0.5, False),
        ("MODEL.BACKBONE.FREEZE_AT", 2, True),
        ("SOLVER.MAX_ITER", 7, False),
    ],
)
def test_the_state_of_another_optimizer_is_told_by_its_keys(
    key: str, value: object, frozen: bool
) -> None:
    loaded = "backbone.body.conv1.weight"
    model = Part(loaded, "roi_heads.box_predictor.cls_score.weight")
    model.add_module("norm", nn.BatchNorm1d(1))
    cfg = get_cfg()
    cfg.MRSSL.TRANSFER.LR_FACTOR = 0.1
    saved = build_optimizer(cfg, model, {loaded}).state_dict()
    cfg.merge_from_list([key, value])
    model.get_parameter(loaded).requires_grad_(not frozen)
    optimizer = build_optimizer(cfg, model, {loaded})
    if key == "SOLVER.MAX_ITER":
        check_resumable(optimizer, saved, where="model_final.pth")
        return
    with pytest.raises(CheckpointError, match=rf"model_final\.pth: .*{key}"):
        check_resumable(optimizer, saved, where="model_final.pth")


def test_rates_are_compared_as_they_were_before_the_schedule() -> None:
    cfg, model = get_cfg(), Part("roi_heads.box_predictor.cls_score.weight")
    saved, now = build_optimizer(cfg, model), build_optimizer(cfg, model)
    for optimizer in (saved, now):
        IterationLR(optimizer, build_schedule(cfg), 10)
    saved.param_groups[0]["lr"] /= 7  # somewhere in the course of the schedule
    check_resumable(now, saved.state_dict(), where="model_final.pth")
    cfg.SOLVER.BASE_LR *= 2
    with pytest.raises(CheckpointError, match=r"SOLVER\.BASE_LR, MRSSL\.TRANSFER\.LR_FACTOR"):
        check_resumable(build_optimizer(cfg, model), saved.state_dict(), where="model_final.pth")


@pytest.mark.parametrize("steps", [(100,), (60, 60), (60, 30)])
def test_steps_of_the_schedule_are_told_or_left_out(steps: tuple[int, ...]) -> None:
    cfg = get_cfg()
    cfg.SOLVER.LR_SCHEDULER_NAME, cfg.SOLVER.MAX_ITER = "WarmupMultiStepLR", 100
    cfg.SOLVER.STEPS, cfg.SOLVER.WARMUP_ITERS = steps, 0
    if steps == (100,):  # at the end: never reached
        assert build_schedule(cfg)(0.99) == 1.0
    else:
        with pytest.raises(MrsslError, match="are not in ascending order"):
            build_schedule(cfg)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(2), nn.GroupNorm(1, 2), nn.LayerNorm(2)])
def test_norm_layers_have_a_weight_decay_of_their_own(norm: nn.Module) -> None:
    cfg = get_cfg()
    cfg.SOLVER.WEIGHT_DECAY, cfg.SOLVER.WEIGHT_DECAY_NORM = 0.1, 0.2
    model = nn.ModuleDict({"conv": nn.Conv2d(3, 2, 1), "norm": norm})
    groups = build_optimizer(cfg, model).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    found = {name: decay[id(parameter)] for name, parameter in model.named_parameters()}
    assert found == {"conv.weight": 0.1, "conv.bias": 0.1, "norm.weight": 0.2, "norm.bias": 0.2}


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch before 2.11")
@pytest.mark.parametrize(
    ("capabilities", "dtype", "half"),
    [
        ({"avx512_bf16": True, "amx_bf16": True}, "auto", True),
        ({"avx512_bf16": True}, "auto", False),  # no faster there
        ({}, "auto", False),
        ({}, "bfloat16", True),  # as asked for
    ],
)
def test_half_precision_on_cpus_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: str, half: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    cfg = get_cfg()
    cfg.SOLVER.AMP.ENABLED = True
    cfg.MRSSL.SOLVER.AMP_DTYPE = dtype
    context, scaler = mixed_precision(cfg, torch.device("cpu"))
    with context():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if half else torch.float32)
    assert scaler is None
