from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.ops import roi_align

from mrssl.modeling import crop_rois, paste_rois, restore_slice, select_rois


def ramp(side, stride):
    """Channel 0: the x in input pixels of every cell's centre; channel 1: the y."""
    centres = (torch.arange(side // stride) + 0.5) * stride
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    return torch.stack([x, y])[None]


@pytest.mark.parametrize("stride", [1, 4, 16])
def test_crops_of_a_ramp_give_the_cells_centres(stride):
    boxes = torch.tensor([[40.5, 33.25, 200.0, 111.0], [16.0, 30.0, 90.0, 210.0]])
    crops = crop_rois(ramp(256, stride), [boxes], 14, stride)
    cells = (torch.arange(14) + 0.5) / 14
    for crop, (x0, y0, x1, y1) in zip(crops, boxes, strict=True):
        x = (x0 + cells * (x1 - x0)).expand(14, 14)
        y = (y0 + cells * (y1 - y0))[:, None].expand(14, 14)
        torch.testing.assert_close(crop, torch.stack([x, y]), rtol=0, atol=1e-3)


def test_crops_of_whole_blocks_are_their_means(wave):
    """Two pixels a cell: the 2 x 2 samples are the pixels themselves."""
    image = wave(1, 2, 32, 32)
    crop = crop_rois(image, [torch.tensor([[4.0, 6.0, 24.0, 26.0]])], 10, 1)
    expected = F.avg_pool2d(image[:, :, 6:26, 4:24], 2)
    torch.testing.assert_close(crop, expected)


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 4])
def test_a_cell_is_the_mean_of_its_samples(samples, stride):
    """Noise, whose every sample counts; the reference interpolates by ``grid_sample``."""
    maps = torch.rand(1, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([3.2, 5.7, 27.1, 30.4]) * stride
    crop = crop_rois(maps, [box[None]], 6, stride, samples=samples)
    points = (torch.arange(6 * samples) + 0.5) / (6 * samples)
    x, y = (
        (low + points * (high - low)) / (16 * stride) - 1
        for low, high in ((box[0], box[2]), (box[1], box[3]))
    )
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2)[None]
    expected = F.avg_pool2d(F.grid_sample(maps, grid, align_corners=False), samples)
    torch.testing.assert_close(crop, expected, rtol=0, atol=1e-4)


def test_crops_come_in_the_order_of_the_slices(wave):
    maps = wave(3, 1, 16, 16)
    box = torch.tensor([[2.0, 2.0, 12.0, 12.0]])
    crops = crop_rois(maps, [box.repeat(2, 1), box[:0], box.half()], 5, 1)
    assert crops.shape == (3, 1, 5, 5)
    torch.testing.assert_close(crops[0], crops[1])
    torch.testing.assert_close(crops[2], crop_rois(maps[2:], [box], 5, 1)[0])


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_crops_keep_the_precision_of_their_maps(dtype, samples):
    crops = crop_rois(ramp(32, 4).to(dtype), [torch.zeros(0, 4)], 7, 4, samples)
    assert crops.dtype == dtype and crops.shape == (0, 2, 7, 7)


