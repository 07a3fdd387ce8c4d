from __future__ import annotations

import time

import numpy as np

from mrssl.structures.foreground import foreground_mask


def test_foreground_is_the_patient() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 0.01, (64, 64)).astype(np.float32)
    image[16:48, 8:56] = rng.uniform(0.2, 1, (32, 48))
    mask = foreground_mask(image)
    patient = np.zeros_like(mask)
    patient[16:48, 8:56] = True
    assert mask.dtype == np.bool_
    assert (mask == patient).mean() > 0.99


def test_specks_are_no_foreground_and_holes_are() -> None:
    image = np.zeros((64, 64), np.float32)
    image[10:50, 10:50] = 0.6
    image[30:33, 30:33] = 0
    image[60, 60] = 1
    mask = foreground_mask(image)
    assert mask[31, 31]
    assert not mask[60, 60]
    assert not foreground_mask(np.full((64, 64), 0.03, np.float32)).any()


def test_foreground_is_fast_enough_for_every_sample() -> None:
    image = np.random.default_rng(0).random((256, 256), np.float32)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        foreground_mask(image)
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3


def test_air_has_none() -> None:
    assert not foreground_mask(np.zeros((32, 32), np.float32)).any()
