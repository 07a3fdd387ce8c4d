"""Random windows of a slice, by Detectron2's ``INPUT.CROP`` keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from fvcore.common.config import CfgNode

from mrssl.config import ConfigError

TYPES = ("relative_range", "relative", "absolute", "absolute_range")


@dataclass(frozen=True)
class RandomCrop:
    """A window of random place, and of random size where the type is a range.

    A scanner's field of view stands now higher, now lower. A shift that leaves a black margin shows
    the detector where the field once ended, a window does not.

    Args:
        kind: what ``size`` means, for height and width: ``relative`` a share of the side,
            ``relative_range`` the least such share, ``absolute`` pixels, ``absolute_range`` least
            and most pixels, of both sides.
        size: two numbers.

    Raises:
        ConfigError: of another type, or sizes that make no window.
    """

    kind: str
    size: tuple[float, float]

    def __post_init__(self) -> None:
        if self.kind not in TYPES:
            raise ConfigError(f"INPUT.CROP.TYPE {self.kind!r}: one of {', '.join(TYPES)}")
        most = 1 if self.kind.startswith("relative") else np.inf
        fine = len(self.size) == 2 and all(0 < s <= most for s in self.size)
        if not fine or (self.kind == "absolute_range" and self.size[0] > self.size[1]):
            raise ConfigError(f"INPUT.CROP.SIZE {list(self.size)}: no sizes of type {self.kind}")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RandomCrop | None:
        """Build from ``INPUT.CROP``; None where it is not enabled."""
        node = cfg.INPUT.CROP
        return cls(node.TYPE, tuple(node.SIZE)) if node.ENABLED else None

    def sample(self, shape: tuple[int, int], rng: np.random.Generator) -> tuple[slice, slice]:
        """Draw rows and columns of a window of a slice of ``shape`` (H, W)."""
        sides = np.array(shape)
        size = np.array(self.size, np.float64)
        if self.kind == "absolute_range":
            low, high = np.minimum(sides[:, None], self.size).astype(int).T
            lengths = rng.integers(low, high + 1)
        elif self.kind == "absolute":
            lengths = np.minimum(sides, size)
        else:
            share = size if self.kind == "relative" else rng.uniform(size, 1)
            lengths = sides * share + 0.5
        lengths = np.maximum(lengths.astype(int), 1)
        first = rng.integers(sides - lengths + 1)
        rows, columns = (slice(int(a), int(a + n)) for a, n in zip(first, lengths, strict=True))
        return rows, columns


def window_to_shares(window: tuple[slice, slice], shape: tuple[int, int]) -> list[list[float]]:
    """First and last of the rows, then of the columns, as shares in [0, 1] of the slice's sides.

    Args:
        window: rows and columns, with start and stop.
        shape: H, W of the slice.
    """
    return [[w.start / side, w.stop / side] for w, side in zip(window, shape, strict=True)]


def window_from_shares(
    shares: Sequence[Sequence[float]], shape: tuple[int, int]
) -> tuple[slice, slice]:
    """The inverse of :func:`window_to_shares`, on a slice of any ``shape`` (H, W); never empty."""
    firsts = [
        min(round(low * side), side - 1) for (low, _), side in zip(shares, shape, strict=True)
    ]
    lasts = [round(high * side) for (_, high), side in zip(shares, shape, strict=True)]
    rows, columns = (slice(a, max(b, a + 1)) for a, b in zip(firsts, lasts, strict=True))
    return rows, columns