@pytest.mark.parametrize("counts", [(3, 3), (1, 4), (0, 2), (5, 0)])
@pytest.mark.parametrize("stride", [1, 4])
def test_single_samples_are_roi_aligns(wave, stride, counts):
    """With as many boxes in every slice or not, within the slice, across its border, beyond it."""
    rng = np.random.default_rng(sum(counts))
    corners = rng.uniform(-24, 88, (sum(counts), 2, 2))
    boxes = torch.from_numpy(np.concatenate([corners.min(1), corners.max(1)], 1)).float()
    maps = [wave(2, 3, 64 // stride, 48 // stride).requires_grad_() for _ in range(2)]
    crops = [
        crop_rois(maps[0], list(boxes.split(counts)), 7, stride, samples=1),
        roi_align(maps[1], list(boxes.split(counts)), 7, 1 / stride, 1, aligned=True),
    ]
    torch.testing.assert_close(*crops, rtol=0, atol=1e-4)
    assert crops[1].eq(0).any() and crops[1].ne(0).any()
    for crop in crops:
        (crop * wave(*crop.shape, phase=3.0)).sum().backward()
    torch.testing.assert_close(maps[0].grad, maps[1].grad, rtol=0, atol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_selected_rois_are_shared_out_evenly(seed):
    rng = np.random.default_rng(seed)
    region = torch.from_numpy(rng.integers(0, 6, rng.integers(1, 60)))
    limit = int(rng.integers(0, 20))
    kept = select_rois(region, torch.from_numpy(rng.integers(50, 3000, 6)), limit)
    assert len(kept) == min(limit, len(region))
    assert kept.tolist() == sorted(set(kept.tolist()))
    taken = torch.bincount(region[kept], minlength=6)
    present = torch.bincount(region, minlength=6)
    # Nobody has two more than another that had some left.
    waiting = taken[taken < present]
    assert len(waiting) == 0 or taken.max() <= waiting.min() + 1
    for number in range(6):  # the last of each region
        mine = torch.where(region == number)[0]
        assert region[kept].eq(number).sum() == taken[number]
        assert kept[region[kept] == number].tolist() == mine[len(mine) - taken[number] :].tolist()


def test_a_small_region_is_seen_among_many_of_a_large_one():
    region = torch.tensor([0] * 50 + [3])
    assert 50 in select_rois(region, torch.full((4,), 9), 2)


def test_no_region_does_without_for_its_number_or_size():
    """Six regions of a proposal each, and four to keep, in many slices."""
    rng, regions = np.random.default_rng(0), torch.arange(6)
    areas = np.sort(rng.integers(50, 3000, (600, 6)))[:, ::-1].copy()  # the last are the smallest
    kept = torch.cat([select_rois(regions, row, 4) for row in torch.from_numpy(areas)])
    shares = torch.bincount(kept, minlength=6) / len(areas)
    assert (shares - 4 / 6).abs().max() < 0.08


def test_selecting_from_nothing():
    kept = select_rois(*torch.zeros(2, 0, dtype=torch.int64), 8)
    assert kept.dtype == torch.int64 and len(kept) == 0


def paste_slowly(crop, box, height, width):
    """Bilinear interpolation at each pixel's centre, zero outside of the crop."""
    side, (x0, y0, x1, y1) = len(crop), box
    out = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            u = (column + 0.5 - x0) / (x1 - x0) * side - 0.5
            v = (row + 0.5 - y0) / (y1 - y0) * side - 0.5
            for j in (math.floor(v), math.floor(v) + 1):
                for i in (math.floor(u), math.floor(u) + 1):
                    if 0 <= i < side and 0 <= j < side:
                        weight = (1 - abs(u - i)) * (1 - abs(v - j))
                        out[row, column] += weight * crop[j, i]
    return out


def test_pasting_against_a_loop(wave):
    crops = wave(4, 5, 5)
    boxes = torch.tensor(
        [[3.0, 2.0, 8.0, 7.0], [1.3, 4.7, 17.9, 9.2], [-4.0, -3.5, 6.0, 30.0], [10.0, 8, 12, 9]]
    )
    pasted = paste_rois(crops, boxes, 13, 19)
    for image, crop, box in zip(pasted, crops.numpy(), boxes.tolist(), strict=True):
        np.testing.assert_allclose(image, paste_slowly(crop, box, 13, 19), atol=1e-5)


@pytest.mark.detectron2
def test_pasted_masks_are_detectron2s():
    from detectron2.layers import paste_masks_in_image

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(12, 2, 2, generator=generator) * torch.tensor([70.0, 60.0]) - 5
    boxes = torch.cat([corners.amin(1), corners.amax(1)], dim=1)
    masks = torch.rand(12, 28, 28, generator=generator)
    ours = paste_rois(masks, boxes, 50, 60)
    theirs = paste_masks_in_image(masks, boxes, (50, 60), threshold=0.5)
    differ = (ours >= 0.5) != theirs
    assert (ours[differ] - 0.5).abs().max() < 1e-4 if differ.any() else theirs.any()


def test_pasting_at_its_own_size_copies_the_pixels(wave):
    crop = wave(1, 6, 6)
    pasted = paste_rois(crop, torch.tensor([[4.0, 3.0, 10.0, 9.0]]), 12, 14)[0]
    torch.testing.assert_close(pasted[3:9, 4:10], crop[0])
    outside = pasted.clone()
    outside[3:9, 4:10] = 0
    assert outside.abs().max() < 1e-5


def test_pasting_nothing_and_into_boxes_of_no_size():
    assert paste_rois(torch.zeros(0, 7, 7), torch.zeros(0, 4), 5, 6).shape == (0, 5, 6)
    boxes = torch.tensor([[3.0, 3.0, 3.0, 3.0], [2.0, 1.0, 2.0, 4.0]])
    assert torch.isfinite(paste_rois(torch.ones(2, 7, 7), boxes, 5, 6)).all()


BOX = torch.tensor([[2.0, 2.0, 10.0, 10.0]])
CENTRE = (slice(3, 9), slice(3, 9))  # away from the edge, where pasted crops fade out


def residual(value):
    return torch.full((1, 8, 8), value)


def test_restoring_without_detections_changes_nothing(wave):
    distorted = wave(12, 12)
    nothing = torch.zeros(0, 8, 8)
    restored = restore_slice(distorted, nothing, nothing, torch.zeros(0, 4), torch.zeros(0))
    assert torch.equal(restored, distorted)


def test_restoring_adds_the_residual_inside_the_box_alone():
    distorted = torch.full((12, 12), 0.5)
    restored = restore_slice(distorted, residual(0.2), residual(1.0), BOX, torch.tensor([0.9]))
    torch.testing.assert_close(restored[CENTRE], torch.full((6, 6), 0.7))
    outside = torch.ones(12, 12, dtype=torch.bool)
    outside[2:10, 2:10] = False
    assert torch.equal(restored[outside], distorted[outside])


@pytest.mark.parametrize(
    ("score", "mask", "share"),
    [(1.0, 1.0, 1.0), (0.5, 0.5, 1.0), (0.5, 0.25, 0.5), (0.1, 1.0, 0.4), (1.0, 0.0, 0.0)],
)
def test_doubtful_detections_change_little(score, mask, share):
    restored = restore_slice(
        torch.full((12, 12), 0.5), residual(0.2), residual(mask), BOX, torch.tensor([score])
    )
    expected = torch.full((6, 6), 0.5 + 0.2 * share)
    torch.testing.assert_close(restored[CENTRE], expected, rtol=0, atol=1e-6)


def test_overlapping_detections_are_averaged_by_their_weights():
    restored = restore_slice(
        torch.full((12, 12), 0.5),
        torch.cat([residual(0.2), residual(-0.1)]),
        torch.cat([residual(1.0), residual(0.5)]),
        BOX.repeat(2, 1),
        torch.tensor([0.9, 0.6]),
    )
    expected = 0.5 + (0.9 * 0.2 - 0.3 * 0.1) / 1.2
    torch.testing.assert_close(restored[CENTRE], torch.full((6, 6), expected))


def test_masks_and_residuals_may_differ_in_size_and_the_result_stays_in_range():
    for value in (5.0, -5.0):
        restored = restore_slice(
            torch.full((12, 12), 0.5),
            residual(value),
            torch.ones(1, 28, 28),
            BOX,
            torch.tensor([1.0]),
        )
        assert restored.min() >= 0 and restored.max() <= 1
        assert restored[5, 5] == (1.0 if value > 0 else 0.0)
