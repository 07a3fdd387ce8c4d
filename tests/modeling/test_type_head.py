from __future__ import annotations

import math

import pytest
import torch

from mrssl.modeling import DistortionTypeHead, distortion_type_loss


@pytest.fixture
def head(fill):
    return fill(
        DistortionTypeHead(
            pixel_channels=3, fine_channels=4, context_channels=5, num_types=6, conv_dim=8
        )
    )


def inputs(wave, rois=2):
    return (
        wave(rois, 3, 16, 16),
        wave(rois, 4, 8, 8, phase=1.0),
        wave(rois, 5, 4, 4, phase=2.0),
    )


def test_logits_of_every_type(head, wave):
    assert head(*inputs(wave)).shape == (2, 6)


def test_types_start_rare():
    head = DistortionTypeHead(pixel_channels=3, fine_channels=4, context_channels=5, num_types=30)
    torch.manual_seed(0)
    crops = torch.randn(4, 3, 56, 56), torch.randn(4, 4, 28, 28), torch.randn(4, 5, 14, 14)
    probability = head(*crops).sigmoid()
    assert ((probability > 0.05) & (probability < 0.25)).all()


def test_every_input_and_parameter_counts(head, wave):
    tensors = [t.requires_grad_() for t in inputs(wave)]
    head(*tensors).square().sum().backward()
    for tensor in tensors:
        assert tensor.grad.any()
    for name, parameter in head.named_parameters():
        assert parameter.grad.any(), name


def test_rois_do_not_see_one_another(head, wave):
    head.eval()  # in training, batch norm compares them
    whole = head(*inputs(wave, rois=3))
    alone = [head(*(t[i : i + 1] for t in inputs(wave, rois=3))) for i in range(3)]
    torch.testing.assert_close(torch.cat(alone), whole, rtol=1e-4, atol=1e-5)


def test_no_rois(head, wave, assert_zero_in_graph):
    logits = head(*inputs(wave, rois=0))
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
    loss = distortion_type_loss(head(*inputs(wave)), types)
    assert loss.item() == pytest.approx(3.87538, rel=1e-4)
