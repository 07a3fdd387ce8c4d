from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from mrssl.modeling import PyramidPooler, TwoScalePooler

NAMES, STRIDES = ("p2", "p3", "p4", "p5"), (4, 8, 16, 32)


def square(side, x=0.0, y=0.0):
    return [x, y, x + side, y + side]


@pytest.fixture
def ramps():
    """Two slices; channel 0 of every level is the x in input pixels of its cells, channel 1 y."""
    levels = {}
    for name, stride in zip(NAMES, STRIDES, strict=True):
        centres = (torch.arange(512 // stride) + 0.5) * stride
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        levels[name] = torch.stack([x, y])[None].repeat(2, 1, 1, 1)
    return levels


@pytest.mark.parametrize(
    ("side", "coarse", "fine"),
    [
        (1e-3, 0, 0), (55.9, 0, 0), (111.9, 0, 0), (112.1, 1, 0), (223.9, 1, 0), (224.1, 2, 1),
        (447.9, 2, 1), (448.1, 3, 2), (896.1, 3, 3), (1e4, 3, 3),
    ],
)  # fmt: skip
def test_the_level_of_a_box_follows_its_side(side, coarse, fine):
    pooler = TwoScalePooler(NAMES, STRIDES, 14, 2)
    boxes = torch.tensor([square(side), [3.0, 5.0, 3.0 + 4 * side, 5.0 + side / 4]])
    assert pooler.coarse.levels(boxes).tolist() == [coarse] * 2
    assert pooler.fine.levels(boxes).tolist() == [fine] * 2


def test_levels_start_at_the_first_stride():
    pooler = PyramidPooler(NAMES[1:], STRIDES[1:], 7, 2)
    assert pooler.levels(torch.tensor([square(10), square(230), square(500)])).tolist() == [0, 1, 2]


@pytest.mark.parametrize("ratio", [0, 1, 2])
def test_cells_of_a_crop_lie_where_they_should(ramps, ratio):
    """Bilinear sampling of a linear ramp is exact: each cell must give its own centre."""
    boxes = [
        torch.tensor([[40.25, 60.5, 90.0, 131.0], [100.0, 64.0, 300.5, 290.0]]),
        torch.tensor([[33.0, 35.0, 470.0, 460.0], [50.0, 50.0, 62.0, 59.0]]),
    ]
    coarse, fine = TwoScalePooler(NAMES, STRIDES, 14, ratio)(ramps, boxes)
    assert coarse.shape == (4, 2, 14, 14) and fine.shape == (4, 2, 28, 28)
    for crops in (coarse, fine):
        cells = (torch.arange(crops.shape[-1]) + 0.5) / crops.shape[-1]
        for crop, (x0, y0, x1, y1) in zip(crops, torch.cat(boxes), strict=True):
            x = (x0 + cells * (x1 - x0)).expand_as(crop[0])
            y = (y0 + cells * (y1 - y0))[:, None].expand_as(crop[1])
            torch.testing.assert_close(crop, torch.stack([x, y]), rtol=0, atol=2e-4)


def test_against_one_box_after_another(wave):
    levels = {
        n: wave(2, 3, 256 // s, 256 // s, phase=s) for n, s in zip(NAMES, STRIDES, strict=True)
    }
    boxes = [
        torch.tensor([square(200.0, 3, 5), square(20.5, 7, 9), square(130.0, 80, 90)]),
        torch.tensor([square(250.0, -20, 60), square(60.0, 1, 2)]),
    ]
    pooler = TwoScalePooler(NAMES, STRIDES, 7, 2)
    for crops, side, level in zip(
        pooler(levels, boxes), (7, 14), ([1, 0, 1, 2, 0], [0, 0, 0, 1, 0]), strict=True
    ):
        expected = [
            roi_align(levels[NAMES[i]][b : b + 1], [box[None]], side, 1 / STRIDES[i], 2, True)
            for i, b, box in zip(level, (0, 0, 0, 1, 1), torch.cat(boxes), strict=True)
        ]
        torch.testing.assert_close(crops, torch.cat(expected))


def test_gradients_reach_only_the_levels_that_were_cropped(wave):
    levels = {
        n: wave(1, 2, 256 // s, 256 // s).requires_grad_()
        for n, s in zip(NAMES, STRIDES, strict=True)
    }
    boxes = [torch.tensor([square(130.0, 10, 10), square(230.0, 5, 5)])]  # coarse: p3 and p4
    pooled = PyramidPooler(NAMES, STRIDES, 4, 2)(levels, boxes)
    pooled.sum().backward()
    # Each cell is a mean of samples, each sample a mean of pixels: the weights of a crop sum to 1
    # per cell and channel.
    sums = [levels[n].grad.sum().item() for n in NAMES]
    assert sums == pytest.approx([0.0, 2 * 16, 2 * 16, 0.0], abs=1e-3)


def test_slices_without_boxes(ramps):
    none, some = torch.zeros(0, 4), torch.tensor([square(60.0, 10, 10)])
    pooler = TwoScalePooler(NAMES, STRIDES, 14, 2)
    coarse, fine = pooler(ramps, [none, none])
    assert coarse.shape == (0, 2, 14, 14) and fine.shape == (0, 2, 28, 28)
    coarse, _ = pooler(ramps, [none, some])
    torch.testing.assert_close(coarse, pooler(ramps, [some, none])[0])


def test_half_precision_features_are_cropped_in_single(ramps):
    boxes = [torch.tensor([square(60.0, 301.3, 200.7)])] * 2
    halves = {name: level.half() for name, level in ramps.items()}
    for crop, expected in zip(
        TwoScalePooler(NAMES, STRIDES, 14, 2)(halves, boxes),
        TwoScalePooler(NAMES, STRIDES, 14, 2)(ramps, boxes),
        strict=True,
    ):
        assert crop.dtype == torch.float32
        torch.testing.assert_close(crop, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("strides", [(4, 8, 16), (4, 8, 16, 64), (3, 6, 12, 24), (32, 16, 8, 4)])
def test_strides_that_make_no_pyramid(strides):
    with pytest.raises(ValueError, match="no pyramid"):
        PyramidPooler(NAMES, strides, 7, 2)
