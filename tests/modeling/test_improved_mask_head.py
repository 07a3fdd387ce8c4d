from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from mrssl.errors import MrsslError
from mrssl.modeling import ImprovedMaskHead, mask_rcnn_loss


@pytest.fixture
def head(fill):
    return fill(ImprovedMaskHead(in_channels=6, num_classes=3, conv_dim=8, num_conv=2))


@pytest.fixture
def crops(wave):
    return wave(2, 6, 14, 14), wave(2, 6, 28, 28, phase=1.0)


def test_masks_of_56_pixels_from_crops_of_14(head, crops):
    assert head(crops).shape == (2, 3, 56, 56)


def test_up_to_the_skip_it_is_the_stock_head():
    """Exactly three changes: what comes before the joint has the shapes of Mask R-CNN's head."""
    ours = ImprovedMaskHead(in_channels=16, num_classes=5, conv_dim=32, num_conv=4, norm="GN")
    stock = [
        *MaskRCNNHeads(
            16, [32] * 4, 1, norm_layer=lambda n: torch.nn.GroupNorm(32, n)
        ).parameters(),
        *MaskRCNNPredictor(32, 32, 5).conv5_mask.parameters(),
    ]
    shapes = [p.shape for p in ours.parameters()]
    assert shapes[: len(stock)] == [p.shape for p in stock]
    assert {n.split(".")[0] for n in ours.state_dict()} == {"convs", "up1", "fuse", "up2", "logits"}


def test_against_its_definition(head, crops):
    coarse, fine = crops
    p = dict(head.named_parameters())
    x = coarse
    for i in range(2):
        x = F.conv2d(x, p[f"convs.{i}.0.weight"], p[f"convs.{i}.0.bias"], padding=1).clamp(min=0)
    x = F.conv_transpose2d(x, p["up1.weight"], p["up1.bias"], stride=2).clamp(min=0)
    # Convolution of the concatenation = sum of the convolutions of its parts.
    decoded, skipped = p["fuse.0.weight"].split([8, 6], dim=1)
    x = F.conv2d(x, decoded, p["fuse.0.bias"], padding=1) + F.conv2d(fine, skipped, padding=1)
    x = F.conv_transpose2d(x.clamp(min=0), p["up2.weight"], p["up2.bias"], stride=2).clamp(min=0)
    expected = torch.einsum("rcyx,kc->rkyx", x, p["logits.weight"][:, :, 0, 0])
    expected = expected + p["logits.bias"][:, None, None]
    assert expected.std() > 0.05
    torch.testing.assert_close(head(crops), expected, rtol=1e-4, atol=1e-4)


def test_a_fine_cell_moves_its_own_surroundings_alone(head, crops):
    """The skip is local: cell (y, x) of 28 sees one neighbour each way, so 6 x 6 pixels of 56."""
    coarse, fine = crops
    changed = fine.clone()
    changed[0, :, 9, 20] += 3.0
    moved = (head((coarse, changed)) - head((coarse, fine))).abs().amax(1) > 0
    assert not moved[1].any()
    rows, columns = torch.where(moved[0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (16, 21, 38, 43)


def test_a_coarse_cell_reaches_no_farther_than_its_convolutions(head, crops):
    coarse, fine = crops
    changed = coarse.clone()
    changed[1, :, 7, 7] += 3.0
    moved = (head((changed, fine)) - head((coarse, fine))).abs().amax(1) > 0
    assert not moved[0].any() and moved[1].any()
    # 2 convolutions: cells 5..9; twice as fine 10..19; the joint 9..20; twice as fine 18..41.
    rows, columns = torch.where(moved[1])
    assert rows.min() >= 18 and rows.max() <= 41 and columns.min() >= 18 and columns.max() <= 41


def test_it_starts_undecided():
    torch.manual_seed(0)
    head = ImprovedMaskHead(in_channels=8, num_classes=2, conv_dim=16, num_conv=4)
    crops = torch.randn(3, 8, 14, 14), torch.randn(3, 8, 28, 28)
    assert (head(crops).sigmoid() - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("norm", ["", "GN", "FrozenBN"])
def test_no_rois(norm, assert_zero_in_graph):
    head = ImprovedMaskHead(in_channels=6, num_classes=3, conv_dim=8, num_conv=2, norm=norm)
    logits = head((torch.zeros(0, 6, 14, 14), torch.zeros(0, 6, 28, 28)))
    assert logits.shape == (0, 3, 56, 56)
    loss = mask_rcnn_loss(logits, torch.zeros(0).long(), torch.zeros(0, 56, 56).bool())
    assert_zero_in_graph(loss, head)


def test_autocast_joins_halves_and_singles(head, crops):
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(crops)
    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), head(crops), rtol=0.1, atol=0.1)


def test_it_learns_an_edge_finer_than_the_coarse_cells():
    """A stripe pattern at the fine crop's resolution, of which the coarse crop knows nothing."""
    torch.manual_seed(0)
    head = ImprovedMaskHead(in_channels=2, num_classes=1, conv_dim=8, num_conv=1)
    fine = torch.randn(4, 2, 8, 8)
    target = (fine[:, 0] > 0).repeat_interleave(2, 1).repeat_interleave(2, 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        logits = head((torch.zeros(4, 2, 4, 4), fine))
        loss = mask_rcnn_loss(logits, torch.zeros(4).long(), target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[0] == pytest.approx(0.693, abs=0.01)
    assert losses[-1] < 0.2


def test_pinned_loss(head, crops, wave):
    target = wave(2, 56, 56, phase=2.0) > 0.5
    loss = mask_rcnn_loss(head(crops), torch.tensor([2, 0]), target)
    assert loss.item() == pytest.approx(0.705934, abs=1e-5)


def test_a_width_that_cannot_be_halved():
    with pytest.raises(MrsslError, match=r"CONV_DIM must be even, not 7"):
        ImprovedMaskHead(in_channels=6, num_classes=3, conv_dim=7)


def test_an_unknown_norm():
    with pytest.raises(MrsslError, match="unknown norm 'LN'"):
        ImprovedMaskHead(in_channels=6, num_classes=3, conv_dim=8, norm="LN")
