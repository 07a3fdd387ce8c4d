"""Loss of information: what is gone can only be told from its surroundings."""

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
from mrssl.distortions.fields import perlin_noise


@DISTORTION_REGISTRY.register()
class Inpainting(Distortion):
    """The region is painted over: with a constant, with its own mean, or with noise.

    ``(1 - o) * own + o * paint``, o the opacity. In-painting of Models Genesis (Zhou et al.,
    Medical Image Analysis 2021; noise of U(0, 1)) and context encoders (Pathak et al., CVPR 2016;
    mean); the network has to invent what was there.

    Severity: opacity of the paint, ``0.4 + 0.6 * severity``.
    """

    name = "inpainting"
    stage = Stage.CONTENT

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        return {
            "fill": ("constant", "mean", "noise")[int(rng.integers(3))],
            "value": float(rng.random()),
            "opacity": 0.4 + 0.6 * severity,
            "seed": draw_seed(rng),
        }

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        opacity = np.float32(params["opacity"])
        out = patch * (1 - opacity)
        if params["fill"] == "constant":
            out += opacity * np.float32(params["value"])
        elif params["fill"] == "mean":
            out += opacity * patch.mean(axis=(1, 2), keepdims=True)
        else:
            noise = generator(params["seed"]).random(patch.shape[1:], dtype=np.float32)
            noise *= opacity
            out += noise
        return out


@DISTORTION_REGISTRY.register()
class GridDropout(Distortion):
    """A regular grid of holes (GridMask, Chen et al. 2020).

    ``(1 - o m) * own + o m * fill`` with m = 1 in the holes and o their opacity.

    Severity: opacity of the holes, ``0.3 + 0.7 * severity``. Period 6 pixels to a third of the
    region's smaller side, holes of 0.4 to 0.7 of the period, filled with 0 or the patch's mean.
    """

    name = "grid_dropout"
    stage = Stage.CONTENT

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        period = int(rng.integers(6, max(8, min(shape) // 3 + 1)))
        return {
            "period": period,
            "hole": max(2, round(period * float(rng.uniform(0.4, 0.7)))),
            "offset": rng.integers(period, size=2).tolist(),
            "fill": "zero" if rng.random() < 0.5 else "mean",
            "opacity": 0.3 + 0.7 * severity,
        }

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        in_hole = [
            (np.arange(side) + start) % params["period"] < params["hole"]
            for side, start in zip(patch.shape[1:], params["offset"], strict=True)
        ]
        weight = np.float32(params["opacity"]) * np.logical_and.outer(*in_hole)
        if params["fill"] == "zero":
            return patch * (1 - weight)
        return patch + weight * (patch.mean(axis=(1, 2), keepdims=True) - patch)


@DISTORTION_REGISTRY.register()
class PerlinTexture(Distortion):
    """A foreign texture shows through an irregular mask.

    ``(1 - o m) * own + o m * texture`` as in DRAEM (Zavrtanik et al., ICCV 2021): the mask m is
    Perlin noise above a threshold, o the opacity. DRAEM's textures are photographs; here the
    texture is Perlin noise of a finer grid.

    Severity: opacity ``0.3 + 0.7 * severity``; the mask covers about half of the region.
    """

    name = "perlin_texture"
    stage = Stage.CONTENT

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        fine = int(rng.integers(5, 9))
        return {
            "mask_grid": rng.integers(2, 5, size=2).tolist(),
            "texture_grid": [max(2, side // fine) for side in shape],
            "level": float(rng.uniform(0.3, 0.8)),
            "opacity": 0.3 + 0.7 * severity,
            "seed": draw_seed(rng),
        }

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        rng = generator(params["seed"])
        shape = patch.shape[1:]
        mask = perlin_noise(rng, shape, params["mask_grid"]) > 0
        texture = perlin_noise(rng, shape, params["texture_grid"])
        texture += np.float32(params["level"])
        weight = np.float32(params["opacity"]) * mask
        return patch + weight * (texture - patch)
