"""Geometric and intensity augmentation of a slice and its labels, parameters first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from fvcore.common.config import CfgNode

from mrssl.config import ConfigError

FLIPS = ("none", "horizontal", "vertical")
#: Points a side of the grid of displacements that makes an elastic change.
_GRID = (3, 6)


@dataclass(frozen=True)
class SliceAugmentation:
    """Random zoom, rotation, shift, elastic change, flip, gamma and contrast.

    A pair is a range to draw from; a number r is the range (-r, r).

    Args:
        scale: zoom factors about the centre; above 1 the anatomy grows. Drawn log-uniformly.
        rotate: degrees.
        translate: share of the side.
        elastic: greatest displacement by a smooth random field, a coarse grid of uniform random
            displacements enlarged by cubic interpolation, as a share of the side. How great it is
            in a slice is drawn too.
        gamma: exponents of the [0, 1] intensities. Drawn log-uniformly.
        contrast: factors about mid-grey, log-uniform.
        flip: "none", "horizontal" or "vertical", each with probability 1/2 (Detectron2's
            ``INPUT.RANDOM_FLIP``).

    Raises:
        ConfigError: a flip of another name.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    rotate: float = 0.0
    translate: float = 0.0
    elastic: float = 0.0
    gamma: tuple[float, float] = (1.0, 1.0)
    contrast: tuple[float, float] = (1.0, 1.0)
    flip: str = "none"

    def __post_init__(self) -> None:
        if self.flip not in FLIPS:
            raise ConfigError(f"INPUT.RANDOM_FLIP {self.flip!r}: one of {', '.join(FLIPS)}")

    @classmethod
    def from_config(cls, cfg: CfgNode) -> SliceAugmentation:
        """Build from ``MRSSL.AUGMENT`` and ``INPUT.RANDOM_FLIP``."""
        node = cfg.MRSSL.AUGMENT
        return cls(
            scale=tuple(node.SCALE),
            rotate=node.ROTATE,
            translate=node.TRANSLATE,
            elastic=node.ELASTIC,
            gamma=tuple(node.GAMMA),
            contrast=tuple(node.CONTRAST),
            flip=cfg.INPUT.RANDOM_FLIP,
        )

    def sample(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw the parameters of one slice: numbers and lists of them."""
        params: dict[str, Any] = {
            "scale": float(np.exp(rng.uniform(*np.log(self.scale)))),
            "angle": float(rng.uniform(-self.rotate, self.rotate)),
            "dx": float(rng.uniform(-self.translate, self.translate)),
            "dy": float(rng.uniform(-self.translate, self.translate)),
            "gamma": float(np.exp(rng.uniform(*np.log(self.gamma)))),
            "contrast": float(np.exp(rng.uniform(*np.log(self.contrast)))),
            "flip": float(self.flip != "none" and rng.random() < 0.5),
        }
        if self.elastic:
            points = rng.integers(_GRID[0], _GRID[1] + 1)
            params["grid"] = rng.uniform(-1, 1, (points, points, 2)).tolist()
            params["reach"] = float(rng.uniform(0, self.elastic))
        return params

    def apply_image(self, image: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        """Change a slice.

        Args:
            image: float32 (C, H, W) in [0, 1].
            params: from :meth:`sample`.

        Returns:
            float32 (C, H, W) in [0, 1]; what comes in from outside the slice is
            air, whose 0 the contrast moves as it does that of the slice.
        """
        out = np.stack([self._warp(channel, params, cv2.INTER_LINEAR) for channel in image])
        out = np.clip(out, 0.0, 1.0) ** np.float32(params["gamma"])
        return np.clip((out - 0.5) * np.float32(params["contrast"]) + 0.5, 0.0, 1.0)

    def apply_label(self, label: np.ndarray, params: dict[str, Any]) -> np.ndarray:
        """Move a label slice, integer (H, W), along with its image; by nearest neighbour."""
        moved = self._warp(label.astype(np.float32), params, cv2.INTER_NEAREST)
        return moved.astype(label.dtype)

    def matrix(self, shape: tuple[int, int], params: dict[str, Any]) -> np.ndarray:
        """Where a point of a slice goes, elastic changes left aside.

        Args:
            shape: H, W of the slice.
            params: from :meth:`sample`.

        Returns:
            float64 (3, 3), for column vectors (x, y, 1) in pixels from the slice's upper left
            corner, as boxes are.
        """
        height, width = shape
        corner = np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [0.0, 0.0, 1.0]])
        centres = np.vstack([self._warp_matrix(shape, params), [0.0, 0.0, 1.0]])
        moved = corner @ centres @ np.linalg.inv(corner)
        if params["flip"]:
            axis, side = (0, width) if self.flip == "horizontal" else (1, height)
            mirror = np.eye(3)
            mirror[axis, axis], mirror[axis, 2] = -1.0, side
            moved = mirror @ moved
        return moved

    @staticmethod
    def _warp_matrix(shape: tuple[int, int], params: dict[str, Any]) -> np.ndarray:
        """Without the flip and of the pixels' centres, as OpenCV takes it; float64 (2, 3)."""
        height, width = shape
        centre = ((width - 1) / 2, (height - 1) / 2)
        matrix = cv2.getRotationMatrix2D(centre, params["angle"], params["scale"])
        matrix[:, 2] += np.array([params["dx"] * width, params["dy"] * height])
        return matrix

    def _warp(self, image: np.ndarray, params: dict[str, Any], interpolation: int) -> np.ndarray:
        height, width = image.shape
        matrix = self._warp_matrix((height, width), params)
        if "grid" in params:
            x, y = _origins((height, width), matrix, params)
            moved = cv2.remap(image, x, y, interpolation)
        else:
            moved = cv2.warpAffine(image, matrix, (width, height), flags=interpolation)
        if params["flip"]:
            moved = moved[:, ::-1] if self.flip == "horizontal" else moved[::-1]
        return np.ascontiguousarray(moved)


def _origins(
    shape: tuple[int, int], matrix: np.ndarray, params: dict[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels of an elastically changed slice come from.

    Returns:
        Two float32 (H, W), x and y of pixel centres: the displaced pixel, moved back by ``matrix``.
    """
    height, width = shape
    grid = np.asarray(params["grid"], np.float32)
    shift: np.ndarray = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    shift *= np.float32(params["reach"]) / np.abs(shift).max(axis=(0, 1))
    x = shift[..., 0] * np.float32(width) + np.arange(width, dtype=np.float32)
    y = shift[..., 1] * np.float32(height) + np.arange(height, dtype=np.float32)[:, None]
    inverse = cv2.invertAffineTransform(matrix).astype(np.float32)
    return (
        inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2],
        inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2],
    )
