"""Noise of the receiver and of magnitude reconstruction.

Magnitude images are not Gaussian: the modulus of a complex signal with Gaussian noise in both
parts is Rician (one coil) or non-central chi (several). Noise is drawn for each channel.
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
    draw_seed,
    generator,
)


def _noise_level(patch: np.ndarray, snr: float) -> np.float32:
    """Standard deviation for ``snr`` = mean of the patch / standard deviation; a.u."""
    return np.float32(patch.mean(dtype=np.float64) / snr)


#: Pixels to which a grain of speckle reaches.
_GRAIN_REACH = 3


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
        real *= real
        imaginary *= imaginary
        real += imaginary
        return np.sqrt(real, out=real)


@DISTORTION_REGISTRY.register()
class NoncentralChiNoise(Distortion):
    """Noise of the root of the sum of squares over several coils.

    ``M^2 = sum over L coils of |A_l + s (n + i n')|^2`` with ``sum A_l^2 = A^2``: a non-central chi
    distribution of 2 L degrees of freedom with ``E[M^2] = A^2 + 2 L s^2`` (Constantinides et al.,
    Magnetic Resonance in Medicine 1997). Drawn as ``(A + s n)^2 + s^2 chi2(2 L - 1)``, the same
    distribution at a cost that does not grow with L. Beside the noise stands its bias: dark parts
    are lifted, which tells it from Rician noise.

    Severity: ``SNR = 5 / severity``; L is 4, 8 or 16.
    """

    name = "noncentral_chi_noise"
    stage = Stage.NOISE

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {
            "snr": 5.0 / max(severity, 1e-6),
            "coils": 2 ** int(rng.integers(2, 5)),
            "seed": draw_seed(rng),
        }

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        rng = generator(params["seed"])
        level = _noise_level(patch, params["snr"])
        real = rng.standard_normal(patch.shape, dtype=np.float32)
        # chi2(k) is twice a standard gamma variable of shape k / 2.
        rest = rng.standard_gamma(params["coils"] - 0.5, patch.shape, dtype=np.float32)
        real *= level
        real += patch
        real *= real
        rest *= 2 * level * level
        real += rest
        return np.sqrt(real, out=real)


@DISTORTION_REGISTRY.register()
class SpeckleNoise(Distortion):
    """Multiplicative noise in grains: ``M = A (1 + s g)``, with g of mean 0 and variance 1.

    g is white Gaussian noise smoothed by a Gaussian of the grain's size and scaled back to unit
    variance (for the physics, Goodman, JOSA 1976; there g is exponential). Dark parts stay quiet,
    which tells it from Rician noise.

    Severity: ``s = 0.45 * severity``; grains of 0.6 to 1.5 pixels (standard deviation).
    """

    name = "speckle_noise"
    stage = Stage.NOISE

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {
            "strength": 0.45 * severity,
            "grain": float(rng.uniform(0.6, 1.5)),
            "seed": draw_seed(rng),
        }

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        # With a margin that is cut off: noise mirrored at the border would be correlated there.
        count, height, width = patch.shape
        shape = (count, height + 2 * _GRAIN_REACH, width + 2 * _GRAIN_REACH)
        out = generator(params["seed"]).standard_normal(shape, dtype=np.float32)
        kernel = cv2.getGaussianKernel(2 * _GRAIN_REACH + 1, params["grain"], cv2.CV_32F)
        kernel = kernel / np.linalg.norm(kernel)
        for grains in out:
            cv2.sepFilter2D(grains, -1, kernel, kernel, dst=grains)
        out = out[:, _GRAIN_REACH:-_GRAIN_REACH, _GRAIN_REACH:-_GRAIN_REACH].copy()
        out *= np.float32(params["strength"])
        out += 1
        out *= patch
        return out


@DISTORTION_REGISTRY.register()
class SaltPepperNoise(Distortion):
    """Single pixels are set to 0 or 1, alike in all channels.

    Impulse noise, ``M = 0`` or 1 with a chance of p / 2 each, else A (Gonzalez and Woods, "Digital
    image processing", 2018).

    Severity: the share of pixels set, ``0.4 * severity``, half of them to each.
    """

    name = "salt_pepper_noise"
    stage = Stage.NOISE

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"share": 0.4 * severity, "seed": draw_seed(rng)}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        draw = generator(params["seed"]).random(patch.shape[1:], dtype=np.float32)
        half = params["share"] / 2
        out = patch.copy()
        out[:, draw < half] = 0
        out[:, draw >= 1 - half] = 1
        return out
