"""Bias fields: a smooth change of the coil's sensitivity multiplies the region.

Fields are given by their logarithm, scaled to a peak: ``image * exp(log field)``.
"""

from __future__ import annotations

import cv2
import numpy as np

from mrssl.distortions.base import (
    DISTORTION_REGISTRY,
    Distortion,
    DistortionContext,
    Params,
    Stage,
)
from mrssl.distortions.fields import spline_basis


def _multiply(patch: np.ndarray, log_field: np.ndarray, peak: float) -> np.ndarray:
    """Scale the log field to mean 0 and the peak asked for, and multiply; (C, h, w)."""
    log_field -= log_field.mean()
    highest = np.abs(log_field).max()
    if highest > 0:
        log_field *= np.float32(peak / highest)
    return patch * cv2.exp(log_field)


@DISTORTION_REGISTRY.register()
class BiasPolynomial(Distortion):
    """A bias field of third order.

    ``log field = sum over i + j <= 3 of c_ij x^i y^j`` for x, y in [-1, 1] across the region (Van
    Leemput et al., IEEE Transactions on Medical Imaging 1999), ``c_ij`` of U(-1, 1).

    Severity: peak of the logarithm, ``1.6 * severity`` (a factor of 5 at 1).
    """

    name = "bias_polynomial"
    stage = Stage.CONTRAST

    _ORDER = 3

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        size = self._ORDER + 1
        coefficients = rng.uniform(-1, 1, (size, size))
        coefficients[np.add.outer(np.arange(size), np.arange(size)) > self._ORDER] = 0
        return {"coefficients": coefficients.tolist(), "peak": 1.6 * severity}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        powers = [
            np.vander(np.linspace(-1, 1, side), self._ORDER + 1, increasing=True)
            for side in patch.shape[1:]
        ]
        field = powers[0] @ np.asarray(params["coefficients"]) @ powers[1].T
        return _multiply(patch, field.astype(np.float32), params["peak"])


@DISTORTION_REGISTRY.register()
class BiasSpline(Distortion):
    """A bias field of cubic B-splines, with more and narrower hills than the polynomial.

    ``log field = sum over i, j of c_ij B_i(y) B_j(x)``, the model of N4 (Tustison et al., IEEE
    Transactions on Medical Imaging 2010): control values c_ij on a uniform grid, here standard
    normal, 4 or 5 cells a side.

    Severity: peak of the logarithm, ``1.2 * severity`` (a factor of 3.3 at 1).
    """

    name = "bias_spline"
    stage = Stage.CONTRAST

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        cells = rng.integers(4, 6, size=2)
        controls = rng.standard_normal(cells + 3)
        return {"controls": controls.tolist(), "peak": 1.2 * severity}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        controls = np.asarray(params["controls"], dtype=np.float32)
        rows, cols = (
            spline_basis(side, count - 3)
            for side, count in zip(patch.shape[1:], controls.shape, strict=True)
        )
        return _multiply(patch, rows @ controls @ cols.T, params["peak"])
