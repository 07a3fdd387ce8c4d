"""Raw MR intensities to [0, 1].

MR intensities have no unit: two scans of one knee may differ a thousandfold. So each volume is
mapped by its own statistics, taken over its foreground, and values outside are clipped.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mrssl.errors import MrsslError
from mrssl.structures.foreground import BET_FRACTION

NORMALIZATIONS = ("percentile", "zscore", "window")

#: Voxels that statistics are taken from, at most; a regular subsample of more.
_MAX_SAMPLES = 500_000


def foreground_threshold(array: np.ndarray) -> float:
    """Intensity that separates patient from air in a volume.

    ``t = t2 + 0.1 (t98 - t2)`` with the 2nd and 98th percentiles (S. M. Smith, Fast robust
    automated brain extraction, Human Brain Mapping 17, 2002, section 2.1).

    Args:
        array: intensities of any shape, finite, a.u.
    """
    low, high = np.percentile(_sample(array), (2, 98))
    return float(low + BET_FRACTION * (high - low))


def intensity_window(
    array: np.ndarray,
    method: str = "percentile",
    *,
    percentiles: Sequence[float] = (0.5, 99.5),
    zscore_range: Sequence[float] = (-3.0, 3.0),
    window: Sequence[float] = (0.0, 1.0),
) -> tuple[float, float]:
    """The raw intensities that a volume's [0, 1] stands for.

    Args:
        array: (D, H, W) raw intensities, finite, a.u.
        method: "percentile": ``percentiles`` of the foreground; "zscore": ``zscore_range``
            standard deviations about the mean of the foreground; "window": ``window`` itself.
        percentiles: lower and upper, in 0..100.
        zscore_range: lower and upper, in standard deviations.
        window: lower and upper, in raw intensities.

    Returns:
        (low, high) with low < high, whatever the volume; a constant volume maps to 0.

    Raises:
        MrsslError: an unknown method, or limits that are not in order.
    """
    limits = {"percentile": percentiles, "zscore": zscore_range, "window": window}
    if method not in limits:
        raise MrsslError(f"normalization {method!r}: one of {', '.join(NORMALIZATIONS)} is needed")
    lower, upper = (float(value) for value in limits[method])
    if not lower < upper or (method == "percentile" and not 0 <= lower < upper <= 100):
        raise MrsslError(f"normalization {method}: limits {lower}, {upper} are not in order")
    if method == "window":
        return lower, upper
    values = _sample(array)
    foreground = values[values > foreground_threshold(values)]
    values = foreground if foreground.size else values
    if method == "percentile":
        low, high = (float(v) for v in np.percentile(values, (lower, upper)))
    else:
        mean, std = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        low, high = mean + lower * std, mean + upper * std
    return (low, high) if high > low else (low, low + max(1.0, abs(low)))


def normalize(array: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map [low, high] to [0, 1] linearly and clip.

    Args:
        array: raw intensities of any shape, a.u.
        low: maps to 0.
        high: maps to 1; greater than ``low``.

    Returns:
        float32 of the same shape, in [0, 1].
    """
    scaled = np.subtract(array, np.float32(low), dtype=np.float32)
    scaled *= np.float32(1.0 / (high - low))
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def _sample(array: np.ndarray) -> np.ndarray:
    flat = np.asarray(array).reshape(-1)
    step = max(1, flat.size // _MAX_SAMPLES)
    # An odd step visits every column of an image whose width is a power of two.
    return flat[:: step | 1] if step > 1 else flat


__all__ = [
    "NORMALIZATIONS",
    "foreground_threshold",
    "intensity_window",
    "normalize",
]
