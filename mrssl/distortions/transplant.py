"""Transplants: tissue of elsewhere takes the region's place.

The source is the donor slice (another position or subject) where there is one, else the slice
itself. Places are kept as shares of the free range, so that a record fits a donor of any size.
"""

from __future__ import annotations

from collections.abc import Sequence

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

#: Places tried for the patch that differs most from the region.
_PLACES = 4
#: A patch with less tissue than this share is taken only where no place has more (as NSA does).
_MIN_TISSUE = 0.25
#: Intensity above which a pixel counts as tissue.
_AIR = 0.05


def draw_places(rng: np.random.Generator) -> list[list[float]]:
    """A few places (y, x) to take a patch from, each a share of the free range in [0, 1]."""
    return rng.random((_PLACES, 2)).tolist()


def farthest_patch(
    patch: np.ndarray, source: np.ndarray, places: Sequence[Sequence[float]]
) -> np.ndarray:
    """Of the patches at ``places`` in ``source``, the one that differs most from ``patch``.

    Patches of air come last: next to them everything differs, and nothing would be transplanted.

    Args:
        patch: float32 (C, h, w).
        source: float32 (C, H, W); enlarged where it is smaller than the patch.
        places: shares of the free range, from :func:`draw_places`.

    Returns:
        float32 (C, h, w), a view of the source.
    """
    _, h, w = patch.shape
    source = _at_least(source, h, w)
    free_y, free_x = source.shape[1] - h, source.shape[2] - w
    middle = patch.shape[0] // 2
    own = patch[middle, ::2, ::2]
    found, farthest = patch, (False, -1.0)
    for y, x in places:
        top, left = round(y * free_y), round(x * free_x)
        other = source[:, top : top + h, left : left + w]
        seen = other[middle, ::2, ::2]
        tissue = bool(np.count_nonzero(seen > _AIR) >= _MIN_TISSUE * seen.size)
        rank = (tissue, float(cv2.norm(seen - own, cv2.NORM_L1)))
        if rank > farthest:
            found, farthest = other, rank
    return found


def _at_least(source: np.ndarray, h: int, w: int) -> np.ndarray:
    """``source`` enlarged so that a patch of (h, w) fits in."""
    _, rows, cols = source.shape
    if rows >= h and cols >= w:
        return source
    size = (max(cols, w), max(rows, h))
    return np.stack([cv2.resize(channel, size) for channel in source])


@DISTORTION_REGISTRY.register()
class PatchBlend(Distortion):
    """A patch of another slice or subject is mixed in, ``(1 - f) * own + f * other``.

    Foreign patch interpolation (FPI, Tan et al., MELBA 2022), there with f of U(0.05, 0.95).

    Severity: ``f = 0.3 + 0.65 * severity``.
    """

    name = "patch_blend"
    stage = Stage.CONTENT

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"places": draw_places(rng), "factor": 0.3 + 0.65 * severity}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        other = farthest_patch(patch, context.source, params["places"])
        return patch + np.float32(params["factor"]) * (other - patch)


@DISTORTION_REGISTRY.register()
class PoissonBlend(Distortion):
    """A patch of another slice or subject is grafted into the region's box without a seam.

    Natural synthetic anomalies (NSA, Schlueter et al., ECCV 2022) by Poisson editing (Perez et al.,
    SIGGRAPH 2003): the result has the other patch's gradients inside and the region's own values
    on the box's border. OpenCV's ``seamlessClone`` solves the same equation for 8-bit images.

    Severity: the grafted image's weight, ``0.4 + 0.6 * severity``, which mixes the gradients.
    """

    name = "poisson_blend"
    stage = Stage.CONTENT
    fills_box = True

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {"places": draw_places(rng), "factor": 0.4 + 0.6 * severity}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        other = farthest_patch(patch, context.source, params["places"])
        difference = other - patch
        return patch + np.float32(params["factor"]) * (difference - harmonic(difference))


def harmonic(values: np.ndarray) -> np.ndarray:
    """The smooth surface through a box's border: the discrete Laplace equation inside.

    Solved exactly with the sine transform, whose basis diagonalises the five-point Laplacian with
    zero border values (Buzbee, Golub and Nielson, SIAM J. Numer. Anal. 1970).

    Args:
        values: float32 (C, h, w), of which only the border pixels matter; h, w >= 3.

    Returns:
        float32 (C, h, w), equal to ``values`` on the border.
    """
    out = values.copy()
    right = np.zeros_like(values[:, 1:-1, 1:-1])
    right[:, 0] += values[:, 0, 1:-1]
    right[:, -1] += values[:, -1, 1:-1]
    right[:, :, 0] += values[:, 1:-1, 0]
    right[:, :, -1] += values[:, 1:-1, -1]
    eigen_y, eigen_x = (
        2 - 2 * np.cos(np.pi * np.arange(1, n + 1, dtype=np.float32) / (n + 1))
        for n in right.shape[1:]
    )
    spectrum = fft.dstn(right, type=1, axes=(1, 2))
    spectrum /= eigen_y[:, None] + eigen_x[None, :]
    out[:, 1:-1, 1:-1] = fft.idstn(spectrum, type=1, axes=(1, 2), overwrite_x=True)
    return out


@DISTORTION_REGISTRY.register()
class CutPaste(Distortion):
    """A piece of the same slice is pasted in, turned, scaled and of another brightness.

    ``(1 - o) * own + o * gain * piece``, o the opacity. CutPaste (Li et al., CVPR 2021), there with
    rotation and colour jitter.

    Severity: opacity ``0.5 + 0.5 * severity``; any angle, scale 0.7 to 1.4, gain 0.7 to 1.3.
    """

    name = "cut_paste"
    stage = Stage.CONTENT

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {
            "place": rng.random(2).tolist(),
            "degrees": float(rng.uniform(30, 330)),
            "scale": float(rng.uniform(0.7, 1.4)),
            "gain": float(rng.uniform(0.7, 1.3)),
            "opacity": 0.5 + 0.5 * severity,
        }

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        _, h, w = patch.shape
        _, rows, cols = context.image.shape
        # Centre of the piece: inside the slice, so that the mirrored border stays small.
        y, x = (
            share * (side - own) + own / 2
            for share, side, own in zip(params["place"], (rows, cols), (h, w), strict=True)
        )
        # From the patch's pixels to the slice's: about the patch's centre, then to the piece's.
        matrix = cv2.getRotationMatrix2D(
            ((w - 1) / 2, (h - 1) / 2), params["degrees"], params["scale"]
        )
        matrix[:, 2] += x - w / 2, y - h / 2
        opacity = np.float32(params["opacity"])
        out = patch * (1 - opacity)
        for channel, target in zip(context.image, out, strict=True):
            piece = cv2.warpAffine(
                channel,
                matrix,
                (w, h),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REFLECT_101,
            )
            piece *= opacity * np.float32(params["gain"])
            target += piece
        return out
