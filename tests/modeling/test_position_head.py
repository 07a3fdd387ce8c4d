from __future__ import annotations

import pytest
import torch

from mrssl.modeling import PositionHead, position_loss


def test_the_middle_of_the_volume_is_the_first_guess() -> None:
    torch.manual_seed(0)
    guess = PositionHead(64)(torch.randn(20, 64))
    assert guess.shape == (20, 3) and guess.abs().max() < 0.5


def test_the_loss_is_of_distances_in_units_of_100_mm() -> None:
    predicted = torch.tensor([[0.5, 0.0, 0.0], [0.0, 0.02, 0.0]])
    wanted = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    # Beyond 10 mm linear: 0.5 - 0.05; below quadratic: 0.02^2 / (2 * 0.1).
    assert float(position_loss(predicted, wanted)) == pytest.approx((0.45 + 0.002) / 2)
    assert float(position_loss(predicted, wanted, normalizer=4)) == pytest.approx(0.452 / 4)
    assert float(position_loss(predicted, 100 * predicted)) == pytest.approx(0.0, abs=1e-6)


def test_no_proposals_cost_nothing() -> None:
    head = PositionHead(8)
    loss = position_loss(head(torch.zeros(0, 8)), torch.zeros(0, 3))
    loss.backward()
    assert float(loss.detach()) == 0 and head.predictor.weight.grad is not None


def test_it_learns_what_it_is_shown() -> None:
    torch.manual_seed(0)
    head, features = PositionHead(6), torch.randn(64, 6)
    wanted = features @ torch.randn(6, 3) * 30
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    first = last = 0.0
    for step in range(200):
        loss = position_loss(head(features), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = (float(loss), 0.0) if step == 0 else (first, float(loss))
    assert last < 0.02 * first
