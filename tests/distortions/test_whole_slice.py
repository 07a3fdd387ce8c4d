"""Whole-slice distortion: the shares and sizes that its docstring promises."""

from __future__ import annotations

import numpy as np
import pytest

from mrssl.distortions.whole_slice import (
    TYPE_NAMES,
    WholeSliceDistorter,
    map_intensities,
    paint,
    shuffle,
)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((3, 60, 80), dtype=np.float32)


def test_shares_are_those_of_models_genesis(image: np.ndarray) -> None:
    rng, distorter = np.random.default_rng(1), WholeSliceDistorter()
    small = image[:, :21, :21]
    types = [distorter(small, rng).types for _ in range(2000)]
    shares = np.concatenate([t for t in types if len(t)]).sum(0) / len(types)
    expected = {"inpainting": 0.18, "intensity_curve": 0.9, "local_shuffle": 0.5,
                "outpainting": 0.72}  # fmt: skip
    assert dict(zip(TYPE_NAMES, shares, strict=True)) == pytest.approx(expected, abs=0.04)


def test_a_sample_is_annotated_and_repeatable(image: np.ndarray) -> None:
    before = image.copy()
    first, second = (WholeSliceDistorter()(image, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(image, before) and first.clean is image
    assert np.array_equal(first.image, second.image)
    assert first.image.dtype == np.float32 and 0 <= first.image.min() <= first.image.max() <= 1
    changed = np.abs(first.image[1] - image[1]) > 0.02
    assert np.array_equal(first.masks[0], changed)


def test_shuffling_keeps_each_windows_pixels(image: np.ndarray) -> None:
    out = shuffle(image, np.random.default_rng(0))
    assert np.array_equal(np.sort(out, axis=None), np.sort(image, axis=None))
    assert not np.array_equal(out, image)
    ramp = np.broadcast_to(np.linspace(0, 1, 80, dtype=np.float32), (1, 60, 80))
    moved = np.abs(shuffle(ramp, np.random.default_rng(0)) - ramp).max()
    assert 0 < moved <= 6 / 79 + 1e-6  # windows of at most a tenth of 60 pixels


def test_half_of_the_maps_fall() -> None:
    rng = np.random.default_rng(0)
    ends = np.array([[[0.0, 1.0]]], np.float32)
    falling = [np.diff(map_intensities(ends, rng)[0, 0])[0] < 0 for _ in range(400)]
    assert np.mean(falling) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize("outer", [True, False])
def test_painting_covers_as_much_as_it_should(image: np.ndarray, outer: bool) -> None:
    rng = np.random.default_rng(0)
    kept = [np.isclose(paint(image, rng, outer=outer), image).all(0).mean() for _ in range(200)]
    low, high = (9 / 49, 0.95) if outer else (0.4, 1.0)
    assert low - 0.02 <= min(kept) and max(kept) <= high
    assert max(kept) - min(kept) > 0.2
