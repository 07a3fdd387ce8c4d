"""A slice once it is distorted, and what any pretext needs to make one.

Letters: N regions, K distortion types, C channels, H, W the slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class DistortedSlice:
    """A distorted slice with its annotations.

    Attributes:
        image: float32 (C, H, W) in [0, 1], distorted; the clean array itself if N is 0.
        clean: float32 (C, H, W) in [0, 1], the input, the same object.
        masks: bool (N, H, W), True = a pixel of the middle channel that the region's distortion
            changed by more than the tolerance; nothing outside the region. Where regions overlap,
            each is compared with what the one before left.
        types: float32 (N, K), 1 = the type acts in the region.
        records: one JSON-able dict a region, in the order applied; see
            :func:`~mrssl.distortions.replay`.
    """

    image: np.ndarray
    clean: np.ndarray
    masks: np.ndarray
    types: np.ndarray
    records: list[dict[str, Any]]


class SliceDistorter(Protocol):
    """Makes the pretext's samples, by regions or of whole slices."""

    @property
    def type_names(self) -> Sequence[str]:
        """Of the K types, in the order of :attr:`DistortedSlice.types`."""
        ...

    @property
    def curricula(self) -> Sequence[str]:
        """Configuration keys of the curricula, for which ``iteration`` must be told."""
        ...

    def __call__(
        self,
        image: np.ndarray,
        rng: np.random.Generator,
        *,
        donor: np.ndarray | None = None,
        iteration: int = 0,
    ) -> DistortedSlice:
        """Distort one slice.

        Args:
            image: float32 (C, H, W) in [0, 1]; not modified.
            rng: the only source of randomness.
            donor: float32 (C, H', W') in [0, 1], another slice or subject to take tissue from.
            iteration: training iteration, for the curricula.
        """
        ...


__all__ = ["DistortedSlice", "SliceDistorter"]
