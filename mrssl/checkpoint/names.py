"""Names of the same detector in torchvision and in Detectron2, converted bit for bit.

The table covers Mask R-CNN on a ResNet-FPN: torchvision's ``MaskRCNN`` over
``resnet_fpn_backbone`` (ResNet-18/34/50/101, any normalisation, FPN and mask head with or without
one), and Detectron2's ``GeneralizedRCNN`` with ``STRIDE_IN_1X1: False``. Three kinds of tensors
differ by more than the name, since torchvision counts the background as the first class and
Detectron2 as the last (C is the number of foreground classes):

============  ===========================  ===========================
first axis    torchvision                  Detectron2
============  ===========================  ===========================
class logits  background, then C classes   C classes, then background
box deltas    4 unused rows, then 4 C      4 C
mask logits   1 unused row, then C         C
============  ===========================  ===========================

torchvision never reads the unused rows. They are dropped on the way to Detectron2 and come back
as zeros. So Detectron2 -> torchvision -> Detectron2 is the identity, and torchvision -> Detectron2
-> torchvision is one wherever those rows are zero, which is how ``mrssl`` initialises them; their
gradient is zero, so they stay zero. Everything else is renamed only, ``num_batches_tracked``
included. Names that the table does not know pass through unchanged: the pretext's
``roi_heads.distortion_branch.*``, and mask heads of another design.

One number is not in the state: torchvision builds its published COCO models (weights "COCO_V1")
with ``eps = 0`` in the frozen normalisation, Detectron2 always with 1e-5.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mrssl.errors import MrsslError

Naming = Literal["torchvision", "detectron2"]
NAMINGS: tuple[Naming, ...] = ("torchvision", "detectron2")

_CLASS_LOGITS = "roi_heads.box_predictor.cls_score"
_BOX_DELTAS = "roi_heads.box_predictor.bbox_pred"
_MASK_LOGITS = "roi_heads.mask_head.predictor"
_TV_MASK_LOGITS = "roi_heads.mask_predictor.mask_fcn_logits"

# (torchvision, Detectron2, slots): every "#" is a number, and the slot in its place says the lowest
# number that torchvision uses there, and what Detectron2 adds to it.
_STAGE, _SAME, _LEVEL, _CONV, _FC = (1, 1), (0, 0), (0, 2), (0, 1), (6, -5)
_TABLE: tuple[tuple[str, str, tuple[tuple[int, int], ...]], ...] = (
    ("backbone.body.conv1", "backbone.bottom_up.stem.conv1", ()),
    ("backbone.body.bn1", "backbone.bottom_up.stem.conv1.norm", ()),
    ("backbone.body.layer#.#.conv#", "backbone.bottom_up.res#.#.conv#", (_STAGE, _SAME, _SAME)),
    ("backbone.body.layer#.#.bn#", "backbone.bottom_up.res#.#.conv#.norm", (_STAGE, _SAME, _SAME)),
    ("backbone.body.layer#.#.downsample.0", "backbone.bottom_up.res#.#.shortcut", (_STAGE, _SAME)),
    (
        "backbone.body.layer#.#.downsample.1",
        "backbone.bottom_up.res#.#.shortcut.norm",
        (_STAGE, _SAME),
    ),
    ("backbone.fpn.inner_blocks.#.0", "backbone.fpn_lateral#", (_LEVEL,)),
    ("backbone.fpn.inner_blocks.#.1", "backbone.fpn_lateral#.norm", (_LEVEL,)),
    ("backbone.fpn.layer_blocks.#.0", "backbone.fpn_output#", (_LEVEL,)),
    ("backbone.fpn.layer_blocks.#.1", "backbone.fpn_output#.norm", (_LEVEL,)),
    ("rpn.head.conv.0.0", "proposal_generator.rpn_head.conv", ()),
    ("rpn.head.cls_logits", "proposal_generator.rpn_head.objectness_logits", ()),
    ("rpn.head.bbox_pred", "proposal_generator.rpn_head.anchor_deltas", ()),
    ("roi_heads.box_head.fc#", "roi_heads.box_head.fc#", (_FC,)),
    (_CLASS_LOGITS, _CLASS_LOGITS, ()),
    (_BOX_DELTAS, _BOX_DELTAS, ()),
    ("roi_heads.mask_head.#.0", "roi_heads.mask_head.mask_fcn#", (_CONV,)),
    ("roi_heads.mask_head.#.1", "roi_heads.mask_head.mask_fcn#.norm", (_CONV,)),
    ("roi_heads.mask_predictor.conv5_mask", "roi_heads.mask_head.deconv", ()),
    (_TV_MASK_LOGITS, _MASK_LOGITS, ()),
)

# torchvision before 0.13 had no Sequential around these; its published files still read like that.
_OLD_TORCHVISION: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)"), r"\1.0.\2"),
    (re.compile(r"rpn\.head\.conv\.(weight|bias)"), r"rpn.head.conv.0.0.\1"),
)
_OLD_MASK_FCN = re.compile(r"roi_heads\.mask_head\.mask_fcn(\d)\.(weight|bias)")


class _Rule(NamedTuple):
    pattern: re.Pattern[str]  # the whole name without its leaf ("weight", "running_mean", ...)
    template: str
    slots: tuple[tuple[int, int], ...]  # (lowest number allowed, number to add)

    def apply(self, stem: str) -> str | None:
        match = self.pattern.fullmatch(stem)
        if match is None:
            return None
        numbers = [int(number) for number in match.groups()]
        if any(n < low for n, (low, _) in zip(numbers, self.slots, strict=True)):
            return None
        renamed = self.template
        for number, (_, add) in zip(numbers, self.slots, strict=True):
            renamed = renamed.replace("#", str(number + add), 1)
        return renamed


def _compile(source: str, target: str, slots: tuple[tuple[int, int], ...]) -> _Rule:
    pattern = re.escape(source).replace(r"\#", r"(0|[1-9]\d{0,3})")
    return _Rule(re.compile(pattern), target, slots)


_RULES: dict[Naming, tuple[_Rule, ...]] = {  # by the naming that is renamed
    "torchvision": tuple(_compile(tv, d2, slots) for tv, d2, slots in _TABLE),
    "detectron2": tuple(
        _compile(d2, tv, tuple((low + add, -add) for low, add in slots)) for tv, d2, slots in _TABLE
    ),
}


def rename(name: str, names: Naming) -> str | None:
    """The other naming's name for ``name``, which is in ``names``; None outside the table."""
    stem, _, leaf = name.rpartition(".")
    for rule in _RULES[names]:
        renamed = rule.apply(stem)
        if renamed is not None:
            return f"{renamed}.{leaf}"
    return None


