"""Changes of contrast: a map from old to new intensities, alike at every place."""

from __future__ import annotations

import numpy as np

from mrssl.distortions.base import (
    DISTORTION_REGISTRY,
    Distortion,
    DistortionContext,
    Params,
    Stage,
)

#: Intensities at which an intensity curve is tabulated.
_TABLE = 256
_GRID = np.linspace(0, 1, _TABLE)


def bezier(controls: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Points of the cubic Bezier curve from (0, 0) to (1, 1) with two inner control points.

    ``B(t) = 3 (1-t)^2 t P1 + 3 (1-t) t^2 P2 + t^3 (1, 1)``.

    Args:
        controls: float (2, 2), rows P1 and P2, each (x, y) in [0, 1].
        t: float (T,) in [0, 1].

    Returns:
        float64 (T, 2); x never falls with t, as the inner x are in [0, 1].
    """
    weights = np.stack([3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3], axis=1)
    return weights @ np.vstack([controls, (1.0, 1.0)])


@DISTORTION_REGISTRY.register()
class IntensityCurve(Distortion):
    """Intensities are mapped through a Bezier curve from (0, 0) to (1, 1).

    Models Genesis' non-linear transformation: two inner control points of U(0, 1)^2; half of the
    curves are made monotonic by sorting the control points' coordinates. Falling curves are
    :class:`ContrastInversion`. Of a few curves drawn, the one farthest from the identity is taken.

    Severity: the curve's weight, ``(1 - severity) * v + severity * curve(v)``.
    """

    name = "intensity_curve"
    stage = Stage.CONTRAST

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        monotonic = bool(rng.random() < 0.5)
        draws = rng.random((4, 2, 2))
        if monotonic:
            draws.sort(axis=1)
        # The area between curve and diagonal is governed by the controls' distance from it.
        farthest = np.abs(draws[..., 1] - draws[..., 0]).sum(axis=1).argmax()
        controls = np.rint(draws[farthest] * 1e6) / 1e6
        return {"controls": controls.tolist(), "monotonic": monotonic, "weight": severity}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        x, y = bezier(np.asarray(params["controls"]), _GRID).T
        weight = params["weight"]
        table = ((1 - weight) * _GRID + weight * np.interp(_GRID, x, y)).astype(np.float32)
        return np.interp(patch.ravel(), _GRID, table).astype(np.float32).reshape(patch.shape)
