from __future__ import annotations

import torch
from torch.nn import functional as F

from mrssl.modeling.layers import depth_to_space, get_norm, space_to_depth


def test_blocks_as_channels_are_torchs_pixel_shuffle(wave):
    image = wave(2, 3, 6, 8)
    assert torch.equal(space_to_depth(image), F.pixel_unshuffle(image, 2))
    assert torch.equal(depth_to_space(space_to_depth(image)), image)
    assert torch.equal(depth_to_space(wave(2, 8, 3, 5)), F.pixel_shuffle(wave(2, 8, 3, 5), 2))


def test_blocks_of_an_empty_batch():
    assert space_to_depth(torch.zeros(0, 3, 8, 8)).shape == (0, 12, 4, 4)
    assert depth_to_space(torch.zeros(0, 4, 8, 8)).shape == (0, 1, 16, 16)


def test_group_norm_fits_any_width():
    assert get_norm("GN", 64).num_groups == 32
    assert get_norm("GN", 16).num_groups == 16
    assert get_norm("GN", 48).num_groups == 24
