"""Changes of contrast: a map from old to new intensities, alike at every place."""

from __future__ import annotations

import numpy as np

from mrssl.distortions.base import (
    DISTORTION_REGISTRY,
    Distortion,
    DistortionContext,
    Params,
    Stage,
    draw_sign,
)
from mrssl.distortions.transplant import draw_places, farthest_patch

#: Intensities at which an intensity curve is tabulated.
_TABLE = 1024
_GRID = np.linspace(0, 1, _TABLE)
#: Curve parameters at which a curve is compared with the identity, and drawn.
_COARSE = np.linspace(0, 1, 16)
_FINE = np.linspace(0, 1, 128)


def look_up(patch: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Map intensities by a table of 1024 values for 0 to 1, the nearest entry taken.

    Args:
        patch: float32 (C, h, w) in [0, 1].
        table: float (1024,).

    Returns:
        float32 (C, h, w).
    """
    index = (patch * np.float32(_TABLE - 1) + np.float32(0.5)).astype(np.uint16)
    return table.astype(np.float32)[index]


def bezier(controls: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points of the cubic Bezier curve from (0, 0) to (1, 1) with two inner control points.

    ``B(t) = 3 (1-t)^2 t P1 + 3 (1-t) t^2 P2 + t^3 (1, 1)``.

    Args:
        controls: float (..., 2, 2), rows P1 and P2, each (x, y) in [0, 1].
        t: float (T,) in [0, 1].

    Returns:
        float64 (..., T, 2); x never falls with t, as the inner x are in [0, 1].
    """
    weights = np.stack([3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2], axis=1)
    return weights @ controls + (t**3)[:, None]


@DISTORTION_REGISTRY.register()
class IntensityCurve(Distortion):
    """Intensities are mapped through a Bezier curve from (0, 0) to (1, 1).

    ``B(t) = 3 (1-t)^2 t P1 + 3 (1-t) t^2 P2 + t^3 (1, 1)`` gives the pairs (old, new). The
    non-linear transformation of Models Genesis (Zhou et al., Medical Image Analysis 2021): P1 and
    P2 of U(0, 1)^2; half of the curves are made monotonic by sorting the points' coordinates.
    Falling curves are :class:`ContrastInversion`. Of a few curves drawn, the one farthest from the
    identity is taken.

    Severity: the curve's weight w, its square root: ``(1 - w) * v + w * curve(v)``.
    """

    name = "intensity_curve"
    stage = Stage.CONTRAST

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        monotonic = bool(rng.random() < 0.5)
        draws = rng.random((8, 2, 2))
        if monotonic:
            draws.sort(axis=1)
        curves = bezier(draws, _COARSE)
        farthest = np.abs(curves[..., 1] - curves[..., 0]).mean(axis=1).argmax()
        return {
            "controls": draws[farthest].tolist(),
            "monotonic": monotonic,
            "weight": severity**0.5,
        }

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        x, y = bezier(np.asarray(params["controls"]), _FINE).T
        weight = params["weight"]
        return look_up(patch, (1 - weight) * _GRID + weight * np.interp(_GRID, x, y))


@DISTORTION_REGISTRY.register()
class Gamma(Distortion):
    """``v ** gamma``: dark tissue is darkened or brightened more than bright tissue.

    Power-law transformation (Gonzalez and Woods, "Digital image processing", 2018).

    Severity: ``gamma = 3 ** severity`` or its inverse, with equal chance.
    """

    name = "gamma"
    stage = Stage.CONTRAST

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"gamma": float(3.0 ** (severity * draw_sign(rng)))}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        return np.power(patch, np.float32(params["gamma"]))


@DISTORTION_REGISTRY.register()
class ContrastInversion(Distortion):
    """Bright becomes dark: ``v' = low + high - v`` between the patch's own extremes.

    The straight one of the falling intensity curves of Models Genesis (Zhou et al., Medical Image
    Analysis 2021).

    Severity: the inverted image's weight, ``0.6 + 0.4 * severity``; at a half, nothing but a flat
    grey would be left.
    """

    name = "contrast_inversion"
    stage = Stage.CONTRAST

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"weight": 0.6 + 0.4 * severity}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        weight = np.float32(params["weight"])
        return patch * (1 - 2 * weight) + weight * (patch.min() + patch.max())


@DISTORTION_REGISTRY.register()
class HistogramTransfer(Distortion):
    """The region takes over the histogram of a patch of elsewhere, its structure stays.

    Quantiles are matched, ``v' = Q_other(F_patch(v))`` (Nyul and Udupa, Magnetic Resonance in
    Medicine 1999, with every quantile a landmark). The other patch lies in the donor slice, else in
    the slice itself; of a few places the one that differs most is taken.

    Severity: the matched image's weight, its square root.
    """

    name = "histogram_transfer"
    stage = Stage.CONTRAST

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"places": draw_places(rng), "weight": severity**0.5}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        other = farthest_patch(patch, context.source, params["places"])
        own, target = _quantiles(patch), _quantiles(other)
        # Equal quantiles (a flat background) are one value; it goes to the middle of its targets.
        own, first, count = np.unique(own, return_index=True, return_counts=True)
        target = np.add.reduceat(target, first) / count
        weight = params["weight"]
        return look_up(patch, (1 - weight) * _GRID + weight * np.interp(_GRID, own, target))


#: Quantiles are read from about this many pixels.
_QUANTILE_PIXELS = 1024


def _quantiles(patch: np.ndarray) -> np.ndarray:
    """64 quantiles of the middle channel, from 0 to 1; float64 (64,)."""
    values = patch[patch.shape[0] // 2].ravel()
    values = np.sort(values[:: max(1, values.size // _QUANTILE_PIXELS)]).astype(np.float64)
    return values[np.rint(np.linspace(0, values.size - 1, 64)).astype(int)]