def detectron2_name(name: str, names: Naming) -> str:
    """``name`` (in ``names``) in Detectron2's naming; unchanged outside the table."""
    return name if names == "detectron2" else rename(name, "torchvision") or name


def is_stock(name: str) -> bool:
    """Whether ``name``, in Detectron2's naming, belongs to the stock Mask R-CNN of the table."""
    return rename(name, "detectron2") is not None


def to_detectron2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A torchvision Mask R-CNN state in Detectron2's names and class order.

    Args:
        state: tensors by torchvision's names, of the whole model or of any part; the names of
            torchvision before 0.13 are understood too.

    Returns:
        Tensors by Detectron2's names, in the same order; unchanged ones are shared, not copied.

    Raises:
        MrsslError: two names become one, a name of Detectron2's is among them, or the first
            dimensions of the predictors contradict one another.
    """
    state = _modern(state)
    _check_rows(state, "torchvision")
    return {
        name: _rows_to_detectron2(name, tensor)
        for name, tensor in _renamed(state, "torchvision").items()
    }


def to_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Detectron2 Mask R-CNN state in torchvision's names and class order.

    Args:
        state: tensors by Detectron2's names, of the whole model or of any part.

    Returns:
        Tensors by torchvision's names, in the same order; unchanged ones are shared, not copied.

    Raises:
        MrsslError: as :func:`to_detectron2`; class-agnostic boxes or masks over several classes,
            which torchvision has not, among them.
    """
    _check_rows(state, "detectron2")
    return {
        name: _rows_to_torchvision(name, tensor)
        for name, tensor in _renamed(state, "detectron2").items()
    }


def _modern(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    modern: dict[str, Tensor] = {}
    for old, tensor in state.items():
        new = old
        for pattern, template in _OLD_TORCHVISION:
            new = match.expand(template) if (match := pattern.fullmatch(new)) else new
        if match := _OLD_MASK_FCN.fullmatch(new):
            new = f"roi_heads.mask_head.{int(match[1]) - 1}.0.{match[2]}"
        if new in modern:
            raise MrsslError(f"two tensors of the state are both {new}")
        modern[new] = tensor
    return modern


def _renamed(state: Mapping[str, Tensor], names: Naming) -> dict[str, Tensor]:
    other = NAMINGS[1 - NAMINGS.index(names)]
    renamed: dict[str, Tensor] = {}
    for old, tensor in state.items():
        new = rename(old, names)
        if new is None:
            if rename(old, other) is not None:
                raise MrsslError(f"{old} is one of {other}'s names, among {names}'s")
            new = old
        if new in renamed:
            raise MrsslError(f"two tensors of the state are both {new}")
        renamed[new] = tensor
    return renamed


def _check_rows(state: Mapping[str, Tensor], names: Naming) -> None:
    """The first dimensions of the predictors present must agree about the number of classes."""
    unused = int(names == "torchvision")  # classes beside the foreground in deltas and masks
    mask_logits = _TV_MASK_LOGITS if unused else _MASK_LOGITS
    classes: dict[str, float] = {}
    for leaf in ("weight", "bias"):
        for stem, per_class, more in (
            (_CLASS_LOGITS, 1, 1),
            (_BOX_DELTAS, 4, unused),
            (mask_logits, 1, unused),
        ):
            tensor = state.get(f"{stem}.{leaf}")
            if tensor is None:
                continue
            rows = tensor.shape[0] if tensor.ndim else 0
            classes[f"{stem}.{leaf} ({rows} rows)"] = rows / per_class - more
    if len(set(classes.values())) > 1 or any(n < 1 or n % 1 for n in classes.values()):
        raise MrsslError(
            f"the predictors disagree about the number of classes in {names}'s naming "
            f"(class-agnostic ones have no torchvision counterpart): {', '.join(classes)}"
        )


def _rows_to_detectron2(name: str, tensor: Tensor) -> Tensor:
    stem = name.rpartition(".")[0]
    if stem == _CLASS_LOGITS:
        return torch.cat((tensor[1:], tensor[:1]))
    # clone: a view would drag the dropped rows into every file that it is saved to
    if stem == _BOX_DELTAS:
        return tensor[4:].clone()
    return tensor[1:].clone() if stem == _MASK_LOGITS else tensor


def _rows_to_torchvision(name: str, tensor: Tensor) -> Tensor:
    stem = name.rpartition(".")[0]
    if stem == _CLASS_LOGITS:
        return torch.cat((tensor[-1:], tensor[:-1]))
    unused = {_BOX_DELTAS: 4, _TV_MASK_LOGITS: 1}.get(stem, 0)
    return torch.cat((tensor.new_zeros(unused, *tensor.shape[1:]), tensor)) if unused else tensor
