"""Changes of geometry: the region's content is bent, turned or scaled within its box."""

from __future__ import annotations

import cv2
import numpy as np

from mrssl.distortions.base import (
    DISTORTION_REGISTRY,
    Distortion,
    DistortionContext,
    Params,
    Stage,
    draw_sign,
)
from mrssl.distortions.fields import spline_basis
from mrssl.distortions.kspace import move


def warp(patch: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Sample the patch at float32 (h, w) pixel coordinates; mirrored at the border; (C, h, w)."""
    out = np.empty_like(patch)
    for source, target in zip(patch, out, strict=True):
        cv2.remap(source, x, y, cv2.INTER_LINEAR, dst=target, borderMode=cv2.BORDER_REFLECT_101)
    return out


def _axis(side: int) -> np.ndarray:
    """Pixel centres from -1 to 1 across the side; float32 (side,)."""
    return ((np.arange(side) + 0.5) * (2 / side) - 1).astype(np.float32)


def _to_pixels(place: np.ndarray, side: int) -> np.ndarray:
    """The inverse of :func:`_axis`, in place."""
    place += 1
    place *= np.float32(side / 2)
    place -= np.float32(0.5)
    return place


@DISTORTION_REGISTRY.register()
class ElasticWarp(Distortion):
    """A smooth random displacement (Simard et al., ICDAR 2003; here of cubic B-splines).

    ``v'(p) = v(p + u(p))`` with ``u = sum over i, j of c_ij B_i(y) B_j(x)``, scaled to its reach.

    Severity: greatest displacement along each axis, ``0.14 * severity`` of the side; 4 or 5
    cells a side.
    """

    name = "elastic_warp"
    stage = Stage.GEOMETRY

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        cells = rng.integers(4, 6, size=2)
        controls = rng.uniform(-1, 1, (2, *(cells + 3)))
        return {"controls": controls.tolist(), "reach": 0.14 * severity}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        controls = np.asarray(params["controls"], dtype=np.float32)
        h, w = patch.shape[1:]
        rows, cols = (
            spline_basis(s, n - 3) for s, n in zip((h, w), controls.shape[1:], strict=True)
        )
        shift = rows @ controls @ cols.T
        shift *= params["reach"] / np.maximum(np.abs(shift).max(axis=(1, 2), keepdims=True), 1e-6)
        shift = shift.astype(np.float32)
        y = shift[0] * np.float32(h) + np.arange(h, dtype=np.float32)[:, None]
        x = shift[1] * np.float32(w) + np.arange(w, dtype=np.float32)
        return warp(patch, y, x)


@DISTORTION_REGISTRY.register()
class Rotation(Distortion):
    """The content is turned about the region's centre, mirrored where the corners run empty.

    ``v'(p) = v(R p)`` about the centre. Told from its surroundings, as RotNet tells whole images
    (Gidaris et al., ICLR 2018).

    Severity: angle ``5 + 85 * severity`` degrees, either way.
    """

    name = "rotation"
    stage = Stage.GEOMETRY

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"degrees": (5 + 85 * severity) * draw_sign(rng)}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        return move(patch, params["degrees"], 0.0, 0.0)


@DISTORTION_REGISTRY.register()
class Swirl(Distortion):
    """The content is turned by an angle that falls to 0 at the inscribed ellipse.

    ``angle(r) = a (1 - r)`` for r <= 1, in coordinates in which the ellipse is the unit circle
    (whirl of Gustafsson, "Interactive image warping" 1993, with a linear fall-off).

    Severity: a = ``4 * severity`` radians, either way.
    """

    name = "swirl"
    stage = Stage.GEOMETRY

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"angle": 4.0 * severity * draw_sign(rng)}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        h, w = patch.shape[1:]
        y, x = _axis(h)[:, None], _axis(w)[None, :]
        angle = np.sqrt(y * y + x * x)
        np.subtract(1, angle, out=angle)
        np.maximum(angle, 0, out=angle)
        angle *= np.float32(params["angle"])
        cos, sin = np.cos(angle), np.sin(angle)
        return warp(patch, _to_pixels(y * cos + x * sin, h), _to_pixels(x * cos - y * sin, w))


@DISTORTION_REGISTRY.register()
class LocalScaling(Distortion):
    """The centre is magnified or shrunk, the border of the inscribed ellipse stays.

    The pixel at radius r shows what was at ``r (1 - k (1 - r^2)^2)``, a bulge for k > 0 and a pinch
    for k < 0; ``1 / (1 - k)`` is the magnification in the centre. After Gustafsson, "Interactive
    image warping" 1993, with a fall-off that is smooth at the border too.

    Severity: ``k = 0.75 * severity`` or ``-1.2 * severity``, with equal chance.
    """

    name = "local_scaling"
    stage = Stage.GEOMETRY

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"k": severity * (0.75 if rng.random() < 0.5 else -1.2)}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        h, w = patch.shape[1:]
        y, x = _axis(h)[:, None], _axis(w)[None, :]
        factor = y * y + x * x
        np.subtract(1, factor, out=factor)
        np.maximum(factor, 0, out=factor)
        factor *= factor
        factor *= np.float32(-params["k"])
        factor += 1
        return warp(patch, _to_pixels(y * factor, h), _to_pixels(x * factor, w))
