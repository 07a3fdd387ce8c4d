from __future__ import annotations

import numpy as np
import pytest

from mrssl.data import intensity_window, normalize
from mrssl.data.normalization import foreground_threshold
from mrssl.errors import MrsslError


def phantom(scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
    """Air of 0..9 around a patient of 200..1000."""
    rng = np.random.default_rng(0)
    array = rng.uniform(0, 9, (8, 64, 64))
    array[:, 16:48, 8:56] = rng.uniform(200, 1000, (8, 32, 48))
    return (array * scale + offset).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("method", ["percentile", "zscore"])
def test_scale_and_offset_do_not_matter(method: str, scale: float) -> None:
    def normal(array: np.ndarray) -> np.ndarray:
        return normalize(array, *intensity_window(array, method))

    np.testing.assert_allclose(
        normal(phantom(scale, 50 * scale)), normal(phantom()), rtol=0, atol=2e-3
    )


def test_percentiles_are_of_the_foreground() -> None:
    array = phantom()
    low, high = intensity_window(array, percentiles=(10, 90))
    assert low == pytest.approx(np.percentile(array[:, 16:48, 8:56], 10), rel=0.01)
    assert high == pytest.approx(np.percentile(array[:, 16:48, 8:56], 90), rel=0.01)


def test_zscore_is_of_the_foreground() -> None:
    array = phantom()
    patient = array[:, 16:48, 8:56]
    low, high = intensity_window(array, "zscore", zscore_range=(-2, 1))
    assert low == pytest.approx(patient.mean() - 2 * patient.std(), rel=0.01)
    assert high == pytest.approx(patient.mean() + patient.std(), rel=0.01)


def test_window_is_taken_as_it_is() -> None:
    assert intensity_window(phantom(), "window", window=(5, 9)) == (5, 9)
    values = np.array([-1, 5, 6, 9, 99])
    assert np.array_equal(normalize(values, 5, 9), np.float32([0, 0, 0.25, 1, 1]))


def test_threshold_is_bets() -> None:
    """Oracle: t2 + 0.1 (t98 - t2) of 0..100 in steps of one."""
    assert foreground_threshold(np.arange(101.0)) == pytest.approx(2 + 0.1 * 96)


@pytest.mark.parametrize("value", [0.0, 7.0, -3.0])
@pytest.mark.parametrize("method", ["percentile", "zscore"])
def test_a_constant_volume_is_black(value: float, method: str) -> None:
    array = np.full((2, 4, 4), value, np.float32)
    low, high = intensity_window(array, method)
    assert low < high
    assert not normalize(array, low, high).any()


def test_input_is_left_alone() -> None:
    array = phantom()
    array.setflags(write=False)
    out = normalize(array, 0, 10)
    assert out.dtype == np.float32
    assert not np.shares_memory(out, array)


@pytest.mark.parametrize(
    ("method", "limits"),
    [
        ("otsu", {}),
        ("percentile", {"percentiles": (99, 1)}),
        ("percentile", {"percentiles": (0, 101)}),
        ("window", {"window": (1, 1)}),
    ],
)
def test_limits_out_of_order_are_named(method: str, limits: dict) -> None:
    with pytest.raises(MrsslError, match=method):
        intensity_window(phantom(), method, **limits)
