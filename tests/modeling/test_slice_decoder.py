from __future__ import annotations

import numpy as np
import pytest
import torch

from mrssl.modeling import SliceDecoder, whole_slice_loss
from mrssl.structures import RestorationTargets

LEVELS = ("p2", "p3", "p4")


def pyramid(height: int, width: int) -> dict[str, torch.Tensor]:
    strides = (4 * 2**level for level in range(len(LEVELS)))
    return {
        name: torch.randn(2, 8, height // stride, width // stride, requires_grad=True)
        for name, stride in zip(LEVELS, strides, strict=True)
    }


def decoder() -> SliceDecoder:
    torch.manual_seed(0)
    return SliceDecoder(in_features=LEVELS, in_channels=8, conv_dim=6)


def test_a_slice_comes_of_every_level() -> None:
    features = pyramid(32, 48)
    restored = decoder()(features)
    assert restored.shape == (2, 32, 48)
    restored.square().mean().backward()
    assert all(level.grad is not None and level.grad.abs().sum() > 0 for level in features.values())


def test_each_cell_gives_the_block_of_pixels_where_it_lies() -> None:
    model = decoder().eval()
    with torch.no_grad():
        model.predictor.weight.zero_()
        model.predictor.bias.copy_(torch.arange(16.0))
        restored = model(pyramid(16, 32))
        assert torch.equal(restored[1, 4:8, 20:24], torch.arange(16.0).reshape(4, 4))

        # A cell reaches no pixel beyond the blocks of its neighbours.
        torch.nn.init.ones_(model.predictor.weight)
        features = pyramid(32, 32)
        before = model(features)
        features["p2"][:, :, 3, 4] += 5.0
        changed = (model(features) != before)[0].nonzero()
    assert changed.min(0).values.tolist() == [8, 12]
    assert changed.max(0).values.tolist() == [19, 23]


def test_padding_costs_nothing() -> None:
    clean = np.random.default_rng(0).random((2, 10, 13), dtype=np.float32)
    none = torch.zeros(0, 10, 13, dtype=torch.bool)
    targets = [RestorationTargets(torch.from_numpy(np.stack([x, x])), none) for x in clean]
    restored = torch.full((2, 32, 32), 100.0)
    restored[:, :10, :13] = torch.from_numpy(clean) + torch.tensor([0.1, 0.3])[:, None, None]
    assert float(whole_slice_loss(restored, targets)) == pytest.approx((0.01 + 0.09) / 2, rel=1e-4)


def test_what_is_wanted_is_the_clean_slice() -> None:
    distorted, clean = torch.rand(2, 10, 13, generator=torch.Generator().manual_seed(0))
    none = torch.zeros(0, 10, 13, dtype=torch.bool)
    targets = [RestorationTargets(torch.stack([distorted, clean]), none)]
    assert float(whole_slice_loss(clean[None], targets)) == 0
    expected = float((distorted - clean).square().mean())
    assert float(whole_slice_loss(distorted[None], targets)) == pytest.approx(expected)
