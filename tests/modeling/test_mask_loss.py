from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import maskrcnn_loss

from mrssl.modeling import mask_rcnn_loss, mask_targets


@pytest.fixture
def masks():
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(48.0), indexing="ij")
    return torch.stack([torch.sin(0.3 * x + n) * torch.cos(0.4 * y - n) > 0 for n in range(3)])


def test_the_target_of_a_box_of_its_size_is_the_mask_itself(masks):
    boxes = torch.tensor([[6.0, 4.0, 34.0, 32.0], [0.0, 0.0, 28.0, 28.0]])
    targets = mask_targets(masks, boxes, torch.tensor([2, 0]), 28)
    assert targets.dtype == torch.bool
    assert torch.equal(targets[0], masks[2, 4:32, 6:34])
    assert torch.equal(targets[1], masks[0, :28, :28])


def test_a_cell_belongs_to_the_instance_from_one_half_up(masks):
    boxes = torch.tensor([[4.0, 4.0, 36.0, 36.0]])  # 4 x 4 pixels a cell
    targets = mask_targets(masks, boxes, torch.tensor([1]), 8)
    share = F.avg_pool2d(masks[1:2, 4:36, 4:36].float(), 4)
    assert 0 < targets.float().mean() < 1 and (share == 0.5).any()
    assert torch.equal(targets, share >= 0.5)


def test_outside_of_the_slice_there_is_no_instance(masks):
    box = torch.tensor([[-40.0, -40.0, 0.0, 0.0]])
    everywhere = torch.ones_like(masks)
    assert not mask_targets(everywhere, box - 5, torch.tensor([0]), 8).any()


@pytest.mark.parametrize("instances", [0, 3])
def test_no_rois(instances, assert_zero_in_graph):
    masks = torch.zeros(instances, 10, 12, dtype=torch.bool)
    targets = mask_targets(masks, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 14)
    assert targets.shape == (0, 14, 14) and targets.dtype == torch.bool
    head = torch.nn.Conv2d(2, 5, 1)
    logits = head(torch.zeros(0, 2, 14, 14))
    loss = mask_rcnn_loss(logits, torch.zeros(0, dtype=torch.int64), targets)
    assert_zero_in_graph(loss, head)


def test_undecided_logits_cost_one_bit():
    targets = torch.eye(6, dtype=torch.bool)[None].repeat(4, 1, 1)
    loss = mask_rcnn_loss(torch.zeros(4, 3, 6, 6), torch.tensor([0, 1, 2, 0]), targets)
    assert loss.item() == pytest.approx(math.log(2))


def test_only_the_own_classs_mask_counts(wave):
    logits = (4 * wave(2, 3, 6, 6) - 2).requires_grad_()
    classes = torch.tensor([2, 0])
    mask_rcnn_loss(logits, classes, wave(2, 6, 6) > 0.5).backward()
    touched = logits.grad.flatten(2).any(2)
    assert touched.tolist() == [[False, False, True], [True, False, False]]


def test_against_torchvisions_loss(masks, wave):
    """Its targets are not thresholded, so boxes on the grid, where both agree."""
    boxes = torch.tensor([[6.0, 4.0, 34.0, 32.0], [3.0, 2.0, 31.0, 30.0], [0.0, 0.0, 28.0, 28.0]])
    index, labels = torch.tensor([2, 0, 1]), torch.tensor([2, 1, 2])
    logits = 4 * wave(3, 3, 28, 28) - 2
    unaligned = boxes - 0.5  # torchvision's crops lie half a pixel off
    expected = maskrcnn_loss(
        logits, [unaligned], [masks.float()], [torch.tensor([1, 2, 2])], [index]
    )
    ours = mask_rcnn_loss(logits, labels, mask_targets(masks, boxes, index, 28))
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.detectron2
def test_targets_and_loss_are_detectron2s(masks, wave):
    from detectron2.modeling.roi_heads.mask_head import mask_rcnn_loss as detectron2_loss
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    boxes = torch.tensor([[6.3, 4.1, 33.7, 30.2], [-3.0, 20.5, 50.0, 44.0], [9.0, 9.5, 11.0, 10.0]])
    index, classes = torch.tensor([2, 0, 1]), torch.tensor([1, 0, 2])
    logits = 4 * wave(3, 3, 28, 28) - 2
    bits = BitMasks(masks)[index]
    targets = mask_targets(masks, boxes, index, 28)
    assert torch.equal(targets, bits.crop_and_resize(boxes, 28))
    fields = {"proposal_boxes": Boxes(boxes), "gt_classes": classes, "gt_masks": bits}
    with EventStorage():
        expected = detectron2_loss(logits, [Instances((40, 48), **fields)])
    torch.testing.assert_close(mask_rcnn_loss(logits, classes, targets), expected)


def test_the_normalizer_joins_processes(wave):
    logits, targets = wave(5, 2, 6, 6), wave(5, 6, 6, phase=1.0) > 0.5
    classes = torch.tensor([0, 1, 1, 0, 1])
    joined = (
        mask_rcnn_loss(logits[:1], classes[:1], targets[:1], normalizer=2.5)
        + mask_rcnn_loss(logits[1:], classes[1:], targets[1:], normalizer=torch.tensor(2.5))
    ) / 2
    torch.testing.assert_close(joined, mask_rcnn_loss(logits, classes, targets))


def test_pinned_loss(wave):
    loss = mask_rcnn_loss(
        6 * wave(3, 4, 14, 14) - 3, torch.tensor([0, 3, 1]), wave(3, 14, 14, phase=1.0) > 0.5
    )
    assert loss.item() == pytest.approx(0.913380, abs=1e-5)
