"""How well the instances of a slice agree with the true ones, whatever they are called.

Shape letters: N instances, H, W rows and columns of a slice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from mrssl.evaluation.coco_scoring import decode_mask
from mrssl.evaluation.joining import Instance
from mrssl.evaluation.naming import partners


def flatten_instances(
    instances: Sequence[Instance], overlapping: Collection[tuple[int, int]] = ()
) -> npt.NDArray[np.bool_]:
    """Give each pixel to the surest of the instances that cover it and exclude each other.

    Args:
        instances: N of a slice, one or more; of equal scores the first is the surer.
        overlapping: pairs of classes of which a pixel may be both.

    Returns:
        bool (N, H, W), in the order of the scores.
    """
    ordered = sorted(instances, key=lambda instance: -instance[1])
    masks = np.stack([decode_mask(mask) for _, _, mask in ordered])
    classes = {category for category, _, _ in ordered}
    taken = {category: np.zeros(masks.shape[1:], bool) for category in classes}
    for (category, _, _), mask in zip(ordered, masks, strict=True):
        covered = mask.copy()
        mask &= ~taken[category]
        for other in classes - partners(category, overlapping):
            taken[other] |= covered
    return masks


def paired_counts(
    predicted: Sequence[Instance],
    true: Sequence[Instance],
    overlapping: Collection[tuple[int, int]] = (),
) -> tuple[int, int, int]:
    """Pixels in common of the best one-to-one pairs of instances, predicted, and true pixels.

    Args:
        predicted: instances of a slice.
        true: the same.
        overlapping: see :func:`flatten_instances`.
    """
    found, wanted = (
        flatten_instances(instances, overlapping) if instances else np.zeros((0, 1, 1), bool)
        for instances in (predicted, true)
    )
    overlaps = np.zeros((len(found), len(wanted)), np.int64)
    if overlaps.size:
        for column, mask in zip(overlaps.T, wanted, strict=True):
            column[:] = np.count_nonzero(found & mask, axis=(1, 2))
    common = overlaps[linear_sum_assignment(overlaps, maximize=True)].sum()
    return int(common), int(np.count_nonzero(found)), int(np.count_nonzero(wanted))


__all__ = ["flatten_instances", "paired_counts"]
