from __future__ import annotations

import math

import pytest
import torch

from mrssl.modeling import DistortionTypeHead, distortion_type_loss


@pytest.fixture
def head(fill):
    return fill(DistortionTypeHead(in_channels=6, num_types=6, conv_dim=8, norm="GN"))


def inputs(wave, rois=2):
    return wave(rois, 6, 8, 8)


def test_logits_of_every_type(head, wave):
    assert head(inputs(wave)).shape == (2, 6)


def test_types_start_rare():
    head = DistortionTypeHead(in_channels=64, num_types=30)
    torch.manual_seed(0)
    probability = head(torch.randn(4, 64, 16, 16)).sigmoid()
    assert ((probability > 0.05) & (probability < 0.25)).all()


def test_input_and_parameters_count(head, wave):
    seen = inputs(wave).requires_grad_()
    head(seen).square().sum().backward()
    assert seen.grad.any()
    for name, parameter in head.named_parameters():
        assert parameter.grad.any(), name


def test_rois_do_not_see_one_another(head, wave):
    seen = inputs(wave, rois=3)
    whole, alone = head(seen), [head(seen[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-4, atol=1e-5)


def test_no_rois(head, wave, assert_zero_in_graph):
    logits = head(inputs(wave, rois=0))
    assert logits.shape == (0, 6)
    assert_zero_in_graph(distortion_type_loss(logits, torch.zeros(0, 6)), head)


def test_undecided_logits_cost_a_bit_a_type():
    types = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    loss = distortion_type_loss(torch.zeros(2, 3), types)
    assert loss.item() == pytest.approx(3 * math.log(2))


def test_against_the_formula(wave):
    logits, types = 8 * wave(5, 4) - 4, (wave(5, 4, phase=1.0) > 0.6).float()
    p = logits.double().sigmoid()
    expected = -(types * p.log() + (1 - types) * (1 - p).log()).sum(1).mean()
    assert distortion_type_loss(logits, types).item() == pytest.approx(expected.item(), rel=1e-5)
    assert distortion_type_loss(logits, types.bool()) == distortion_type_loss(logits, types)


def test_a_certain_and_right_answer_costs_nothing_even_far_out():
    types = torch.tensor([[1.0, 0.0]])
    assert distortion_type_loss(torch.tensor([[1e4, -1e4]]), types).item() == 0.0
    assert distortion_type_loss(torch.tensor([[-1e4, 1e4]]), types).item() == pytest.approx(2e4)


def test_the_normalizer_joins_processes(wave):
    logits, types = wave(5, 4), (wave(5, 4, phase=1.0) > 0.6).float()
    joined = (
        distortion_type_loss(logits[:1], types[:1], normalizer=2.5)
        + distortion_type_loss(logits[1:], types[1:], normalizer=torch.tensor(2.5))
    ) / 2
    torch.testing.assert_close(joined, distortion_type_loss(logits, types))


def test_pinned_loss(head, wave):
    types = (wave(2, 6, phase=3.0) > 0.5).float()
    loss = distortion_type_loss(head(inputs(wave)), types)
    assert loss.item() == pytest.approx(4.37739, rel=1e-4)
