"""Shared by the tests of single distortions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from mrssl.distortions import DISTORTION_REGISTRY, Distortion


def make(name: str) -> Distortion:
    """The distortion of that name."""
    return DISTORTION_REGISTRY.get(name)()


@pytest.fixture
def patch() -> np.ndarray:
    """Smooth random intensities, float32 (3, 45, 38) in [0.1, 0.9]."""
    noise = np.random.default_rng(0).standard_normal((3, 45, 38))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2))
    return (0.5 + 0.4 * smooth / np.abs(smooth).max()).astype(np.float32)
