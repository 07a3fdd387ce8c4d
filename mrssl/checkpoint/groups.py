"""The parts of a detector that are loaded, reported and exported as one, by Detectron2's names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mrssl.errors import MrsslError

# The first prefix that fits decides. mask_head.deconv does not depend on the classes.
_PREFIXES: tuple[tuple[str, str], ...] = (
    ("backbone.bottom_up.", "backbone"),
    ("backbone.fpn_", "fpn"),
    ("proposal_generator.", "rpn"),
    ("roi_heads.box_head.", "box_head"),
    ("roi_heads.box_predictor.", "box_predictor"),
    ("roi_heads.mask_head.predictor.", "mask_predictor"),
    ("roi_heads.mask_head.logits.", "mask_predictor"),  # of the improved mask head
    ("roi_heads.mask_head.", "mask_head"),
    ("roi_heads.position_head.", "position_head"),
    ("roi_heads.slice_decoder.", "slice_decoder"),
    ("roi_heads.distortion_branch.encoder.", "region_encoder"),
    ("roi_heads.distortion_branch.type_head.", "type_head"),
    ("roi_heads.distortion_branch.restoration_head.", "restoration_head"),
)
OTHER = "other"
GROUPS: tuple[str, ...] = (*dict.fromkeys(group for _, group in _PREFIXES), OTHER)

#: What each scope covers: each holds the one before. Predictors are in none where the classes are
#: new; :mod:`mrssl.checkpoint.transfer` says so.
SCOPES: dict[str, frozenset[str]] = {
    "backbone": frozenset(GROUPS[:1]),
    "fpn": frozenset(GROUPS[:2]),
    "rpn": frozenset(GROUPS[:3]),
    "detector": frozenset(GROUPS),
}
#: Groups whose shapes depend on the classes.
PREDICTORS = frozenset(("box_predictor", "mask_predictor"))

#: The stage of RPN and heads in :func:`height_of`.
TOP = 6


def group_of(name: str) -> str:
    """The group of a tensor, by its name in Detectron2's naming; "other" if it is in none."""
    return next((group for prefix, group in _PREFIXES if name.startswith(prefix)), OTHER)


def height_of(name: str) -> int:
    """The stage of a tensor, by its name in Detectron2's naming, from the input up.

    Returns:
        0 for the stem, 1 to 4 for res2 to res5, 5 for the FPN, :data:`TOP` for all above it.
    """
    if match := re.match(r"backbone\.bottom_up\.(?:stem|res(\d))\.", name):
        return int(match[1] or 1) - 1
    return TOP - 1 if group_of(name) == "fpn" else TOP


def groups_of_scope(scope: str) -> frozenset[str]:
    """The groups that ``scope`` covers.

    Raises:
        MrsslError: there is no such scope.
    """
    if scope not in SCOPES:
        raise MrsslError(f"scope {scope!r}: one of {', '.join(SCOPES)} is meant")
    return SCOPES[scope]


def groups_to_load(scope: str, reinit: Iterable[str] = ()) -> frozenset[str]:
    """The groups that a transfer takes: of ``scope``, but for ``reinit`` and the predictors.

    Raises:
        MrsslError: there is no such scope, or no such group in it.
    """
    groups = groups_of_scope(scope)
    known = [group for group in GROUPS if group in groups - PREDICTORS]
    for name in reinit:
        if name not in known:
            raise MrsslError(
                f"no part of scope {scope!r} to start anew is named {name!r}: "
                f"one of {', '.join(known)} is meant"
            )
    return groups - PREDICTORS - frozenset(reinit)


def by_group(names: Iterable[str]) -> dict[str, list[str]]:
    """Lists of Detectron2's names by group; groups in their order, empty ones left out."""
    lists: dict[str, list[str]] = {group: [] for group in GROUPS}
    for name in names:
        lists[group_of(name)].append(name)
    return {group: members for group, members in lists.items() if members}
