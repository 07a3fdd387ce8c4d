from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mrssl.structures import RestorationTargets


@pytest.fixture
def targets():
    generator = np.random.default_rng(0)
    pixels = torch.from_numpy(generator.random((2, 24, 30), np.float32))
    masks = torch.zeros(3, 24, 30, dtype=torch.bool)
    masks[0, 2:10, 3:12] = masks[1, 8:20, 10:29] = masks[2, 0:4, 0:4] = True
    return RestorationTargets(pixels, masks)


def test_a_box_of_the_crops_size_gives_the_pixels_themselves(targets):
    boxes = torch.tensor([[4.0, 3.0, 16.0, 15.0], [0.0, 0.0, 12.0, 12.0], [18.0, 12.0, 30.0, 24.0]])
    distorted, clean, mask = targets.crop_and_resize(boxes, 12)
    for i, (x0, y0, x1, y1) in enumerate(boxes.int().tolist()):
        window = (slice(y0, y1), slice(x0, x1))
        torch.testing.assert_close(distorted[i], targets.pixels[0][window])
        torch.testing.assert_close(clean[i], targets.pixels[1][window])
        torch.testing.assert_close(mask[i], targets.masks[i][window].float())


@pytest.mark.parametrize("factor", [2, 3])
def test_a_larger_box_is_averaged_cell_by_cell(targets, factor):
    side = 18 // factor
    boxes = torch.tensor([[5.0, 4.0, 23.0, 22.0]]).repeat(3, 1)
    distorted, clean, mask = targets.crop_and_resize(boxes, side)
    window = (slice(None), slice(4, 22), slice(5, 23))
    expected = F.avg_pool2d(targets.pixels[window], factor)
    torch.testing.assert_close(distorted, expected[0].expand(3, side, side))
    torch.testing.assert_close(clean, expected[1].expand(3, side, side))
    torch.testing.assert_close(mask, F.avg_pool2d(targets.masks[window].float(), factor))


def test_crops_stay_in_range_wherever_the_box_lies(targets):
    generator = np.random.default_rng(1)
    for _ in range(20):
        corners = generator.uniform(-10, 40, (3, 2, 2)).astype(np.float32)
        boxes = torch.from_numpy(np.sort(corners, axis=1).reshape(3, 4))
        for crop in targets.crop_and_resize(boxes, 7):
            assert crop.shape == (3, 7, 7) and crop.dtype == torch.float32
            assert crop.min() >= 0 and crop.max() <= 1 + 1e-6


def test_indexing_picks_instances_and_shares_the_pixels(targets):
    twice = targets[torch.tensor([2, 0, 0, 1])]
    assert len(twice) == 4 and twice.index.tolist() == [2, 0, 0, 1]
    assert twice.pixels is targets.pixels and twice.masks is targets.masks
    assert twice[1:3].index.tolist() == [0, 0]
    assert twice[torch.tensor([True, False, False, True])].index.tolist() == [2, 1]
    assert twice[0].index.tolist() == [2] and twice[-1].index.tolist() == [1]
    assert twice[-2].index.tolist() == [0]


def test_cropping_what_was_picked(targets):
    boxes = torch.tensor([[4.0, 3.0, 16.0, 15.0]])
    for i in range(3):
        (_, _, mask) = targets[torch.tensor([i])].crop_and_resize(boxes, 12)
        torch.testing.assert_close(mask[0], targets.masks[i, 3:15, 4:16].float())


@pytest.mark.parametrize("regions", [0, 2])
def test_no_instances(regions):
    empty = RestorationTargets(torch.rand(2, 8, 9), torch.ones(regions, 8, 9, dtype=torch.bool))[
        torch.zeros(0, dtype=torch.int64)
    ]
    assert len(empty) == 0
    for crop in empty.crop_and_resize(torch.zeros(0, 4), 5):
        assert crop.shape == (0, 5, 5)


def test_moving_keeps_the_instances(targets):
    moved = targets[torch.tensor([1, 1])].to("cpu")
    assert moved.index.tolist() == [1, 1] and moved.device == torch.device("cpu")
    assert repr(moved) == "RestorationTargets(instances=2, height=24, width=30)"


@pytest.mark.parametrize(
    ("pixels", "masks", "message"),
    [
        ((3, 8, 8), (1, 8, 8), r"pixels must be \(2, H, W\), got \(3, 8, 8\)"),
        ((8, 8), (1, 8, 8), r"pixels must be"),
        ((2, 8, 8), (1, 8, 9), r"masks \(1, 8, 9\) do not fit"),
        ((2, 8, 8), (8, 8), r"do not fit"),
    ],
)
def test_shapes_that_do_not_fit(pixels, masks, message):
    with pytest.raises(ValueError, match=message):
        RestorationTargets(torch.zeros(pixels), torch.zeros(masks, dtype=torch.bool))


def test_a_wrong_number_of_boxes(targets):
    with pytest.raises(ValueError, match="2 boxes for 3 instances"):
        targets.crop_and_resize(torch.zeros(2, 4), 7)


@pytest.mark.detectron2
def test_it_rides_in_instances_and_crops_masks_as_bit_masks_do(targets):
    from detectron2.structures import BitMasks, Boxes, Instances

    boxes = torch.tensor([[2.3, 1.1, 14.9, 20.2], [8.0, 3.3, 30.0, 24.0], [-1.0, -2.0, 9.5, 7.5]])
    instances = Instances((24, 30))
    instances.gt_boxes = Boxes(boxes)
    instances.gt_restoration = targets
    instances.gt_masks = BitMasks(targets.masks)
    picked = instances[torch.tensor([2, 0, 1, 1])].to("cpu")
    _, _, mask = picked.gt_restoration.crop_and_resize(picked.gt_boxes.tensor, 14)
    expected = picked.gt_masks.crop_and_resize(picked.gt_boxes.tensor, 14)
    assert torch.equal(mask >= 0.5, expected)
