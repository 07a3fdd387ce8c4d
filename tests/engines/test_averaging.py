from __future__ import annotations

import pytest
import torch
from torch import nn

from mrssl.config import get_cfg
from mrssl.engines.averaging import (
    WeightAverage,
    build_average,
    load_saved_weights,
    weights_to_save,
)


def drifting(step: int, model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator))


def test_the_average_is_the_recursion_with_warm_up() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, decay=0.5)
    expected: dict[str, torch.Tensor] = {}
    for step in range(12):
        drifting(step, model)
        average.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                old = expected.get(name, tensor)
                expected[name] = decay * old + (1 - decay) * tensor
    found = average.module.state_dict()
    assert {"0.weight", "0.bias", "1.running_mean", "1.running_var"} <= set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor)


def test_a_long_average_forgets_the_start_of_a_short_run() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, decay=0.9999)
    for value in [100.0] + [1.0] * 99:
        nn.init.constant_(model.weight, value)
        average.update_parameters(model)
    assert float(average.module.weight.detach()) == pytest.approx(1.0, abs=1e-3)


def test_it_is_off_by_default() -> None:
    assert build_average(get_cfg(), nn.Linear(1, 1)) is None


def test_before_its_first_update_it_is_what_was_loaded() -> None:
    """It may be scored or saved at once: the start of a run, or one that has no iteration left."""
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    average = WeightAverage(model, decay=0.9)
    load_saved_weights(model, average, {"model": other.state_dict()})
    saved = weights_to_save(model, average)
    assert torch.equal(saved["model"]["weight"], other.weight)
    assert saved["averaged_updates"] == 0  # and the first update takes over what is there then
