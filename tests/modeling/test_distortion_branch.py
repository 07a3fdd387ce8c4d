from __future__ import annotations

import pytest
import torch

from mrssl.config import load_cfg
from mrssl.errors import MrsslError
from mrssl.modeling import DistortionBranch, distortion_type_loss, restoration_loss
from mrssl.structures import RestorationTargets

STRIDES = {"p2": 4, "p4": 16}


def build(*overrides):
    small = ("MRSSL.RESTORATION_HEAD.RESOLUTION", 16, "MRSSL.DISTORTION_HEAD.MARGIN", 4)
    return DistortionBranch.from_config(
        load_cfg(None, [str(word) for word in (*small, *overrides)]),
        channels=4,
        strides=STRIDES,
        num_types=5,
    )


@pytest.fixture
def batch(wave):
    """Two slices of 64 x 64: images, features, boxes, targets, types; 3 and 2 proposals."""
    features = {name: wave(2, 4, 64 // s, 64 // s, phase=s) for name, s in STRIDES.items()}
    boxes = [
        torch.tensor([[4.0, 4.0, 30.0, 30.0], [6.0, 4.0, 28.0, 33.0], [20.0, 20.0, 60.0, 50.0]]),
        torch.tensor([[1.0, 2.0, 20.0, 22.0], [30.0, 30.0, 62.0, 60.0]]),
    ]
    masks = torch.zeros(2, 64, 64, dtype=torch.bool)
    masks[0, 6:28, 6:28] = masks[1, 22:48, 24:58] = True
    targets = [
        RestorationTargets(wave(2, 64, 64, phase=i), masks, torch.tensor(index))
        for i, index in enumerate(([0, 0, 1], [1, 0]))
    ]
    types = [(wave(len(b), 5, phase=9.0) > 0.6).float() for b in boxes]
    return wave(2, 3, 64, 64), features, boxes, targets, types


def test_losses_are_the_parts_put_together(batch, fill):
    branch = fill(
        build("MRSSL.TYPE_HEAD.LOSS_WEIGHT", 0.5, "MRSSL.RESTORATION_HEAD.LOSS_WEIGHT", 2.0)
    )
    images, features, boxes, targets, types = batch
    losses = branch.losses(*batch)
    crops = branch.crop(images, features, boxes)
    assert [c.shape[1:] for c in crops] == [(3, 24, 24), (4, 6, 6), (4, 3, 3)]
    half, quarter = branch.encoder(*crops)
    expected = 0.5 * distortion_type_loss(branch.type_head(quarter), torch.cat(types))
    torch.testing.assert_close(losses["loss_type"], expected)
    pixels = [t.crop_and_resize(b, 16) for t, b in zip(targets, boxes, strict=True)]
    distorted, clean, mask = (torch.cat(part) for part in zip(*pixels, strict=True))
    inside = branch.restoration_head(half, quarter)[:, 4:-4, 4:-4]
    expected = restoration_loss(inside, distorted, clean, mask)
    torch.testing.assert_close(losses["loss_restoration"], 2 * expected)


def test_at_most_so_many_rois_a_slice(batch, fill):
    branch = fill(build("MRSSL.DISTORTION_HEAD.MAX_ROIS", 2))
    images, features, boxes, targets, types = batch
    kept = torch.tensor([1, 2])  # of the first slice: one of each region
    fewer = branch.losses(
        images, features, [boxes[0][kept], boxes[1]], [targets[0][kept], targets[1]],
        [types[0][kept], types[1]],
    )  # fmt: skip
    for name, loss in branch.losses(*batch).items():
        torch.testing.assert_close(loss, fewer[name])


def test_a_slice_without_proposals(batch, fill):
    branch = fill(build())
    images, features, boxes, targets, types = batch
    none = torch.zeros(0, dtype=torch.int64)
    first = slice(0, 1)
    alone = branch.losses(
        images[first], {n: f[first] for n, f in features.items()}, boxes[first], targets[first],
        types[first],
    )  # fmt: skip
    beside = branch.losses(
        images, features, [boxes[0], boxes[1][none]], [targets[0], targets[1][none]],
        [types[0], types[1][none]],
    )  # fmt: skip
    for name, loss in alone.items():
        torch.testing.assert_close(beside[name], loss, rtol=1e-4, atol=1e-5)


def test_a_batch_without_proposals(batch, assert_zero_in_graph):
    branch = build()
    images, features, boxes, targets, types = batch
    none = torch.zeros(0, dtype=torch.int64)
    losses = branch.losses(
        images, features, [b[none] for b in boxes], [t[none] for t in targets],
        [t[none] for t in types],
    )  # fmt: skip
    assert_zero_in_graph(sum(losses.values()), branch)


def test_slices_without_regions(batch, assert_zero_in_graph):
    branch = build()
    images, features, _, _, _ = batch
    clean = RestorationTargets(torch.rand(2, 64, 64), torch.zeros(0, 64, 64, dtype=torch.bool))
    losses = branch.losses(
        images, features, [torch.zeros(0, 4)] * 2, [clean] * 2, [torch.zeros(0, 5)] * 2
    )
    assert_zero_in_graph(sum(losses.values()), branch)


@pytest.mark.parametrize(("left_out", "loss"), [("TYPE", "restoration"), ("RESTORATION", "type")])
def test_either_branch_can_be_left_out(batch, left_out, loss):
    branch = build(f"MRSSL.{left_out}_HEAD.LOSS_WEIGHT", 0.0)
    assert set(branch.losses(*batch)) == {f"loss_{loss}"}
    assert not any(left_out.lower() in name for name in branch.state_dict())
    types, residuals = branch(*batch[:3])
    assert (types is None) == (left_out == "TYPE")
    assert (residuals is None) == (left_out == "RESTORATION")


def test_inference_answers_slice_by_slice(batch, fill):
    branch = fill(build()).eval()
    images, features, boxes, _, _ = batch
    types, residuals = branch(images, features, boxes)
    assert [t.shape for t in types] == [(3, 5), (2, 5)]
    assert [r.shape for r in residuals] == [(3, 16, 16), (2, 16, 16)]
    assert all(((t > 0) & (t < 1)).all() for t in types)
    types, residuals = branch(images, features, [b[:0] for b in boxes])
    assert [len(t) for t in types] == [len(r) for r in residuals] == [0, 0]


def test_boxes_get_no_gradient(batch, fill):
    """Where to look is the detector's business: the branches must not move its boxes."""
    branch = fill(build())
    images, features, boxes, targets, types = batch
    boxes = [b.requires_grad_() for b in boxes]
    features = {name: level.requires_grad_() for name, level in features.items()}
    sum(branch.losses(images, features, boxes, targets, types).values()).backward()
    assert all(b.grad is None for b in boxes)
    assert all(level.grad.any() for level in features.values())


def test_a_crop_that_cannot_be_halved_three_times():
    with pytest.raises(MrsslError, match=r"RESOLUTION 18 and twice.*MARGIN 4 must add up"):
        build("MRSSL.RESTORATION_HEAD.RESOLUTION", 18)


def test_the_residual_is_of_the_box_and_sees_its_surroundings(batch, fill):
    branch = fill(build())
    images, features, boxes, _, _ = batch
    _, before = branch(images, features, boxes)
    assert [r.shape[1:] for r in before] == [(16, 16)] * 2
    outside = images.clone()
    outside[0, :, 31:] += 1.0  # below the first box, within its margin of 26 / 16 x 4 pixels
    _, after = branch(outside, features, boxes)
    assert not torch.equal(after[0][0], before[0][0])


@pytest.mark.parametrize("levels", ["('p2', 'p9')", "('p2',)"])
def test_levels_that_are_none_of_the_pyramid(levels: str) -> None:
    with pytest.raises(MrsslError, match=r"IN_FEATURES .*of p2, p4"):
        build("MRSSL.DISTORTION_HEAD.IN_FEATURES", levels)


def test_crops_of_every_level_show_the_same_part_of_the_slice():
    """Bilinear sampling of a ramp is exact: each cell must give its own place in the slice."""

    def ramp(stride):
        centres = (torch.arange(64 // stride) + 0.5) * stride
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return torch.stack([x, y])[None]

    levels = {name: ramp(stride) for name, stride in STRIDES.items()}
    box = torch.tensor([[20.0, 24.0, 44.0, 40.0]])
    # A box of 16 cells with 4 of its surroundings on each side: half as much again.
    for crop, side in zip(build().crop(ramp(1), levels, [box]), (24, 6, 3), strict=True):
        cells = (torch.arange(side) + 0.5) / side
        x = (14 + 36 * cells).expand(side, side)
        y = (20 + 24 * cells)[:, None].expand(side, side)
        torch.testing.assert_close(crop[0], torch.stack([x, y]), rtol=0, atol=1e-3)


def test_the_terms_of_the_loss_have_the_weights_of_their_keys():
    keys = [f"MRSSL.RESTORATION_HEAD.{name}" for name in ("L1_WEIGHT", "L2_WEIGHT", "SSIM_WEIGHT")]
    branch = build(keys[0], 0.1, keys[1], 0.2, keys[2], 0.3)
    assert branch.restoration_terms == {"l1_weight": 0.1, "l2_weight": 0.2, "ssim_weight": 0.3}
