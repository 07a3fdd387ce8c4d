"""Loss of resolution: what a smaller or a smoothed k-space leaves of the region."""

from __future__ import annotations

import cv2
import numpy as np
from scipy import fft

from mrssl.distortions.base import (
    DISTORTION_REGISTRY,
    Distortion,
    DistortionContext,
    Params,
    Stage,
)
from mrssl.distortions.kspace import draw_axis, line_numbers, modulate_lines


@DISTORTION_REGISTRY.register()
class GaussianBlur(Distortion):
    """Convolution with a Gaussian, mirrored at the region's border.

    ``G(r) = exp(-r^2 / (2 sigma^2)) / (2 pi sigma^2)``, in k-space the Gaussian apodisation
    ``exp(-2 pi^2 sigma^2 f^2)`` (Gonzalez and Woods, "Digital image processing", 2018).

    Severity: standard deviation in pixels, ``0.5 + 3.5 * severity``, limited to an eighth of the
    region's smaller side plus one.
    """

    name = "gaussian_blur"
    stage = Stage.ACQUISITION

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"sigma": min(0.5 + 3.5 * severity, 1 + min(shape) / 8)}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        out = np.empty_like(patch)
        for source, target in zip(patch, out, strict=True):
            cv2.GaussianBlur(
                source, (0, 0), params["sigma"], dst=target, borderType=cv2.BORDER_REFLECT_101
            )
        return out


@DISTORTION_REGISTRY.register()
class LowResolution(Distortion):
    """The region as if acquired with larger voxels, shown voxel by voxel.

    All but the central k-space, ``|j| < matrix / 2``, is cropped away and the rest goes back to a
    smaller image, the way a scanner of that matrix size would sample it (Chen et al., "Brain MRI
    super resolution", ISBI 2018); then each large voxel is shown as it is (nearest neighbour),
    which tells it from a blur.

    Severity: voxels ``1 + 4 * severity`` times as long along one axis, and at least the square root
    of that along the other; the coarse matrix has at least 3 voxels a side.
    """

    name = "low_resolution"
    stage = Stage.ACQUISITION

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        factor = 1 + 4 * severity
        # One axis takes the whole factor, the other at least half of its logarithm.
        factors = [factor, factor ** float(rng.uniform(0.5, 1.0))]
        if rng.random() < 0.5:
            factors.reverse()
        matrix = [min(max(3, round(s / f)), s) for s, f in zip(shape, factors, strict=True)]
        return {"matrix": matrix}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        coarse = crop_kspace(patch, params["matrix"])
        (rows, cols), (h, w) = params["matrix"], patch.shape[1:]
        # The large voxel that a pixel's centre lies in.
        y, x = ((2 * np.arange(n) + 1) * m // (2 * n) for n, m in ((h, rows), (w, cols)))
        return coarse.take(x, axis=2).take(y, axis=1)


def crop_kspace(patch: np.ndarray, matrix: tuple[int, int]) -> np.ndarray:
    """Keep the central ``matrix`` of k-space and go back to a magnitude image of that size.

    Coefficients of both images agree for ``|k| < matrix / 2`` up to the factor of the pixel counts,
    and so does the mean. Both images cover one field of view, so that the centres of their first
    pixels lie apart, by half the difference of the pixels' sizes: to coefficient k of an axis of n
    pixels, cropped to m, this is a phase of ``pi k (1 / m - 1 / n)``.

    Args:
        patch: float32 (C, h, w).
        matrix: (rows, cols) kept, at most (h, w).

    Returns:
        float32 (C, rows, cols), at least 0.
    """
    (_, h, w), (rows, cols) = patch.shape, matrix
    k = fft.rfft2(patch)
    k = np.concatenate([k[:, : (rows + 1) // 2], k[:, h - rows // 2 :]], axis=1)
    v, u = line_numbers(rows)[:, None], np.arange(cols // 2 + 1)
    phase = np.pi * (v * (1 / rows - 1 / h) + u * (1 / cols - 1 / w))
    k = k[:, :, : cols // 2 + 1] * np.exp(1j * phase).astype(np.complex64)
    small = fft.irfft2(k, s=(rows, cols))
    return np.abs(small) * np.float32(rows * cols / (h * w))


@DISTORTION_REGISTRY.register()
class GibbsRinging(Distortion):
    """Truncation: high lines of k-space are missing along the phase-encoding axis.

    ``K'(j) = K(j)`` for ``|j| <= half width``, else 0: the image is convolved with a sinc along
    that axis: every edge is echoed by ripples, of up to 9 % of its height beside it (Gibbs
    phenomenon; Czervionke et al., AJNR 1988). Only one axis is cut, the way phase-encoding steps
    are saved, which tells it from a blur.

    Severity: the share of lines kept, ``0.3 - 0.22 * severity``, at least 5 lines.
    """

    name = "gibbs_ringing"
    stage = Stage.ACQUISITION

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        axis = draw_axis(rng)
        half = max(2, round(shape[axis] * (0.3 - 0.22 * severity) / 2))
        return {"axis": axis, "half_width": half}

    @staticmethod
    def gain(length: int, params: Params) -> np.ndarray:
        """1 for the lines ``|j| <= half_width``, 0 for the others; float64 (length,)."""
        return (np.abs(line_numbers(length)) <= params["half_width"]).astype(np.float64)

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        axis = params["axis"]
        return modulate_lines(patch, self.gain(patch.shape[axis], params), axis)
