"""Whether the keys of a detector suit one another, before any data are described."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from fvcore.common.config import CfgNode

from mrssl.config import WHOLE_SLICE_RESTORATION, ConfigError

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
    stages = _chosen("MODEL.FPN.IN_FEATURES", model.FPN.IN_FEATURES, _STAGES, neighbours=True)
    if stages[-1] != _STAGES[-1]:  # Detectron2's FPN adds its coarsest level to this one
        raise ConfigError(f"MODEL.FPN.IN_FEATURES {stages}: {_STAGES[-1]} is the last one")
    if missing := set(stages) - set(model.RESNETS.OUT_FEATURES):
        raise ConfigError(
            f"MODEL.RESNETS.OUT_FEATURES {list(model.RESNETS.OUT_FEATURES)}: "
            f"MODEL.FPN.IN_FEATURES has {', '.join(sorted(missing))} too"
        )
    levels = [f"p{stage[3:]}" for stage in stages] + ["p6"]
    if model.META_ARCHITECTURE not in ("GeneralizedRCNN", WHOLE_SLICE_RESTORATION):
        return
    names = model.ROI_HEADS.IN_FEATURES
    _chosen("MODEL.ROI_HEADS.IN_FEATURES", names, levels, neighbours=True)
    if model.PROPOSAL_GENERATOR.NAME == "RPN":
        found = _chosen("MODEL.RPN.IN_FEATURES", model.RPN.IN_FEATURES, levels, neighbours=False)
        _check_anchors(model.ANCHOR_GENERATOR, len(found))


def _chosen(key: str, names: Sequence[Any], known: Sequence[str], *, neighbours: bool) -> list[str]:
    """Some of ``known``, in order; raises where ``names`` are not."""
    places = [known.index(name) for name in names if name in known]
    steps = [after - before for before, after in pairwise(places)]
    sound = bool(names) and len(places) == len(names)
    if not (sound and all(step == 1 if neighbours else step > 0 for step in steps)):
        which = "neighbours" if neighbours else "some"
        raise ConfigError(f"{key} {list(names)}: {which} of {', '.join(known)}, in this order")
    return list(names)


def _check_anchors(node: CfgNode, levels: int) -> None:
    """Sizes and ratios for all levels or for each, and equally many anchors on each."""
    counts = [1] * levels
    for name in ("SIZES", "ASPECT_RATIOS"):
        rows = [row if isinstance(row, (list, tuple)) else [] for row in node[name]]
        numbers = [number for row in rows for number in row]
        sound = all(type(number) in (int, float) and number > 0 for number in numbers)
        if not (sound and rows and all(rows) and len(rows) in (1, levels)):
            raise ConfigError(
                f"MODEL.ANCHOR_GENERATOR.{name} {list(node[name])!r}: a list of positive numbers, "
                f"or {levels}, one a level of MODEL.RPN.IN_FEATURES"
            )
        counts = [n * len(rows[k % len(rows)]) for k, n in enumerate(counts)]
    if len(set(counts)) > 1:
        raise ConfigError(
            f"MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS {list(node.ASPECT_RATIOS)!r}: with SIZES "
            f"{list(node.SIZES)!r} levels have {counts} anchors, and must have equally many"
        )


__all__ = ["check_pyramid"]
