from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mrssl.config import with_values

from .conftest import MakeConfig

pytestmark = pytest.mark.detectron2

SPLIT = ("loss_type", "loss_restoration")


@pytest.fixture
def parts(make_config: MakeConfig, tmp_path: Path) -> Any:
    """A model, and a batch of two distorted slices."""
    from detectron2.modeling import build_model

    from mrssl.engines.datasets import RunData
    from mrssl.engines.detectron2 import MRIDatasetMapper

    cfg = make_config("pretrain", tmp_path, "MRSSL.PRETEXT.CLEAN_SHARE", 0.0)
    torch.manual_seed(0)
    model = build_model(cfg)
    data = RunData(cfg)
    mapper = MRIDatasetMapper(data.train_mapper)
    return model, [mapper(record, epoch=0) for record in data.train[3:12:8]], cfg


def test_the_meta_architecture_is_detectron2s_own(parts: Any) -> None:
    from detectron2.modeling import GeneralizedRCNN

    from mrssl.engines.detectron2 import DistortionROIHeads

    assert type(parts[0]) is GeneralizedRCNN
    assert type(parts[0].roi_heads) is DistortionROIHeads


def test_the_other_losses_are_stock(parts: Any) -> None:
    """The branches change nothing of what Mask R-CNN computes: not one bit, not one random draw."""
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    model, batch, cfg = parts
    stock = with_values(cfg, {"MODEL.ROI_HEADS.NAME": "StandardROIHeads"})
    plain = build_model(stock)
    plain.load_state_dict(model.state_dict(), strict=False)
    found = []
    with EventStorage():
        for each in (model, plain):
            torch.manual_seed(1)
            found.append(each(batch))
    ours, theirs = found
    assert set(ours) - set(theirs) == {*SPLIT, "loss_slice"}
    for name, loss in theirs.items():
        assert torch.equal(ours[name], loss), name


def test_targets_ride_along_with_their_proposals(parts: Any) -> None:
    """Each proposal's restoration target and types are those of the region it was matched with."""
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    model, batch, _ = parts
    targets = [x["instances"] for x in batch]
    model.roi_heads.batch_size_per_image, model.roi_heads.positive_fraction = 64, 1.0
    proposals = []
    for target in targets:
        proposal = Instances(target.image_size)
        proposal.proposal_boxes = Boxes(target.gt_boxes.tensor.flip(0) + 0.5)
        proposal.objectness_logits = torch.zeros(len(target))
        proposals.append(proposal)
    with EventStorage():
        sampled = model.roi_heads.label_and_sample_proposals(proposals, targets)
    for found, target in zip(sampled, targets, strict=True):
        positive = found[found.gt_classes == 0]
        assert len(positive) >= len(target)
        region = positive.gt_restoration.index
        assert torch.equal(positive.gt_boxes.tensor, target.gt_boxes.tensor[region])
        assert torch.equal(positive.gt_types, target.gt_types[region])


def test_the_branches_see_the_true_boxes(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the proposals, true boxes last, as ``select_rois`` counts on."""
    from detectron2.structures import Boxes, Instances
    from detectron2.utils.events import EventStorage

    model, batch, _ = parts
    targets = [x["instances"] for x in batch]
    model.roi_heads.batch_size_per_image, model.roi_heads.positive_fraction = 1000, 1.0
    proposals = []
    for target in targets:
        proposal = Instances(target.image_size)
        moved = [target.gt_boxes.tensor + 0.1 * k for k in range(20)]
        proposal.proposal_boxes = Boxes(torch.cat(moved)[torch.randperm(20 * len(target))])
        proposal.objectness_logits = torch.zeros(20 * len(target))
        proposals.append(proposal)
    offered = [
        torch.cat([p.proposal_boxes.tensor, t.gt_boxes.tensor])
        for p, t in zip(proposals, targets, strict=True)
    ]
    seen: list[Any] = []
    monkeypatch.setattr(
        model.roi_heads.distortion_branch,
        "losses",
        lambda images, features, boxes, *rest, **options: seen.extend(boxes) or {},
    )
    with EventStorage():
        sampled = model.roi_heads.label_and_sample_proposals(proposals, targets)
        model.roi_heads.distortion_losses(torch.empty(0), {}, sampled, targets)
    for boxes, every in zip(seen, offered, strict=True):
        assert torch.equal(boxes, every)  # all are positive


@pytest.mark.parametrize("empty", [(0,), (0, 1)], ids=["one", "both"])
def test_slices_without_a_distortion_train_too(parts: Any, empty: tuple[int, ...]) -> None:
    from detectron2.utils.events import EventStorage

    model, batch, _ = parts
    for number in empty:
        batch[number]["instances"] = batch[number]["instances"][:0]
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    for name in SPLIT:
        assert torch.isfinite(losses[name])
        assert (float(losses[name]) == 0) == (len(empty) == 2)
    branch = model.roi_heads.distortion_branch
    assert all(p.grad is not None for p in branch.parameters())  # or DDP would wait for them


@torch.no_grad()
def test_detections_carry_types_residuals_and_soft_masks(parts: Any) -> None:
    from mrssl.engines.detectron2 import restore

    model, batch, cfg = parts
    model.eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    output = model(batch)[0]["instances"]
    count, side = len(output), cfg.MRSSL.RESTORATION_HEAD.RESOLUTION
    assert count > 0
    assert output.pred_types.shape == (count, 8)
    assert output.pred_residuals.shape == (count, side, side)
    assert output.pred_mask_probs.shape == (count, 28, 28)
    assert output.pred_mask_probs.dtype == torch.float32
    # The last layer starts at zero: restoring changes nothing yet.
    image = batch[0]["image"][1] / 255
    torch.testing.assert_close(restore(batch[0], output), image)
    # And nothing found is nothing changed.
    torch.testing.assert_close(restore(batch[0], output[:0]), image)


@pytest.mark.parametrize("branch", ["TYPE_HEAD", "RESTORATION_HEAD"])
@torch.no_grad()
def test_either_branch_can_be_left_out(
    make_config: MakeConfig, parts: Any, tmp_path: Path, branch: str
) -> None:
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    _, batch, _ = parts
    model = build_model(make_config("pretrain", tmp_path, f"MRSSL.{branch}.LOSS_WEIGHT", 0.0))
    with EventStorage():
        losses = model(batch)
    model.eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    output = model(batch)[0]["instances"]
    fields = {"TYPE_HEAD": ("loss_type", "pred_types")}
    loss, field = fields.get(branch, ("loss_restoration", "pred_residuals"))
    assert loss not in losses
    assert not output.has(field)
    assert set(SPLIT) & set(losses)


def test_the_improved_mask_head_joins_in(
    make_config: MakeConfig, parts: Any, tmp_path: Path
) -> None:
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    _, batch, _ = parts
    cfg = make_config(
        "pretrain", tmp_path, "MODEL.ROI_MASK_HEAD.NAME", "ImprovedMaskHead",
        "MODEL.ROI_MASK_HEAD.POOLER_TYPE", "",
    )  # fmt: skip
    model = build_model(cfg)
    with EventStorage():
        assert {"loss_mask", *SPLIT} <= set(model(batch))
    model.eval()
    model.roi_heads.box_predictor.test_score_thresh = 0.0
    with torch.no_grad():
        output = model(batch)[0]["instances"]
    assert output.pred_mask_probs.shape[1:] == (56, 56)
