"""Where distortions go: regions spread over the foreground by Poisson-disc sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mrssl.distortions.alpha import BLIND_SHAPES, SHAPES, render_alpha
from mrssl.distortions.base import Box, draw_seed
from mrssl.errors import MrsslError

#: Candidates drawn for each region asked for; the rest of the budget is given up, not searched.
_CANDIDATES = 24
#: Regions are never narrower than this, in pixels; a slice that is narrower has none.
_MIN_SIDE = 6


@dataclass(frozen=True)
class Region:
    """A place to distort.

    Attributes:
        box: (x0, y0, x1, y1) in pixels, right and bottom exclusive, inside the slice.
        alpha: float32 (h, w) in [0, 1]: 1 shows the distorted pixel, 0 the clean one.
        shape: "rectangle", "ellipse", "blob" or "tissue".
        feather: width of the soft edge as a share of the side.
        seed: what the outline was drawn from.
    """

    box: Box
    alpha: np.ndarray
    shape: str
    feather: float
    seed: int

    @classmethod
    def render(
        cls,
        box: Sequence[int],
        shape: str,
        feather: float,
        seed: int,
        image: np.ndarray | None = None,
    ) -> Region:
        """Draw the region again from its record and, for "tissue", the clean slice (H, W)."""
        x0, y0, x1, y1 = (int(value) for value in box)
        patch = None if image is None else image[y0:y1, x0:x1]
        alpha = render_alpha(shape, (y1 - y0, x1 - x0), feather, seed, patch)
        return cls((x0, y0, x1, y1), alpha, shape, feather, seed)

    @property
    def rows(self) -> slice:
        """Index of the box's rows in a (..., H, W) array."""
        return slice(self.box[1], self.box[3])

    @property
    def columns(self) -> slice:
        """Index of the box's columns in a (..., H, W) array."""
        return slice(self.box[0], self.box[2])


class RegionSampler:
    """Draws up to a random number of regions a slice, apart from each other and on tissue.

    Placement is Poisson-disc sampling by dart throwing with a radius of its own for each region
    (Cook 1986, "Stochastic sampling in computer graphics"): a candidate is kept where it holds
    enough foreground and its centre is far enough from those kept before.
    """

    def __init__(
        self,
        *,
        regions: tuple[int, int] = (1, 6),
        size: tuple[float, float] = (0.08, 0.40),
        shapes: Sequence[str] = BLIND_SHAPES,
        feather: tuple[float, float] = (0.0, 0.15),
        min_foreground: float = 0.25,
        separation: float = 1.0,
    ) -> None:
        """Set the ranges to draw from.

        Args:
            regions: least and greatest number of regions; fewer are given where they don't fit.
            size: side of a region as a share of the slice's side.
            shapes: drawn from with equal chance; names of :data:`mrssl.distortions.alpha.SHAPES`.
            feather: width of the soft edge as a share of the region's side.
            min_foreground: least share of foreground in a region's box.
            separation: least distance of two centres, in half sums of the regions' greater
                sides: 1 keeps them apart (corners of rectangles may overlap), less does not.

        Raises:
            MrsslError: a range that is empty or impossible, or an unknown shape.
        """
        _check("REGIONS", 0 <= regions[0] <= regions[1])
        _check("REGION_SIZE", 0 < size[0] <= size[1] <= 1)
        _check("REGION_SHAPES", len(shapes) > 0 and set(shapes) <= set(SHAPES))
        _check("FEATHER", 0 <= feather[0] <= feather[1] <= 0.5)
        _check("MIN_FOREGROUND", 0 <= min_foreground <= 1)
        _check("SEPARATION", separation >= 0)
        self.regions = (int(regions[0]), int(regions[1]))
        self.size = size
        self.shapes = tuple(shapes)
        self.feather = feather
        self.min_foreground = min_foreground
        self.separation = separation

    @classmethod
    def from_config(cls, cfg: Any) -> RegionSampler:
        """Read the keys of ``cfg.MRSSL.PRETEXT``."""
        node = cfg.MRSSL.PRETEXT
        return cls(
            regions=tuple(node.REGIONS),
            size=tuple(node.REGION_SIZE),
            shapes=tuple(node.REGION_SHAPES),
            feather=tuple(node.FEATHER),
            min_foreground=node.MIN_FOREGROUND,
            separation=node.SEPARATION,
        )

    def sample(
        self,
        rng: np.random.Generator,
        foreground: np.ndarray,
        *,
        image: np.ndarray | None = None,
        count_factor: float = 1.0,
    ) -> list[Region]:
        """Draw the regions of one slice.

        Args:
            rng: the only source of randomness.
            foreground: bool or uint8 (H, W), 1 = tissue.
            image: float32 (H, W) in [0, 1], the slice; for the shape "tissue".
            count_factor: in [0, 1], on the greatest number of regions (for a curriculum).

        Returns:
            Between none and the greatest number of regions, in the order drawn.
        """
        most = max(self.regions[0], round(self.regions[1] * count_factor))
        wanted = int(rng.integers(self.regions[0], most + 1))
        if not wanted or min(foreground.shape) < _MIN_SIDE:
            return []
        boxes = self._candidates(rng, foreground, wanted * _CANDIDATES)
        return [self._finish(rng, box, image) for box in self._spread(boxes, wanted)]

    def _candidates(self, rng: np.random.Generator, foreground: np.ndarray, n: int) -> np.ndarray:
        """Random boxes with enough foreground; int (M, 4) XYXY, M <= n."""
        sides = np.array(foreground.shape[::-1])
        size = np.rint(rng.uniform(*self.size, (n, 2)) * sides).astype(np.int64)
        size = np.minimum(np.maximum(size, _MIN_SIDE), sides)
        start = (rng.random((n, 2)) * (sides - size + 1)).astype(np.int64)
        end = start + size
        table = cv2.integral(foreground.view(np.uint8))
        (x0, y0), (x1, y1) = start.T, end.T
        pixels = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
        enough = pixels >= self.min_foreground * size.prod(axis=1)
        return np.concatenate([start, end], axis=1)[enough]

    def _spread(self, boxes: np.ndarray, wanted: int) -> list[Box]:
        """The first boxes that keep their distance from all kept before."""
        kept: list[tuple[float, float, float]] = []
        chosen: list[Box] = []
        for x0, y0, x1, y1 in boxes.tolist():
            x, y, reach = (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0) / 2
            if all(
                (x - a) ** 2 + (y - b) ** 2 >= (self.separation * (reach + other)) ** 2
                for a, b, other in kept
            ):
                kept.append((x, y, reach))
                chosen.append((x0, y0, x1, y1))
                if len(chosen) == wanted:
                    break
        return chosen

    def _finish(self, rng: np.random.Generator, box: Box, image: np.ndarray | None) -> Region:
        shape = self.shapes[int(rng.integers(len(self.shapes)))]
        return Region.render(box, shape, float(rng.uniform(*self.feather)), draw_seed(rng), image)


def _check(key: str, fine: bool) -> None:
    if not fine:
        raise MrsslError(f"MRSSL.PRETEXT.{key}: the value is empty, reversed or out of range")
