"""Soft region shapes: how much of the distorted pixel is seen at each place of a region's box.

An alpha of 1 shows the distorted pixel, 0 the clean one; between them lies the feathered edge,
so that a region is not betrayed by a hard seam.
"""

from __future__ import annotations

import cv2
import numpy as np

from mrssl.distortions.base import generator
from mrssl.errors import MrsslError

#: How far a blob's outline strays from the ellipse, as a share of the radius.
_BLOB_ROUGHNESS = 0.35


def _edge_distance(length: int) -> np.ndarray:
    """Distance of each pixel centre to the nearer end, as a share of half the length; (length,)."""
    centres = (np.arange(length, dtype=np.float32) + 0.5) * np.float32(2.0 / length)
    return np.minimum(centres, 2 - centres)


def _ramp(depth: np.ndarray, width: float) -> np.ndarray:
    """Smoothstep from 0 at the outline to 1 at ``width`` inside; a hard step for width 0."""
    if width <= 0:
        return (depth > 0).astype(np.float32)
    t = np.clip(depth * np.float32(1.0 / width), 0, 1)
    return t * t * (3 - 2 * t)


def _radial_depth(shape: tuple[int, int]) -> np.ndarray:
    """1 - r of the inscribed ellipse: 1 in the centre, 0 on the outline; (h, w)."""
    y = 1 - _edge_distance(shape[0])
    x = 1 - _edge_distance(shape[1])
    return 1 - np.sqrt((y * y)[:, None] + (x * x)[None, :])


def _rectangle(shape: tuple[int, int], feather: float, seed: int) -> np.ndarray:
    y, x = (_ramp(_edge_distance(side), feather) for side in shape)
    return y[:, None] * x[None, :]


def _ellipse(shape: tuple[int, int], feather: float, seed: int) -> np.ndarray:
    return _ramp(_radial_depth(shape), feather)


def _blob(shape: tuple[int, int], feather: float, seed: int) -> np.ndarray:
    coarse = generator(seed).uniform(-1, 1, (5, 5)).astype(np.float32)
    rough = cv2.resize(coarse, shape[::-1], interpolation=cv2.INTER_CUBIC)
    depth = _radial_depth(shape)
    # The box's border stays outside: a blob that is cut off straight would be a seam again.
    inside = np.minimum.outer(_edge_distance(shape[0]), _edge_distance(shape[1]))
    return _ramp(np.minimum(depth + _BLOB_ROUGHNESS * rough, inside), feather)


_SHAPES = {"rectangle": _rectangle, "ellipse": _ellipse, "blob": _blob}
SHAPES = tuple(_SHAPES)


def render_alpha(kind: str, shape: tuple[int, int], feather: float, seed: int) -> np.ndarray:
    """Draw a region's soft mask.

    Args:
        kind: one of :data:`SHAPES`.
        shape: (h, w) of the box in pixels.
        feather: width of the soft edge as a share of the region's side; 0 is a hard edge.
        seed: decides a blob's outline; the other shapes ignore it.

    Returns:
        float32 (h, w) in [0, 1].

    Raises:
        MrsslError: an unknown ``kind``.
    """
    if kind not in _SHAPES:
        raise MrsslError(f"MRSSL.PRETEXT.REGION_SHAPES: no shape {kind!r}; there are {SHAPES}")
    # Depth is measured in half sides.
    return _SHAPES[kind](shape, 2.0 * feather, seed)
