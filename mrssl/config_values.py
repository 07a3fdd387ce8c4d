"""Which numbers a key of the configuration may have, said once and checked before a run starts.

Keys that choose by name, and values that have to suit one another, are checked where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fvcore.common.config import CfgNode


@dataclass(frozen=True)
class Numbers:
    """Numbers within bounds: one, or as many as the key has by its nature.

    Args:
        least: the lower bound.
        most: the upper bound.
        above: leave out the lower bound itself.
        below: leave out the upper bound itself.
        count: "one"; "pair": two, in order; "rising": two, the second greater; "some": one or more.
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    below: bool = False
    count: str = "one"

    def fit(self, value: Any) -> bool:
        """Whether ``value`` of a key, a number or a sequence of them, is such."""
        if self.count == "one":
            return self._within(value)
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        if self.count == "some":
            return bool(value) and all(map(self._within, value))
        if len(value) != 2 or not all(map(self._within, value)):
            return False
        low, high = value
        return bool(low < high or (low == high and self.count == "pair"))

    def _within(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        over = value > self.least if self.above else value >= self.least
        under = value < self.most if self.below else value <= self.most
        return over and under and math.isfinite(value)

    def __str__(self) -> str:
        what = {
            "one": "a number",
            "pair": "two numbers, none less than the one before,",
            "rising": "two numbers, the lesser first,",
            "some": "one number or more",
        }[self.count]
        bounds = []
        if self.least > -math.inf:
            bounds.append(f"{'above' if self.above else 'from'} {self.least:g}")
        if self.most < math.inf:
            bounds.append(f"{'below' if self.below else 'to'} {self.most:g}")
        return " ".join([what, *bounds])


_COUNT = Numbers(1)
_COUNT_OR_NONE = Numbers(0)
_WEIGHT = Numbers(0)
_POSITIVE = Numbers(0, above=True)
_SHARE = Numbers(0, 1)
_SHARES = Numbers(0, 1, count="pair")
_FACTORS = Numbers(0, above=True, count="pair")

NUMBERS: dict[str, Numbers] = {
    "MODEL.BACKBONE.FREEZE_AT": Numbers(0, 5),
    "MODEL.RESNETS.RES2_OUT_CHANNELS": _COUNT,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": _COUNT,
    "MODEL.FPN.OUT_CHANNELS": _COUNT,
    "MODEL.RPN.IOU_THRESHOLDS": Numbers(0, 1, above=True, count="some"),
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": _COUNT,
    "MODEL.RPN.POSITIVE_FRACTION": _SHARE,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": _COUNT,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": _COUNT,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": _COUNT,
    "MODEL.RPN.POST_NMS_TOPK_TEST": _COUNT,
    "MODEL.RPN.NMS_THRESH": _SHARE,
    "MODEL.ROI_HEADS.NUM_CLASSES": _COUNT,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": Numbers(0, 1, above=True, count="some"),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": _COUNT,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": _SHARE,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": _SHARE,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": _SHARE,
    "MODEL.ROI_BOX_HEAD.NUM_FC": _COUNT_OR_NONE,
    "MODEL.ROI_BOX_HEAD.FC_DIM": _COUNT,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": _COUNT,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": Numbers(-1),
    "MODEL.ROI_MASK_HEAD.NUM_CONV": _COUNT_OR_NONE,
    "MODEL.ROI_MASK_HEAD.CONV_DIM": _COUNT,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": _COUNT,
    "MODEL.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO": Numbers(-1),
    "MODEL.PIXEL_MEAN": Numbers(count="some"),
    "MODEL.PIXEL_STD": Numbers(0, above=True, count="some"),
    "INPUT.MIN_SIZE_TRAIN": Numbers(0, count="some"),  # 0: slices are not resized
    "INPUT.MAX_SIZE_TRAIN": _COUNT,
    "INPUT.MIN_SIZE_TEST": Numbers(0),
    "INPUT.MAX_SIZE_TEST": _COUNT,
    "DATALOADER.NUM_WORKERS": _COUNT_OR_NONE,
    "SOLVER.MAX_ITER": _COUNT_OR_NONE,
    "SOLVER.BASE_LR": _POSITIVE,
    "SOLVER.BASE_LR_END": _WEIGHT,
    "SOLVER.MOMENTUM": Numbers(0, 1, below=True),
    "SOLVER.WEIGHT_DECAY": _WEIGHT,
    "SOLVER.WEIGHT_DECAY_NORM": _WEIGHT,
    "SOLVER.GAMMA": _POSITIVE,
    "SOLVER.WARMUP_FACTOR": _SHARE,
    "SOLVER.WARMUP_ITERS": _COUNT_OR_NONE,
    "SOLVER.CHECKPOINT_PERIOD": _COUNT_OR_NONE,
    "SOLVER.IMS_PER_BATCH": _COUNT,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": _POSITIVE,
    "TEST.EVAL_PERIOD": _COUNT_OR_NONE,
    "MRSSL.DATA.NEIGHBOR_STEP": _COUNT_OR_NONE,
    "MRSSL.DATA.PERCENTILES": Numbers(0, 100, count="rising"),
    "MRSSL.DATA.ZSCORE_RANGE": Numbers(count="rising"),
    "MRSSL.DATA.WINDOW": Numbers(count="rising"),
    "MRSSL.DATA.MIN_FOREGROUND": _SHARE,
    "MRSSL.DATA.MIN_INSTANCE_PIXELS": _COUNT_OR_NONE,
    "MRSSL.DATA.CACHE_MIB": _COUNT_OR_NONE,
    "MRSSL.DATA.MAX_UNREADABLE": _SHARE,
    "MRSSL.DATA.WORKER_TIMEOUT": _COUNT_OR_NONE,
    "MRSSL.AUGMENT.SCALE": _FACTORS,
    "MRSSL.AUGMENT.ROTATE": Numbers(0, 180),
    "MRSSL.AUGMENT.TRANSLATE": _SHARE,
    "MRSSL.AUGMENT.ELASTIC": _SHARE,
    "MRSSL.AUGMENT.GAMMA": _FACTORS,
    "MRSSL.AUGMENT.CONTRAST": _FACTORS,
    "MRSSL.PRETEXT.REGIONS": Numbers(0, count="pair"),
    "MRSSL.PRETEXT.REGION_SIZE": Numbers(0, 1, above=True, count="pair"),
    "MRSSL.PRETEXT.FEATHER": Numbers(0, 0.5, count="pair"),
    "MRSSL.PRETEXT.SEPARATION": _WEIGHT,
    "MRSSL.PRETEXT.MIN_FOREGROUND": _SHARE,
    "MRSSL.PRETEXT.CLEAN_SHARE": _SHARE,
    "MRSSL.PRETEXT.TOLERANCE": Numbers(0, 1, below=True),
    "MRSSL.PRETEXT.MIN_CHANGED": _SHARE,
    "MRSSL.PRETEXT.COMPOSE": Numbers(1, count="pair"),
    "MRSSL.PRETEXT.SEVERITY": _SHARES,
    "MRSSL.PRETEXT.ALL_CHANNELS": _SHARE,
    "MRSSL.PRETEXT.OTHER_SUBJECT": _SHARE,
    "MRSSL.DISTORTION_HEAD.MARGIN": _COUNT_OR_NONE,
    "MRSSL.DISTORTION_HEAD.MAX_ROIS": _COUNT,
    "MRSSL.DISTORTION_HEAD.CONV_DIM": _COUNT,
    "MRSSL.TYPE_HEAD.CONV_DIM": _COUNT,
    "MRSSL.TYPE_HEAD.LOSS_WEIGHT": _WEIGHT,
    "MRSSL.RESTORATION_HEAD.RESOLUTION": _COUNT,
    "MRSSL.RESTORATION_HEAD.L1_WEIGHT": _WEIGHT,
    "MRSSL.RESTORATION_HEAD.L2_WEIGHT": _WEIGHT,
    "MRSSL.RESTORATION_HEAD.SSIM_WEIGHT": _WEIGHT,
    "MRSSL.RESTORATION_HEAD.LOSS_WEIGHT": _WEIGHT,
    "MRSSL.POSITION_HEAD.LOSS_WEIGHT": _WEIGHT,
    "MRSSL.SLICE_DECODER.LOSS_WEIGHT": _WEIGHT,
    "MRSSL.TRANSFER.LR_FACTOR": _WEIGHT,
    "MRSSL.TRANSFER.LAYER_DECAY": _POSITIVE,
    "MRSSL.TRANSFER.FREEZE_ITERS": _COUNT_OR_NONE,
    "MRSSL.EVALUATION.SCORE_THRESHOLD": _SHARE,
    "MRSSL.SOLVER.PATIENCE": _COUNT_OR_NONE,
    "MRSSL.SOLVER.KEEP_CHECKPOINTS": _COUNT,
    "MRSSL.SOLVER.EMA_DECAY": Numbers(0, 1, below=True),
    "MRSSL.SOLVER.ACCUMULATE": _COUNT,
    "MRSSL.LOG_PERIOD": _COUNT,
    "MRSSL.PICTURE_PERIOD": _COUNT_OR_NONE,
}


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a key with dots."""
    value: Any = cfg
    for part in key.split("."):
        value = value[part]
    return value


def number_faults(cfg: CfgNode) -> list[str]:
    """One line a key of ``cfg`` whose numbers cannot be used: ``KEY VALUE: what is needed``."""
    faults = []
    for key, numbers in NUMBERS.items():
        value = value_of(cfg, key)
        if not numbers.fit(value):
            faults.append(f"{key} {value!r}: {numbers} is needed")
    return faults


__all__ = ["NUMBERS", "Numbers", "number_faults", "value_of"]
