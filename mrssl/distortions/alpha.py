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
#: A tissue is what is connected and within the first of these of the intensity it is grown from
#: that makes it a fair part of the blob.
_TISSUE_TOLERANCES = (0.04, 0.08, 0.16, 0.32)
_FAIR_PART = 0.3
#: Where it is grown from lies this far from the middle at most, as a share of the side.
_SEED_SPREAD = 0.15


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


def _tissue(patch: np.ndarray, feather: float, seed: int) -> np.ndarray:
    """What of a blob is one tissue: its outline is the anatomy's but where the tissue runs on.

    Grown by cv2.floodFill (seeded region growing with a fixed range); the whole blob where no
    tissue is a fair part of it.
    """
    blob = _blob(patch.shape, feather, seed)
    outside = np.pad((blob == 0).astype(np.uint8), 1)  # as floodFill wants it: 0 may be filled
    smooth = cv2.GaussianBlur(patch, (0, 0), 1.0)
    place = 0.5 + generator(seed + 1).uniform(-_SEED_SPREAD, _SEED_SPREAD, 2)
    row, column = (int(value) for value in place * patch.shape)
    fair = _FAIR_PART * np.count_nonzero(blob)
    flags = 4 | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE | (2 << 8)
    for tolerance in _TISSUE_TOLERANCES:
        grown = outside.copy()
        cv2.floodFill(smooth, grown, (column, row), 0, tolerance, tolerance, flags)
        part = _greatest_part((grown[1:-1, 1:-1] == 2).astype(np.uint8))
        if np.count_nonzero(part & (blob > 0)) >= fair:
            depth = cv2.distanceTransform(np.pad(part, 1), cv2.DIST_L2, cv2.DIST_MASK_5)
            inside = depth[1:-1, 1:-1] * np.float32(2.0 / min(patch.shape))
            return np.minimum(blob, _ramp(inside, feather))
    return blob


def _greatest_part(mask: np.ndarray) -> np.ndarray:
    """Of a uint8 mask (h, w), without its thin bridges and holes."""
    opened = cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    outlines, _ = cv2.findContours(opened, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    part = np.zeros_like(mask)
    if outlines:
        cv2.drawContours(part, [max(outlines, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return part


_SHAPES = {"rectangle": _rectangle, "ellipse": _ellipse, "blob": _blob}
TISSUE = "tissue"
#: Shapes that are drawn without looking at the slice, and all.
BLIND_SHAPES = tuple(_SHAPES)
SHAPES = (*BLIND_SHAPES, TISSUE)


def render_alpha(
    kind: str,
    shape: tuple[int, int],
    feather: float,
    seed: int,
    patch: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a region's soft mask.

    Args:
        kind: one of :data:`SHAPES`.
        shape: (h, w) of the box in pixels.
        feather: width of the soft edge as a share of the region's side; 0 is a hard edge.
        seed: decides the outline of a blob, and where a tissue is grown from; the other shapes
            ignore it.
        patch: float32 (h, w) in [0, 1], what the box shows undistorted; for "tissue" alone.

    Returns:
        float32 (h, w) in [0, 1].

    Raises:
        MrsslError: an unknown ``kind``, or a tissue without its patch.
    """
    if kind not in SHAPES:
        raise MrsslError(f"MRSSL.PRETEXT.REGION_SHAPES: no shape {kind!r}; there are {SHAPES}")
    width = 2.0 * feather  # depth is measured in half sides
    if kind != TISSUE:
        return _SHAPES[kind](shape, width, seed)
    if patch is None:
        raise MrsslError("a region of tissue is drawn from the slice that it lies in")
    return _tissue(patch, width, seed)
