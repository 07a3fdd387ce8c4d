"""Oracles: noise has the moments of its distribution at the signal-to-noise ratio asked for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mrssl.distortions import DISTORTION_REGISTRY

SIDE = 256
LEVEL = 0.3


def noisy(name: str, level: float = LEVEL, **params) -> np.ndarray:
    patch = np.full((1, SIDE, SIDE), level, dtype=np.float32)
    params = {"severity": 1.0, "seed": 11, **params}
    return DISTORTION_REGISTRY.get(name)().apply(patch, params)[0].astype(np.float64)


@pytest.mark.parametrize("snr", [3.0, 10.0, 20.0])
def test_rician_moments_and_distribution(snr):
    sigma = LEVEL / snr
    out = noisy("rician_noise", snr=snr)
    assert np.mean(out**2) == pytest.approx(LEVEL**2 + 2 * sigma**2, rel=0.01)
    expected = stats.rice(b=snr, scale=sigma)
    assert out.mean() == pytest.approx(expected.mean(), rel=0.005)
    assert out.std() == pytest.approx(expected.std(), rel=0.02)
    assert stats.kstest(out.ravel()[::7], expected.cdf).pvalue > 1e-3


def test_rician_noise_in_air_is_rayleigh():
    patch = np.zeros((1, SIDE, SIDE), dtype=np.float32)
    patch[:, :, : SIDE // 2] = 0.4  # mean 0.2
    params = {"severity": 1.0, "seed": 3, "snr": 4.0}
    out = DISTORTION_REGISTRY.get("rician_noise")().apply(patch, params)
    air = out[0, :, SIDE // 2 :].astype(np.float64)
    assert air.mean() == pytest.approx(0.05 * np.sqrt(np.pi / 2), rel=0.01)


@pytest.mark.parametrize("coils", [1, 4, 16])
@pytest.mark.parametrize("snr", [8.0, 20.0])
def test_noncentral_chi_moments_and_distribution(coils, snr):
    sigma = LEVEL / snr
    out = noisy("noncentral_chi_noise", snr=snr, coils=coils)
    assert np.mean(out**2) == pytest.approx(LEVEL**2 + 2 * coils * sigma**2, rel=0.01)
    squares = (out.ravel()[::7] / sigma) ** 2
    assert stats.kstest(squares, stats.ncx2(df=2 * coils, nc=snr**2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("strength", [0.1, 0.25])
@pytest.mark.parametrize("grain", [0.6, 1.5])
def test_speckle_is_multiplicative_with_the_strength_asked_for(strength, grain):
    for level in (0.2, 0.4):
        out = noisy("speckle_noise", level=level, strength=strength, grain=grain) / level
        assert out.mean() == pytest.approx(1.0, abs=0.02)
        assert out.std() == pytest.approx(strength, rel=0.05)


def test_speckle_is_as_strong_at_the_border():
    speckle, patch = (
        DISTORTION_REGISTRY.get("speckle_noise")(),
        np.full((1, 9, 13), 0.4, np.float32),
    )
    params = {"severity": 1.0, "strength": 0.25, "grain": 1.4}
    spread = np.std([speckle.apply(patch, {**params, "seed": i})[0] for i in range(400)], axis=0)
    spread /= 0.4
    assert spread[0].mean() == pytest.approx(0.25, rel=0.03)
    assert spread[:, -1].mean() == pytest.approx(0.25, rel=0.03)


def test_speckle_grain_correlates_neighbours():
    def neighbour(grain: float) -> float:
        out = noisy("speckle_noise", strength=0.1, grain=grain)
        return float(np.corrcoef(out[:, 1:].ravel(), out[:, :-1].ravel())[0, 1])

    # A Gaussian smoothed by s twice over: the correlation at one pixel is exp(-1 / (4 s^2)).
    assert neighbour(1.5) == pytest.approx(np.exp(-1 / (4 * 1.5**2)), abs=0.05)
    assert neighbour(0.6) < 0.6


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_salt_and_pepper_shares(share):
    out = noisy("salt_pepper_noise", share=share)
    assert (out == 0).mean() == pytest.approx(share / 2, rel=0.1)
    assert (out == 1).mean() == pytest.approx(share / 2, rel=0.1)
    assert (out == np.float32(LEVEL)).mean() == pytest.approx(1 - share, rel=0.02)


@pytest.mark.parametrize(("name", "snr"), [("rician_noise", 3.0), ("noncentral_chi_noise", 5.0)])
def test_severity_sets_the_snr(name, snr):
    distortion = DISTORTION_REGISTRY.get(name)()
    for severity in (0.25, 1.0):
        params = distortion.sample(np.random.default_rng(0), (20, 20), severity)
        assert params["snr"] == pytest.approx(snr / severity)


def test_noise_differs_between_channels():
    patch = np.full((3, 64, 64), 0.5, dtype=np.float32)
    for name in ("rician_noise", "noncentral_chi_noise", "speckle_noise"):
        distortion = DISTORTION_REGISTRY.get(name)()
        params = distortion.sample(np.random.default_rng(0), (64, 64), 0.5)
        out = distortion.apply(patch, params) - 0.5
        assert abs(np.corrcoef(out[0].ravel(), out[2].ravel())[0, 1]) < 0.1
