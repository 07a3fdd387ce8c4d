"""Artefacts of acquisition, made in the k-space of the region.

The region's crop is taken for a field of view of its own: its discrete Fourier transform is the
k-space that the artefact changes. Only the axis concerned is transformed where that suffices.
Convention: ``k = fft(image)``, DC at index 0, forward transform unscaled.
"""

from __future__ import annotations

import numpy as np
from scipy import fft

from mrssl.distortions.base import (
    DISTORTION_REGISTRY,
    Distortion,
    DistortionContext,
    Params,
    Stage,
)


def modulate_lines(patch: np.ndarray, gain: np.ndarray, axis: int) -> np.ndarray:
    """Multiply k-space lines by a gain and go back to the magnitude image.

    Args:
        patch: float32 (C, h, w).
        gain: float or complex (n,), n = the patch's length along ``axis``; index 0 is DC.
        axis: -2 (lines stacked along y) or -1.

    Returns:
        float32 (C, h, w), the magnitude, at least 0.
    """
    lines = fft.fft(patch, axis=axis)
    gain = gain.astype(np.complex64)
    lines *= gain[:, None] if axis == -2 else gain
    return np.abs(fft.ifft(lines, axis=axis, overwrite_x=True))


def draw_axis(rng: np.random.Generator) -> int:
    """The phase-encoding axis: -2 (y) or -1 (x), with equal chance."""
    return -2 if rng.random() < 0.5 else -1


@DISTORTION_REGISTRY.register()
class Ghosting(Distortion):
    """Copies of the region, displaced along the phase-encoding axis, by a periodic motion.

    Motion or flow of a period of ``period`` lines modulates the signal from line to line; a
    modulation ``1 + 2 a cos(2 pi j / period + phase)`` of line j gives two ghosts of amplitude a
    displaced by +- N / period pixels, N lines in all (Wood and Henkelman, "MR image artifacts from
    periodic motion", Medical Physics 1985).

    Severity: ghost amplitude ``0.7 * severity`` of the original.
    """

    name = "ghosting"
    stage = Stage.ACQUISITION

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {
            "axis": draw_axis(rng),
            "period": float(rng.uniform(2.5, 6.0)),
            "phase": float(rng.uniform(0, 2 * np.pi)),
            "intensity": 0.7 * severity,
        }

    @staticmethod
    def gain(length: int, params: Params) -> np.ndarray:
        """Gain of each k-space line; float64 (length,)."""
        angle = 2 * np.pi * np.arange(length) / params["period"] + params["phase"]
        return 1 + 2 * params["intensity"] * np.cos(angle)

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        axis = params["axis"]
        return modulate_lines(patch, self.gain(patch.shape[axis], params), axis)


@DISTORTION_REGISTRY.register()
class LowResolution(Distortion):
    """The region as if acquired with larger voxels, shown voxel by voxel.

    All but the central k-space is cropped away and the rest goes back to a smaller image, the way
    a scanner of that matrix size would sample it; then each large voxel is shown as it is (nearest
    neighbour), which tells it from a blur.

    Severity: the factor between the voxel sides, ``1 + 4 * severity``, per axis with a share
    drawn; the coarse matrix has at least 3 voxels a side.
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
        y, x = np.arange(h) * rows // h, np.arange(w) * cols // w
        return coarse[:, y[:, None], x[None, :]]


def crop_kspace(patch: np.ndarray, matrix: tuple[int, int]) -> np.ndarray:
    """Keep the central ``matrix`` of k-space and go back to a magnitude image of that size.

    Coefficients k of both images agree for ``|k| < matrix / 2`` up to the factor of the pixel
    counts, and so does the mean.

    Args:
        patch: float32 (C, h, w).
        matrix: (rows, cols) kept, at most (h, w).

    Returns:
        float32 (C, rows, cols), at least 0.
    """
    (_, h, w), (rows, cols) = patch.shape, matrix
    k = fft.rfft2(patch)
    k = np.concatenate([k[:, : (rows + 1) // 2], k[:, h - rows // 2 :]], axis=1)
    small = fft.irfft2(k[:, :, : cols // 2 + 1], s=(rows, cols))
    return np.abs(small) * np.float32(rows * cols / (h * w))
