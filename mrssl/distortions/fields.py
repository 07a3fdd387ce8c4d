"""Smooth random fields as products of small matrices: no work a pixel beyond two multiplications.

Letters: h, w pixels; a grid of cells lies across them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

#: Bases kept; one has about 100 x 8 values.
_BASES = 256


@lru_cache(maxsize=_BASES)
def spline_basis(side: int, cells: int) -> np.ndarray:
    """Values of the uniform cubic B-splines at the pixel centres.

    Args:
        side: pixels.
        cells: knot intervals across them.

    Returns:
        float32 (side, cells + 3), read only; each row adds up to 1.
    """
    place = (np.arange(side) + 0.5) * (cells / side)
    cell = place.astype(np.int64)
    t = place - cell
    pieces = np.stack(
        [(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], axis=1
    )
    basis = np.zeros((side, cells + 3), dtype=np.float32)
    np.put_along_axis(basis, cell[:, None] + np.arange(4), (pieces / 6).astype(np.float32), axis=1)
    basis.setflags(write=False)
    return basis


@lru_cache(maxsize=_BASES)
def _perlin_basis(side: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the grid's points at the pixel centres, and weights times distance.

    Returns:
        Two float32 (side, cells + 1), read only: the quintic fade ``6 t^5 - 15 t^4 + 10 t^3``
        between the two neighbouring points, and the same times the signed distance to the point in
        cells.
    """
    place = (np.arange(side) + 0.5) * (cells / side)
    cell = place.astype(np.int64)
    t = place - cell
    fade = t * t * t * (t * (t * 6 - 15) + 10)
    weights, moments = np.zeros((2, side, cells + 1), dtype=np.float32)
    rows = np.arange(side)
    weights[rows, cell], weights[rows, cell + 1] = 1 - fade, fade
    moments[rows, cell], moments[rows, cell + 1] = (1 - fade) * t, fade * (t - 1)
    weights.setflags(write=False)
    moments.setflags(write=False)
    return weights, moments


def perlin_noise(
    rng: np.random.Generator, shape: tuple[int, int], grid: Sequence[int]
) -> np.ndarray:
    """Gradient noise (Perlin, "Improving noise", SIGGRAPH 2002).

    Each pixel blends the four linear ramps of its cell's corners; written as sums over the grid's
    points, the blend separates into ``M_y G_y W_x^T + W_y G_x M_x^T``.

    Args:
        rng: draws the unit gradients.
        shape: (h, w) in pixels.
        grid: cells along y and x.

    Returns:
        float32 (h, w), about -0.7 to 0.7, mean 0; 0 on the grid's points.
    """
    angles = rng.uniform(0, 2 * np.pi, (grid[0] + 1, grid[1] + 1)).astype(np.float32)
    (weights_y, moments_y), (weights_x, moments_x) = (
        _perlin_basis(side, cells) for side, cells in zip(shape, grid, strict=True)
    )
    along_y = moments_y @ np.sin(angles) @ weights_x.T
    return along_y + weights_y @ np.cos(angles) @ moments_x.T
