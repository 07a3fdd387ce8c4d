"""Rearrangements: the region keeps all its pixels, but not their places."""

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


@DISTORTION_REGISTRY.register()
class LocalShuffle(Distortion):
    """Pixels are permuted at random inside small windows, alike in all channels.

    ``v'(p) = v(s(p))``, s a random permutation of each window's pixels. Texture and edges go, the
    local histogram stays (Zhou et al., "Models Genesis", Medical Image Analysis 2021, where windows
    reach a tenth of the image's side).

    Severity: window side from 2 pixels to 3 + a fifth of the region's smaller side.
    """

    name = "local_shuffle"
    stage = Stage.GEOMETRY

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        largest = 3 + min(shape) / 5
        return {"window": round(2 + severity * (largest - 2)), "seed": draw_seed(rng)}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        channels, h, w = patch.shape
        rows, cols = (np.arange(side) // params["window"] for side in (h, w))
        window = (rows[:, None] * (cols[-1] + 1) + cols[None, :]).ravel()
        if window[-1] < 1 << 16:
            window = window.astype(np.uint16)  # sorted by radix, several times as fast
        # Sorting by (window, random) deals the pixels of each window out in a random order, for
        # windows of any size, the cut-off ones at the border included.
        home = np.argsort(window, kind="stable")
        away = np.argsort(window + generator(params["seed"]).random(h * w))
        out = np.empty((channels, h * w), dtype=np.float32)
        out[:, home] = patch.reshape(channels, -1)[:, away]
        return out.reshape(patch.shape)


@DISTORTION_REGISTRY.register()
class PatchSwap(Distortion):
    """Blocks of the region change places in pairs.

    ``v'(a) = v(b)`` and ``v'(b) = v(a)`` for blocks a and b. Context restoration (Chen et al.,
    Medical Image Analysis 2019): intensities keep their distribution, only the context tells what
    is wrong. The region is cut into a grid of blocks, as equal as its sides allow, and disjoint
    pairs of equal shape are swapped.

    Severity: the share of blocks swapped, from one pair to all.
    """

    name = "patch_swap"
    stage = Stage.CONTENT

    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        grid = [int(rng.integers(2, 5)) if side >= 24 else 2 for side in shape]
        blocks = rng.permutation(grid[0] * grid[1])
        pairs = max(1, round(severity * (len(blocks) // 2)))
        return {"grid": grid, "pairs": blocks[: 2 * pairs].reshape(-1, 2).tolist()}

    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        out = patch.copy()
        rows, cols = params["grid"]
        h, w = patch.shape[1] // rows, patch.shape[2] // cols
        for a, b in params["pairs"]:
            (ya, xa), (yb, xb) = (((i // cols) * h, (i % cols) * w) for i in (a, b))
            out[:, ya : ya + h, xa : xa + w] = patch[:, yb : yb + h, xb : xb + w]
            out[:, yb : yb + h, xb : xb + w] = patch[:, ya : ya + h, xa : xa + w]
        return out
