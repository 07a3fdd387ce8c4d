from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mrssl.config import ConfigError, get_cfg
from mrssl.engines.faults import NonFiniteError
from mrssl.engines.update import MOST_SKIPPED, Update, accelerate, seed_step
from mrssl.errors import MrsslError


class Regression(nn.Module):
    """Losses that are means over the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        y = self.layer(torch.stack([x["image"] for x in batch]))
        return {"loss_square": (y - 1).square().mean(), "loss_size": y.abs().mean()}


def batch(count: int = 5) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    return [
        {"image": torch.randn(3, generator=generator), "file_name": f"{i}.nii", "slice_index": i}
        for i in range(count)
    ]


def update(folder: Path, *options: Any) -> Update:
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder), *options])
    model = Regression()
    return Update(cfg, model, torch.optim.SGD(model.parameters(), lr=0.1))


@pytest.mark.parametrize("parts", [2, 3, 5, 9])
def test_accumulated_parts_are_the_whole_batch(tmp_path: Path, parts: int) -> None:
    whole, split = update(tmp_path), update(tmp_path, "MRSSL.SOLVER.ACCUMULATE", parts)
    expected, figures = whole(batch(), 0)
    found, others = split(batch(), 0)
    assert found == pytest.approx(expected, rel=1e-6)
    assert others == pytest.approx(figures, rel=1e-6)
    for a, b in zip(split.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_the_gradient_norm_is_that_before_clipping(tmp_path: Path) -> None:
    clipped = update(
        tmp_path, "SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 1e-3
    )
    _, figures = clipped(batch(), 0)
    model = Regression()
    sum(model(batch()).values()).backward()
    gradients = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert figures["grad_norm"] == pytest.approx(float(gradients.norm()), rel=1e-6)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(tmp_path: Path) -> None:
    broken = update(tmp_path)
    broken.model.layer.weight.register_hook(lambda grad: grad * float("nan"))
    before = broken.model.layer.weight.detach().clone()
    with pytest.raises(NonFiniteError, match=r"iteration 7: the gradient is not finite on 0\.nii"):
        broken(batch(), 7)
    assert torch.equal(broken.model.layer.weight, before)


def test_a_network_that_gives_up_by_itself_names_the_batch_too(tmp_path: Path) -> None:
    def give_up(*_: Any) -> None:
        raise FloatingPointError("Predicted boxes or scores contain Inf/NaN.")

    broken = update(tmp_path)
    broken.model.register_forward_pre_hook(give_up)
    with pytest.raises(NonFiniteError, match=r"iteration 7: the output .* not finite on 0\.nii"):
        broken(batch(), 7)
    assert list(tmp_path.glob("nonfinite_0000007_*.json"))


class Scaler:
    """A gradient scaler that finds the gradients overflowing as told."""

    def __init__(self, overflows: list[bool]) -> None:
        self.overflows, self.value = iter(overflows), 2.0**20

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return loss

    def unscale_(self, optimizer: Any) -> None:
        pass

    def get_scale(self) -> float:
        return self.value

    def step(self, optimizer: Any) -> None:
        self.overflowed = next(self.overflows)
        if not self.overflowed:
            optimizer.step()

    def update(self) -> None:
        self.value *= 0.5 if self.overflowed else 1.0

    def state_dict(self) -> dict[str, float]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.value = state["value"]


def test_skipped_updates_are_counted_and_resumed(tmp_path: Path) -> None:
    first = update(tmp_path)
    first.scaler = Scaler([False, True, True, False])  # type: ignore[assignment]
    counts = [first(batch(), i)[1]["skipped_steps"] for i in range(4)]
    assert counts == [0, 1, 2, 2]
    second = update(tmp_path)
    second.scaler = Scaler([True])  # type: ignore[assignment]
    second.load_state_dict(first.state_dict())
    assert second.scaler.get_scale() == 2.0**18
    assert second(batch(), 4)[1]["skipped_steps"] == 3


def test_skipping_without_end_is_an_error(tmp_path: Path) -> None:
    stuck = update(tmp_path)
    stuck.scaler = Scaler([True] * (MOST_SKIPPED + 1))  # type: ignore[assignment]
    with pytest.raises(MrsslError, match="in a row"):
        for i in range(MOST_SKIPPED + 1):
            stuck(batch(), i)


def test_an_unknown_precision_is_named(tmp_path: Path) -> None:
    with pytest.raises(MrsslError, match=r"MRSSL\.SOLVER\.AMP_DTYPE"):
        update(tmp_path, "MRSSL.SOLVER.AMP_DTYPE", "float8")


def test_precision_by_name(tmp_path: Path) -> None:
    half = update(tmp_path, "SOLVER.AMP.ENABLED", True, "MRSSL.SOLVER.AMP_DTYPE", "bfloat16")
    assert half.scaler is None
    seen: list[torch.dtype] = []
    half.model.layer.register_forward_hook(lambda *_: seen.append(_[2].dtype))
    half(batch(), 0)
    assert seen == [torch.bfloat16]
    assert half.model.layer.weight.dtype == torch.float32
    full = update(tmp_path, "SOLVER.AMP.ENABLED", True, "MRSSL.SOLVER.AMP_DTYPE", "float16")
    assert full.scaler is not None


def test_random_numbers_follow_from_seed_iteration_and_process() -> None:
    def draw(*words: int) -> tuple[float, float, float]:
        seed_step(*words)
        return float(torch.rand(1)), float(np.random.rand()), random.random()

    assert draw(0, 3, 1) == draw(0, 3, 1)
    others = [draw(0, 3, 1), draw(1, 3, 1), draw(0, 4, 1), draw(0, 3, 0)]
    assert all(len(set(column)) == 4 for column in zip(*others, strict=True))


def test_channels_last_changes_the_layout_and_no_name() -> None:
    cfg = get_cfg()
    cfg.MRSSL.SOLVER.CHANNELS_LAST = True
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    names = list(model.state_dict())
    accelerate(cfg, model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert list(model.state_dict()) == names


def compiling() -> Any:
    cfg = get_cfg()
    cfg.MODEL.DEVICE, cfg.MRSSL.SOLVER.COMPILE = "cpu", True
    torch.compiler.reset()
    return cfg


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiling_the_backbone_changes_no_name_and_no_figure() -> None:
    model = nn.Module()
    model.backbone = nn.Conv2d(3, 4, 3)
    names, x = list(model.state_dict()), torch.rand(1, 3, 8, 8)
    expected = model.backbone(x)
    accelerate(compiling(), model)
    assert model.backbone._compiled_call_impl is not None
    torch.testing.assert_close(model.backbone(x), expected)
    assert list(model.state_dict()) == names


def test_a_machine_that_cannot_compile_is_told_so_before_training() -> None:
    model = nn.Module()
    model.backbone = nn.Conv2d(3, 4, 3)
    inductor = pytest.importorskip("torch._inductor.config")
    lacking = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with inductor.patch(lacking), pytest.raises(ConfigError, match=r"COMPILE: .*compiler") as told:
        accelerate(compiling(), model)
    assert "\n" not in str(told.value)


def test_float16_steps_as_float32_does_clipping_included(tmp_path: Path) -> None:
    """With torch's own scaler: gradients are clipped by what they are, not by their scale."""
    node = "SOLVER.CLIP_GRADIENTS"
    clip = (f"{node}.ENABLED", True, f"{node}.CLIP_TYPE", "full_model", f"{node}.CLIP_VALUE", 0.5)
    half = ("SOLVER.AMP.ENABLED", True, "MRSSL.SOLVER.AMP_DTYPE", "float16")
    moves, norms = [], []
    for options in (clip, clip + half):
        trained = update(tmp_path, *options)
        if trained.scaler is not None:
            trained.scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        before = trained.model.layer.weight.detach().clone()
        norms.append(trained(batch(), 0)[1]["grad_norm"])
        moves.append(trained.model.layer.weight.detach() - before)
    assert norms[0] > 0.5
    assert norms[1] == pytest.approx(norms[0], rel=0.02)
    torch.testing.assert_close(moves[1], moves[0], rtol=0.02, atol=1e-4)


def test_updates_skipped_now_and_then_are_no_error(tmp_path: Path) -> None:
    often = update(tmp_path)
    often.scaler = Scaler([True, False] * (MOST_SKIPPED + 2))  # type: ignore[assignment]
    for i in range(2 * MOST_SKIPPED + 4):
        often(batch(), i)
    assert often.skipped == MOST_SKIPPED + 2
