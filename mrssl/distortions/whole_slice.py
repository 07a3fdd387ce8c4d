"""Distortion of the whole slice, in the manner of Models Genesis: the peer to compare with.

Zhou et al., "Models Genesis", Medical Image Analysis 2021, arXiv 2004.07882; probabilities and
sizes as in its code. Letters: C channels, H, W the slice.
"""

from __future__ import annotations

import numpy as np

from mrssl.distortions.intensity import bezier, look_up
from mrssl.distortions.rearrangement import LocalShuffle
from mrssl.distortions.slices import DistortedSlice

_INTENSITY, _SHUFFLE, _PAINTING, _OUTER = 0.9, 0.5, 0.9, 0.8
#: Another box follows with this chance, up to five in all.
_ANOTHER = 0.95
_MOST_BOXES = 5
_GRID = np.linspace(0, 1, 1024)
_CURVE = np.linspace(0, 1, 128)
#: A pixel counts as changed beyond this difference of intensities in [0, 1].
_TOLERANCE = 0.02

TYPE_NAMES = ("inpainting", "intensity_curve", "local_shuffle", "outpainting")


class WholeSliceDistorter:
    """Distorts whole slices, where :class:`~mrssl.distortions.Distorter` distorts regions.

    In this order: local shuffling (chance .5), pixels of windows of up to a tenth of the side are
    permuted; a Bezier intensity map (.9), half of them falling; painting with noise (.9), of which
    .8 paints all but up to five boxes of 3/7 to 4/7 of the sides, and .2 paints up to five boxes of
    1/6 to 1/3. All channels alike, but for the noise.
    """

    type_names: tuple[str, ...] = TYPE_NAMES
    curricula: tuple[str, ...] = ()

    def __call__(
        self, image: np.ndarray, rng: np.random.Generator, **unused: object
    ) -> DistortedSlice:
        """Distort one slice: see :class:`~mrssl.distortions.SliceDistorter`.

        Args:
            image: see there.
            rng: see there.
            unused: whole slices take no tissue from elsewhere and have no curriculum.

        Returns:
            The slice with one region, all pixels of the middle channel that changed visibly, or
            with none. ``records`` is empty: these samples are not replayed.
        """
        out, done = image, []
        if rng.random() < _SHUFFLE:
            out = shuffle(out, rng)
            done.append("local_shuffle")
        if rng.random() < _INTENSITY:
            out = map_intensities(out, rng)
            done.append("intensity_curve")
        if rng.random() < _PAINTING:
            outer = rng.random() < _OUTER
            out = paint(out, rng, outer=outer)
            done.append("outpainting" if outer else "inpainting")
        return _annotate(image, out, done)


def shuffle(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permute the pixels of windows of 2 pixels to a tenth of the smaller side; (C, H, W)."""
    largest = max(2, min(image.shape[1:]) // 10)
    window = int(rng.integers(2, largest + 1))
    seed = int(rng.integers(2**32))
    return LocalShuffle().apply(image, {"severity": 1.0, "window": window, "seed": seed})


def map_intensities(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Map intensities through a Bezier curve with two control points of U(0, 1)^2; (C, H, W)."""
    x, y = bezier(rng.random((2, 2)), _CURVE).T
    y = y[::-1] if rng.random() < 0.5 else np.sort(y)
    return look_up(image, np.interp(_GRID, x, y))


def paint(image: np.ndarray, rng: np.random.Generator, *, outer: bool) -> np.ndarray:
    """Noise inside a few boxes, or (``outer``) everywhere but in them; (C, H, W)."""
    _, height, width = image.shape
    inside = np.zeros((height, width), bool)
    smallest, largest = (3 / 7, 4 / 7) if outer else (1 / 6, 1 / 3)
    for count in range(_MOST_BOXES):
        # Models Genesis always keeps one box when painting around.
        if not (outer and count == 0) and rng.random() >= _ANOTHER:
            break
        h, w = (max(1, round(side * rng.uniform(smallest, largest))) for side in (height, width))
        y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        inside[y : y + h, x : x + w] = True
    noise = rng.random(image.shape, dtype=np.float32)
    return np.where(inside != outer, noise, image)


def _annotate(clean: np.ndarray, image: np.ndarray, done: list[str]) -> DistortedSlice:
    middle = clean.shape[0] // 2
    changed = np.abs(image[middle] - clean[middle]) > _TOLERANCE
    count = int(changed.any())
    types = np.array([[float(name in done) for name in TYPE_NAMES]], np.float32)
    return DistortedSlice(image, clean, changed[None][:count], types[:count], [])


__all__ = ["TYPE_NAMES", "WholeSliceDistorter", "map_intensities", "paint", "shuffle"]
