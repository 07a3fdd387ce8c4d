"""PSNR, SSIM, Dice and average precision against closed forms and other implementations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mrssl.evaluation.metrics import (
    MAX_PSNR,
    average_precision,
    dice,
    mean_of_finite,
    psnr,
    ssim_map,
)


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.random((40, 33)), 2)
    reference = (smooth - smooth.min()) / np.ptp(smooth)
    return np.clip(reference + 0.1 * rng.standard_normal(reference.shape), 0, 1), reference


@pytest.mark.parametrize(("difference", "expected"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0)])
def test_psnr_of_a_constant_difference(difference: float, expected: float) -> None:
    reference = np.zeros((5, 4))
    assert psnr(reference + difference, reference) == pytest.approx(expected)


def test_psnr_sees_the_mask_only() -> None:
    reference = np.zeros((6, 6))
    image = np.ones((6, 6))
    mask = np.zeros((6, 6), bool)
    mask[2:4, 2:4] = True
    image[mask] = 0.1
    assert psnr(image, reference, mask) == pytest.approx(20.0)
    assert psnr(image, reference) == pytest.approx(-10 * np.log10((32 + 4 * 0.01) / 36))


def test_psnr_of_equal_images_is_capped_and_of_float32_not_rounded() -> None:
    image = np.full((3, 3), 0.3, np.float32)
    assert psnr(image, image) == MAX_PSNR == 60.0
    assert psnr(image + np.float32(1e-5), image) == MAX_PSNR


def test_empty_mask_is_nan_and_a_nan_pixel_is_not_hidden() -> None:
    image = np.zeros((3, 3))
    nothing = np.zeros((3, 3), bool)
    assert np.isnan(psnr(image, image, nothing))
    assert np.isnan(psnr(np.full((3, 3), np.nan), image))


def test_ssim_of_constant_images_is_its_luminance_term() -> None:
    a, b, c1 = 0.2, 0.7, 1e-4
    expected = (2 * a * b + c1) / (a * a + b * b + c1)
    np.testing.assert_allclose(ssim_map(np.full((20, 20), a), np.full((20, 20), b)), expected)


def test_ssim_is_one_for_equal_images_and_symmetric(images: tuple[np.ndarray, np.ndarray]) -> None:
    image, reference = images
    np.testing.assert_allclose(ssim_map(image, image), 1.0)
    np.testing.assert_allclose(ssim_map(image, reference), ssim_map(reference, image))
    assert ssim_map(image, reference).min() < 0.9


def test_ssim_against_its_definition_window_by_window(
    images: tuple[np.ndarray, np.ndarray],
) -> None:
    image, reference = images
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    x, y = (np.pad(array, 5, mode="symmetric") for array in images)
    for row, column in [(0, 0), (3, 32), (20, 16), (39, 1)]:
        window = np.s_[row : row + 11, column : column + 11]
        mean_x, mean_y = (weights * x[window]).sum(), (weights * y[window]).sum()
        deviation_x, deviation_y = x[window] - mean_x, y[window] - mean_y
        expected = (
            (2 * mean_x * mean_y + 1e-4)
            * (2 * (weights * deviation_x * deviation_y).sum() + 9e-4)
            / (mean_x**2 + mean_y**2 + 1e-4)
            / ((weights * deviation_x**2).sum() + (weights * deviation_y**2).sum() + 9e-4)
        )
        assert ssim_map(image, reference)[row, column] == pytest.approx(expected, rel=1e-9)


def test_ssim_against_scikit_image(images: tuple[np.ndarray, np.ndarray]) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    _, expected = metrics.structural_similarity(
        *images, gaussian_weights=True, use_sample_covariance=False, data_range=1.0, full=True
    )
    np.testing.assert_allclose(ssim_map(*images), expected, rtol=0, atol=1e-9)


def test_dice_by_hand() -> None:
    a = np.array([1, 1, 1, 0, 0], bool)
    b = np.array([0, 1, 1, 1, 1], bool)
    assert dice(a, b) == pytest.approx(2 * 2 / (3 + 4))
    assert dice(a, a) == 1.0
    assert dice(a, np.zeros(5, bool)) == 0.0
    assert np.isnan(dice(np.zeros(5, bool), np.zeros(5, bool)))


def test_average_precision_by_hand() -> None:
    # Positives at ranks 1 and 3 of 4: 1/2 * 1/1 + 1/2 * 2/3.
    assert average_precision([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]) == pytest.approx(5 / 6)
    # All scores equal: one threshold, whose precision is the share of positives.
    assert average_precision(np.full(4, 0.5), np.array([0, 1, 0, 0])) == pytest.approx(0.25)
    assert np.isnan(average_precision([0.5, 0.1], [0, 0]))
    assert np.isnan(average_precision([], []))


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_against_scikit_learn(seed: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, 12, 60) / 11, rng.random(60) < 0.3
    expected = metrics.average_precision_score(labels, scores)
    assert average_precision(scores, labels) == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("error")
def test_mean_of_finite_leaves_nan_out() -> None:
    assert mean_of_finite([1.0, np.nan, 3.0]) == 2.0
    assert np.isnan(mean_of_finite([np.nan]))
    assert np.isnan(mean_of_finite([]))
