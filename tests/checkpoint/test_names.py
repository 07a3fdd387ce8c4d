"""The table of names: bijective and bitwise, on real models of torchvision."""

from __future__ import annotations

import pytest
import torch

from mrssl.checkpoint.names import is_stock, rename, to_detectron2, to_torchvision
from mrssl.errors import MrsslError


def assert_bitwise(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("norm", ["FrozenBN", "BN", "GN"])
@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_round_trip_is_bitwise(torchvision_model, random_state, depth, norm):
    state = random_state(torchvision_model(depth, norm, head_norm=norm if norm == "GN" else ""))
    converted = to_detectron2(state)
    assert len(converted) == len(state)
    assert all(is_stock(name) for name in converted)
    assert_bitwise(to_torchvision(converted), state)
    assert_bitwise(to_detectron2(to_torchvision(converted)), converted)


@pytest.mark.parametrize(
    "torchvision, detectron2",
    [
        ("backbone.body.conv1.weight", "backbone.bottom_up.stem.conv1.weight"),
        ("backbone.body.bn1.running_var", "backbone.bottom_up.stem.conv1.norm.running_var"),
        ("backbone.body.layer2.0.downsample.0.weight", "backbone.bottom_up.res3.0.shortcut.weight"),
        (
            "backbone.body.layer4.22.downsample.1.bias",
            "backbone.bottom_up.res5.22.shortcut.norm.bias",
        ),
        ("backbone.body.layer1.0.bn3.weight", "backbone.bottom_up.res2.0.conv3.norm.weight"),
        ("backbone.fpn.inner_blocks.0.0.bias", "backbone.fpn_lateral2.bias"),
        ("backbone.fpn.layer_blocks.3.1.weight", "backbone.fpn_output5.norm.weight"),
        ("rpn.head.conv.0.0.weight", "proposal_generator.rpn_head.conv.weight"),
        ("rpn.head.bbox_pred.bias", "proposal_generator.rpn_head.anchor_deltas.bias"),
        ("roi_heads.box_head.fc6.weight", "roi_heads.box_head.fc1.weight"),
        ("roi_heads.box_head.fc10.weight", "roi_heads.box_head.fc5.weight"),
        ("roi_heads.mask_head.0.0.weight", "roi_heads.mask_head.mask_fcn1.weight"),
        ("roi_heads.mask_head.3.1.bias", "roi_heads.mask_head.mask_fcn4.norm.bias"),
        ("roi_heads.mask_predictor.conv5_mask.bias", "roi_heads.mask_head.deconv.bias"),
        ("roi_heads.mask_predictor.mask_fcn_logits.bias", "roi_heads.mask_head.predictor.bias"),
    ],
)
def test_names(torchvision, detectron2):
    assert rename(torchvision, "torchvision") == detectron2
    assert rename(detectron2, "detectron2") == torchvision


def test_background_moves_from_first_to_last():
    state = {
        "roi_heads.box_predictor.cls_score.weight": torch.arange(6.0).reshape(3, 2),
        "roi_heads.box_predictor.cls_score.bias": torch.tensor([10.0, 11.0, 12.0]),
        "roi_heads.box_predictor.bbox_pred.bias": torch.arange(12.0),
        "roi_heads.mask_predictor.mask_fcn_logits.bias": torch.tensor([5.0, 6.0, 7.0]),
    }
    converted = to_detectron2(state)
    assert converted["roi_heads.box_predictor.cls_score.bias"].tolist() == [11, 12, 10]
    assert converted["roi_heads.box_predictor.cls_score.weight"][-1].tolist() == [0, 1]
    assert converted["roi_heads.box_predictor.bbox_pred.bias"].tolist() == list(range(4, 12))
    assert converted["roi_heads.mask_head.predictor.bias"].tolist() == [6, 7]
    back = to_torchvision(converted)
    assert back["roi_heads.box_predictor.bbox_pred.bias"].tolist() == [0] * 4 + list(range(4, 12))
    assert back["roi_heads.mask_predictor.mask_fcn_logits.bias"].tolist() == [0, 6, 7]
    # dropped rows are not dragged along in the storage
    delta = converted["roi_heads.box_predictor.bbox_pred.bias"]
    assert delta.untyped_storage().nbytes() == delta.nbytes


def test_other_heads_pass_through():
    state = {
        "roi_heads.distortion_branch.type_head.predictor.weight": torch.ones(2, 2),
        "roi_heads.mask_head.decoder.2.norm.weight": torch.ones(2),
    }
    assert list(to_detectron2(state)) == list(to_torchvision(state)) == list(state)
    assert not any(is_stock(name) for name in state)


def test_names_of_old_torchvision():
    names = [
        "backbone.fpn.inner_blocks.1.weight",
        "rpn.head.conv.bias",
        "roi_heads.mask_head.mask_fcn2.weight",
    ]
    assert list(to_detectron2({name: torch.ones(1) for name in names})) == [
        "backbone.fpn_lateral3.weight",
        "proposal_generator.rpn_head.conv.bias",
        "roi_heads.mask_head.mask_fcn2.weight",
    ]


@pytest.mark.parametrize(
    "state, convert, message",
    [
        # class-agnostic boxes over two classes
        (
            {
                "roi_heads.box_predictor.cls_score.bias": torch.ones(3),
                "roi_heads.box_predictor.bbox_pred.bias": torch.ones(4),
            },
            to_torchvision,
            "disagree about the number of classes",
        ),
        ({"roi_heads.box_predictor.bbox_pred.bias": torch.ones(7)}, to_detectron2, "disagree"),
        ({"roi_heads.box_predictor.cls_score.bias": torch.tensor(1.0)}, to_detectron2, "0 rows"),
        ({"backbone.body.conv1.weight": torch.ones(1)}, to_torchvision, "is one of torchvision"),
        ({"backbone.fpn_lateral2.bias": torch.ones(1)}, to_detectron2, "is one of detectron2"),
        (
            {"rpn.head.conv.bias": torch.ones(1), "rpn.head.conv.0.0.bias": torch.ones(1)},
            to_detectron2,
            "two tensors",
        ),
    ],
)
def test_states_that_cannot_be_converted(state, convert, message):
    with pytest.raises(MrsslError, match=message):
        convert(state)
