"""Loss of information: what is gone can only be told from its surroundings."""

from __future__ import annotations

from collections.abc import Sequence

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


@DISTORTION_REGISTRY.register()
class Inpainting(Distortion):
    """The region is painted over: with a constant, with its own mean, or with noise.

    In-painting of Models Genesis (noise) and context encoders (Pathak et al., CVPR 2016; mean);
    the network has to invent what was there.

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

    DRAEM (Zavrtanik et al., ICCV 2021): the mask is Perlin noise above a threshold. DRAEM's
    textures are photographs; here the texture is Perlin noise of a finer grid.

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


def perlin_noise(
    rng: np.random.Generator, shape: tuple[int, int], grid: Sequence[int]
) -> np.ndarray:
    """Gradient noise (Perlin, "An image synthesizer", SIGGRAPH 1985; quintic fade of 2002).

    Args:
        rng: draws the gradients.
        shape: (h, w) in pixels.
        grid: cells along y and x.

    Returns:
        float32 (h, w), about -0.7 to 0.7, mean 0; 0 on the grid's points.
    """
    angles = rng.uniform(0, 2 * np.pi, (grid[0] + 1, grid[1] + 1))
    gradients = np.stack([np.sin(angles), np.cos(angles)]).astype(np.float32)
    (cell_y, y), (cell_x, x) = (
        _cells(side, count) for side, count in zip(shape, grid, strict=True)
    )
    fade_y, fade_x = (t * t * t * (t * (t * 6 - 15) + 10) for t in (y, x))
    out = np.zeros(shape, dtype=np.float32)
    for dy in (0, 1):
        for dx in (0, 1):
            gy, gx = gradients[:, cell_y[:, None] + dy, cell_x[None, :] + dx]
            gy *= (y - dy)[:, None]
            gx *= (x - dx)[None, :]
            gy += gx
            gy *= (fade_y if dy else 1 - fade_y)[:, None] * (fade_x if dx else 1 - fade_x)
            out += gy
    return out


def _cells(side: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell of each pixel, int (side,), and the place in it, float32 (side,) in [0, 1)."""
    place = (np.arange(side) + 0.5) * (count / side)
    cell = place.astype(np.int64)
    return cell, (place - cell).astype(np.float32)
