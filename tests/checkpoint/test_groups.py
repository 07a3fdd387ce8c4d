"""Which tensor belongs to which part of the detector."""

from __future__ import annotations

from itertools import pairwise

import pytest

from mrssl.checkpoint.groups import GROUPS, SCOPES, TOP, by_group, group_of, height_of


@pytest.mark.parametrize(
    "name, group",
    [
        ("backbone.bottom_up.stem.conv1.weight", "backbone"),
        ("backbone.fpn_lateral2.norm.weight", "fpn"),
        ("proposal_generator.rpn_head.conv.bias", "rpn"),
        ("roi_heads.box_head.fc1.weight", "box_head"),
        ("roi_heads.box_predictor.cls_score.bias", "box_predictor"),
        ("roi_heads.mask_head.mask_fcn1.weight", "mask_head"),
        ("roi_heads.mask_head.deconv.weight", "mask_head"),
        ("roi_heads.mask_head.predictor.weight", "mask_predictor"),
        ("roi_heads.mask_head.fuse.0.weight", "mask_head"),  # the improved mask head's
        ("roi_heads.mask_head.logits.weight", "mask_predictor"),  # and what of it knows classes
        ("roi_heads.position_head.predictor.bias", "position_head"),
        ("roi_heads.distortion_branch.type_head.predictor.bias", "type_head"),
        ("roi_heads.distortion_branch.restoration_head.fine.bias", "restoration_head"),
        ("something.else", "other"),
    ],
)
def test_groups(name, group):
    assert group_of(name) == group


def test_each_scope_contains_the_one_before():
    scopes = list(SCOPES.values())
    assert all(small < large for small, large in pairwise(scopes))
    assert scopes[-1] == set(GROUPS)


def test_lists_keep_the_order_of_groups_and_names():
    names = ["x.b", "backbone.fpn_output2.bias", "x.a", "backbone.bottom_up.stem.conv1.weight"]
    assert list(by_group(names).items()) == [
        ("backbone", [names[3]]),
        ("fpn", [names[1]]),
        ("other", [names[0], names[2]]),
    ]


@pytest.mark.parametrize(
    "name, height",
    [
        ("backbone.bottom_up.stem.conv1.norm.weight", 0),
        ("backbone.bottom_up.res2.0.conv1.weight", 1),
        ("backbone.bottom_up.res5.1.shortcut.norm.bias", 4),
        ("backbone.fpn_output5.weight", 5),
        ("proposal_generator.rpn_head.conv.weight", TOP),
        ("roi_heads.mask_head.deconv.weight", TOP),
    ],
)
def test_stages_rise_from_the_input_up(name, height):
    assert height_of(name) == height
