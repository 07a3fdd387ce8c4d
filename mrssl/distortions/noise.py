"""Noise of the receiver and of magnitude reconstruction.

Magnitude images are not Gaussian: the modulus of a complex signal with Gaussian noise in both
parts is Rician (one coil) or non-central chi (several). Noise is drawn for each channel.
"""

from __future__ import annotations

import numpy as np

from mrssl.distortions.base import (
    DISTORTION_REGISTRY,
    Distortion,
    DistortionContext,
    Params,
    Stage,
    draw_seed,
    generator,
)


def _noise_level(patch: np.ndarray, snr: float) -> np.float32:
    """Standard deviation for ``snr`` = mean of the patch / standard deviation; a.u."""
    return np.float32(patch.mean(dtype=np.float64) / snr)


@DISTORTION_REGISTRY.register()
class RicianNoise(Distortion):
    """Noise of a single-coil magnitude image.

    ``M = sqrt((A + s n1)^2 + (s n2)^2)`` with n1, n2 standard normal and A the clean magnitude, so
    that ``E[M^2] = A^2 + 2 s^2`` (Gudbjartsson and Patz, Magnetic Resonance in Medicine 1995).
    ``s = mean(A) / SNR`` over the patch, all channels alike.

    Severity: ``SNR = 3 / severity``.
    """

    name = "rician_noise"
    stage = Stage.NOISE

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"snr": 3.0 / max(severity, 1e-6), "seed": draw_seed(rng)}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        noise = generator(params["seed"]).standard_normal((2, *patch.shape), dtype=np.float32)
        noise *= _noise_level(patch, params["snr"])
        real, imaginary = noise
        real += patch
        return np.hypot(real, imaginary, out=real)
