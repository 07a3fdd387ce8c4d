"""Loss of information: what is gone can only be told from its surroundings."""

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


@DISTORTION_REGISTRY.register()
class GaussianBlur(Distortion):
    """Convolution with a Gaussian, mirrored at the region's border.

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
