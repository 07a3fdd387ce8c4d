"""Raw MR intensities to [0, 1].

MR intensities have no unit: two scans of one knee may differ a thousandfold. So each volume is
mapped by its own statistics, taken over its foreground, and values outside are clipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrssl.errors import MrsslError
from mrssl.structures.foreground import BET_FRACTION

NORMALIZATIONS = ("percentile", "zscore", "window")

#: Voxels that statistics are taken from, at most; a regular subsample of more.
_MAX_SAMPLES = 500_000
#: The same for the number of distinct values, and as many as a label map may have.
_LABEL_SAMPLES, _MAX_LABELS = 100_000, 32
#: Whole numbers that are counted rather than sorted.
_MAX_LEVELS = 1 << 16
#: Voxels counted at once: what they need stays in the processor's cache.
_CHUNK = 1 << 16


def foreground_threshold(array: np.ndarray) -> float:
    """Intensity that separates patient from air in a volume.

    ``t = t2 + 0.1 (t98 - t2)`` with the 2nd and 98th percentiles (S. M. Smith, Fast robust
    automated brain extraction, Human Brain Mapping 17, 2002, section 2.1).

    Args:
        array: intensities of any shape, finite, a.u.
    """
    return _Distribution.of(_sample(array)).foreground_threshold()


def intensity_window(
    array: np.ndarray,
    normalization: str = "percentile",
    *,
    percentiles: Sequence[float] = (0.5, 99.5),
    zscore_range: Sequence[float] = (-3.0, 3.0),
    window: Sequence[float] = (0.0, 1.0),
) -> tuple[float, float]:
    """The raw intensities that a volume's [0, 1] stands for.

    Args:
        array: (D, H, W) raw intensities, finite, a.u.; whole or floating point numbers.
        normalization: "percentile": ``percentiles`` of the foreground; "zscore": ``zscore_range``
            standard deviations about the mean of the foreground; "window": ``window`` itself.
        percentiles: lower and upper, in 0..100.
        zscore_range: lower and upper, in standard deviations.
        window: lower and upper, in raw intensities.

    Returns:
        (low, high) with low < high, whatever the volume; a constant volume maps to 0.

    Raises:
        MrsslError: an unknown normalization, or limits that are not in order.
    """
    limits = {"percentile": percentiles, "zscore": zscore_range, "window": window}
    if normalization not in limits:
        known = ", ".join(NORMALIZATIONS)
        raise MrsslError(f"normalization {normalization!r}: one of {known} is needed")
    lower, upper = (float(value) for value in limits[normalization])
    if not lower < upper or (normalization == "percentile" and not 0 <= lower < upper <= 100):
        raise MrsslError(f"normalization {normalization}: limits {lower}, {upper} are not in order")
    if normalization == "window":
        return lower, upper
    values = _Distribution.of(_sample(array))
    foreground = values.above(values.foreground_threshold())
    values = foreground if len(foreground.levels) else values
    if normalization == "percentile":
        low, high = values.percentile(lower), values.percentile(upper)
    else:
        mean, std = values.mean_and_std()
        low, high = mean + lower * std, mean + upper * std
    return (low, high) if high > low else (low, low + max(1.0, abs(low)))


def looks_like_labels(array: np.ndarray) -> bool:
    """Whether a volume has so few distinct values that it is a label map rather than a scan.

    A constant volume is neither.

    Args:
        array: of any shape, raw or normalised.
    """
    return 2 <= len(np.unique(_sample(array, _LABEL_SAMPLES))) <= _MAX_LABELS


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


@dataclass(frozen=True)
class _Distribution:
    """How often each intensity occurs.

    Scanners give whole numbers, and counting those takes a tenth of the time of sorting them.

    Attributes:
        levels: (L,) intensities, ascending.
        counts: (L,) int64, how many voxels have each.
    """

    levels: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> _Distribution:
        """Of the intensities (N,), finite, a.u."""
        low, high = float(values.min()), float(values.max())
        if high - low < _MAX_LEVELS and low.is_integer() and high.is_integer():
            counts = _count_levels(values, int(low), int(high))
            if counts is not None:
                return cls(low + np.arange(len(counts)), counts)
        return cls(np.sort(values), np.ones(len(values), np.int64))

    def percentile(self, percent: float) -> float:
        """As NumPy's, which interpolates linearly between neighbouring voxels."""
        upto = np.cumsum(self.counts)
        rank = percent / 100 * (int(upto[-1]) - 1)
        places = np.searchsorted(upto, (np.floor(rank), np.ceil(rank)), side="right")
        low, high = (float(level) for level in self.levels[places])
        return low + (high - low) * (rank - float(np.floor(rank)))

    def foreground_threshold(self) -> float:
        """See :func:`foreground_threshold`."""
        low, high = self.percentile(2), self.percentile(98)
        return low + BET_FRACTION * (high - low)

    def above(self, threshold: float) -> _Distribution:
        """Of the intensities above ``threshold`` alone."""
        first = np.searchsorted(self.levels, threshold, side="right")
        return _Distribution(self.levels[first:], self.counts[first:])

    def mean_and_std(self) -> tuple[float, float]:
        """Mean and standard deviation."""
        levels = self.levels.astype(np.float64)
        mean = float(np.average(levels, weights=self.counts))
        variance = np.average((levels - mean) ** 2, weights=self.counts)
        return mean, float(np.sqrt(variance))


def _count_levels(values: np.ndarray, low: int, high: int) -> np.ndarray | None:
    """How often each of ``low`` .. ``high`` is in ``values``; None if not all are whole."""
    counts = np.zeros(high - low + 1, np.int64)
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        whole = part.astype(np.intp)
        if part.dtype.kind == "f" and not np.array_equal(whole.astype(part.dtype), part):
            return None
        whole -= low
        counts += np.bincount(whole, minlength=len(counts))
    return counts


def _sample(array: np.ndarray, most: int = _MAX_SAMPLES) -> np.ndarray:
    flat = np.asarray(array).reshape(-1)
    step = max(1, flat.size // most)
    # An odd step visits every column of an image whose width is a power of two.
    return flat[:: step | 1] if step > 1 else flat


__all__ = [
    "NORMALIZATIONS",
    "foreground_threshold",
    "intensity_window",
    "looks_like_labels",
    "normalize",
]
