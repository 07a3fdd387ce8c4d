"""Whether the keys of a detector suit one another, before any data are described."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode

from mrssl.config import ConfigError

_NAME = "build_resnet_fpn_backbone"
_STAGES = ("res2", "res3", "res4", "res5")


def check_pyramid(cfg: CfgNode) -> None:
    """See that feature levels are those that there are, and that each has its anchors.

    Of other backbones than Detectron2's ResNet with FPN the levels are left alone.

    Raises:
        ConfigError: they do not; the line names the key.
    """
    model = cfg.MODEL
    if len(model.PIXEL_MEAN) != len(model.PIXEL_STD):
        raise ConfigError(
            f"MODEL.PIXEL_MEAN {list(model.PIXEL_MEAN)}, MODEL.PIXEL_STD {list(model.PIXEL_STD)}: "
            "one number a channel in both"
        )
    for part in ("RPN", "ROI_HEADS"):
        thresholds = list(model[part].IOU_THRESHOLDS)
        if thresholds != sorted(thresholds):
            raise ConfigError(f"MODEL.{part}.IOU_THRESHOLDS {thresholds}: the least comes first")
    if model.BACKBONE.NAME != _NAME:
        return
    stages = _levels("MODEL.FPN.IN_FEATURES", model.FPN.IN_FEATURES, _STAGES)
    last = int(stages[-1][3:])
    levels = [f"p{stage[3:]}" for stage in stages] + [f"p{last + 1}"]
    found = _levels("MODEL.RPN.IN_FEATURES", model.RPN.IN_FEATURES, levels)
    _levels("MODEL.ROI_HEADS.IN_FEATURES", model.ROI_HEADS.IN_FEATURES, levels)
    for key in ("SIZES", "ASPECT_RATIOS"):
        _check_anchors(f"MODEL.ANCHOR_GENERATOR.{key}", model.ANCHOR_GENERATOR[key], len(found))


def _levels(key: str, names: Sequence[Any], known: Sequence[str]) -> list[str]:
    """Neighbouring ones of ``known``, in order; raises where ``names`` are not."""
    first = known.index(names[0]) if names and names[0] in known else len(known)
    if not names or list(names) != list(known[first : first + len(names)]):
        raise ConfigError(f"{key} {list(names)}: neighbours of {', '.join(known)}, in this order")
    return list(names)


def _check_anchors(key: str, values: Any, levels: int) -> None:
    """One list for all levels or one a level, of positive numbers, equally many."""
    rows = [row if isinstance(row, (list, tuple)) else [] for row in values]
    numbers = [number for row in rows for number in row]
    sound = all(type(number) in (int, float) and number > 0 for number in numbers)
    if not (sound and numbers and len(rows) in (1, levels) and len(set(map(len, rows))) == 1):
        raise ConfigError(
            f"{key} {list(values)!r}: one list of positive numbers, or {levels} of equal length, "
            "one a level of MODEL.RPN.IN_FEATURES"
        )


__all__ = ["check_pyramid"]
