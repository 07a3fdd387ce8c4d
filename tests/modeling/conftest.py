"""Numbers that look random and are the same on every version of every library."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


def _wave(*shape: int, phase: float = 0.0) -> Tensor:
    """Float32 values in [0, 1] of the given shape: a sine sampled far below its frequency."""
    count = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(2.399 * count + phase)).float().view(shape)


def _fill(module: nn.Module) -> nn.Module:
    """Set every parameter to a wave whose size keeps activations near 1."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            values = _wave(*parameter.shape, phase=number) - 0.5
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(values * (8.0 / fan_in) ** 0.5 + (parameter.ndim == 1) * 0.5)
    return module


@pytest.fixture(scope="session")
def wave() -> Callable[..., Tensor]:
    return _wave


@pytest.fixture(scope="session")
def fill() -> Callable[[nn.Module], nn.Module]:
    return _fill


@pytest.fixture(scope="session")
def assert_zero_in_graph() -> Callable[..., None]:
    """A loss is zero, finite, and reaches every parameter with a gradient of zero."""

    def check(loss: Tensor, module: nn.Module) -> None:
        assert loss.shape == () and loss.item() == 0.0
        loss.backward()
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None, f"{name} is not in the graph"
            assert not parameter.grad.any(), name

    return check
