from __future__ import annotations

import pytest
import torch

from mrssl.modeling import RegionEncoder


def build(**options):
    widths = {"pixel_channels": 3, "fine_channels": 4, "context_channels": 5, "conv_dim": 8}
    return RegionEncoder(**{**widths, "norm": "GN", **options})


def inputs(wave, rois=2):
    return (
        wave(rois, 3, 16, 16),
        wave(rois, 4, 4, 4, phase=1.0),
        wave(rois, 5, 2, 2, phase=2.0),
    )


def test_shapes(wave):
    half, quarter = build()(*inputs(wave))
    assert half.shape == (2, 8, 8, 8)
    assert quarter.shape == (2, 16, 4, 4)


def test_every_input_and_parameter_counts(wave, fill):
    encoder = fill(build())
    tensors = [t.requires_grad_() for t in inputs(wave)]
    half, quarter = encoder(*tensors)
    (half.square().sum() + quarter.square().sum()).backward()
    assert all(tensor.grad.any() for tensor in tensors)
    for name, parameter in encoder.named_parameters():
        assert parameter.grad.any(), name


def test_every_single_pixel_reaches_the_half_resolution(wave, fill):
    """The blocks of 2 x 2 lose nothing: the encoder tells the four pixels of a block apart."""
    encoder = fill(build(norm=""))
    pixels, fine, context = inputs(wave, rois=1)
    before, _ = encoder(pixels, fine, context)
    after = []
    for row, column in ((4, 6), (4, 7), (5, 6), (5, 7)):
        changed = pixels.clone()
        changed[0, 1, row, column] += 0.5
        after.append(encoder(changed, fine, context)[0])
        assert not torch.equal(after[-1], before)
    assert all(not torch.equal(a, b) for i, a in enumerate(after) for b in after[:i])


@pytest.mark.parametrize("norm", ["", "GN"])
def test_no_rois(wave, norm):
    half, quarter = build(norm=norm)(*inputs(wave, rois=0))
    assert half.shape == (0, 8, 8, 8)
    assert quarter.shape == (0, 16, 4, 4)


def test_the_pyramid_starts_silent(wave):
    encoder = build()
    pixels, fine, context = inputs(wave)
    assert torch.equal(encoder(pixels, fine, context)[1], encoder(pixels, 9 * fine, context - 3)[1])
    encoder(pixels, fine, context)[1].square().sum().backward()
    assert encoder.fine.weight.grad.any() and encoder.context.weight.grad.any()
