"""Image and classification metrics as free functions: PSNR, SSIM, Dice, average precision.

Images are in [0, 1], so that the data range of PSNR and SSIM is 1. Masks are boolean: True is a
pixel (or voxel) of the region.

Shape letters: H, W rows and columns of a slice; N samples.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

#: PSNR of a perfect restoration, dB: the mean squared error is floored at 1e-6, below which
#: differences of images in [0, 1] are no longer visible.
MAX_PSNR = 60.0

_SSIM_SIGMA = 1.5
_SSIM_SIDE = 11
_SSIM_C1 = 0.01**2
_SSIM_C2 = 0.03**2


def psnr(
    image: npt.NDArray, reference: npt.NDArray, mask: npt.NDArray[np.bool_] | None = None
) -> float:
    """Peak signal-to-noise ratio inside ``mask``.

    ``10 log10(1 / MSE)`` for a data range of 1, the MSE floored so that equal images give
    :data:`MAX_PSNR` and not infinity.

    Args:
        image: float (H, W) in [0, 1].
        reference: float (H, W) in [0, 1].
        mask: bool (H, W); the whole image if None.

    Returns:
        dB, at most :data:`MAX_PSNR`; nan for an empty mask or where a pixel is nan.
    """
    difference = np.subtract(image, reference, dtype=np.float64)
    if mask is not None:
        difference = difference[mask]
    if not difference.size:
        return float("nan")
    mse = np.mean(np.square(difference))
    return float(-10.0 * np.log10(np.maximum(mse, 10.0 ** (-MAX_PSNR / 10.0))))


def ssim_map(image: npt.NDArray, reference: npt.NDArray) -> npt.NDArray[np.float64]:
    """Structural similarity about every pixel, for a data range of 1.

    Equations 13 to 16 of Wang et al., Image Quality Assessment: From Error Visibility to
    Structural Similarity, IEEE TIP 13(4), 2004, doi:10.1109/TIP.2003.819861, with its constants:
    a Gaussian window of 11 x 11 pixels and a standard deviation of 1.5 pixels, K1 = 0.01,
    K2 = 0.03. The border is reflected. The values are those of scikit-image's
    ``structural_similarity(..., gaussian_weights=True, use_sample_covariance=False, full=True)``.

    Args:
        image: float (H, W) in [0, 1].
        reference: float (H, W) in [0, 1].

    Returns:
        float64 (H, W) in [-1, 1]; 1 where the surroundings are equal.
    """
    x, y = np.asarray(image, np.float64), np.asarray(reference, np.float64)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    variance_x = _window_mean(x * x) - mean_x * mean_x
    variance_y = _window_mean(y * y) - mean_y * mean_y
    covariance = _window_mean(x * y) - mean_x * mean_y
    numerator = (2 * mean_x * mean_y + _SSIM_C1) * (2 * covariance + _SSIM_C2)
    denominator = (mean_x**2 + mean_y**2 + _SSIM_C1) * (variance_x + variance_y + _SSIM_C2)
    return numerator / denominator


def dice(prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> float:
    """Dice coefficient ``2 |P and T| / (|P| + |T|)`` of two masks of equal shape.

    Returns:
        A value in [0, 1]; 0 where one of them is empty, nan where both are.
    """
    return dice_of_counts(*overlap_counts(prediction, truth))


def overlap_counts(
    prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]
) -> tuple[int, int, int]:
    """The numbers of pixels in common, in the prediction and in the truth."""
    counts = (np.count_nonzero(mask) for mask in (prediction & truth, prediction, truth))
    common, predicted, true = map(int, counts)
    return common, predicted, true


def dice_of_counts(common: int, predicted: int, true: int) -> float:
    """:func:`dice` of the counts that :func:`overlap_counts` gives, or of sums of them."""
    total = predicted + true
    return 2.0 * common / total if total else float("nan")


def average_precision(scores: npt.NDArray, labels: npt.NDArray) -> float:
    """Area under the precision-recall curve as a sum of steps, without interpolation.

    ``sum over n of (R_n - R_{n-1}) P_n``, where n runs over the distinct scores from the highest
    down; the definition of scikit-learn's ``average_precision_score``.

    Args:
        scores: float (N,), higher is surer.
        labels: (N,), true or 1 for positives.

    Returns:
        A value in [0, 1]; nan where there is no positive.
    """
    labels = np.asarray(labels, bool)
    if not labels.any():
        return float("nan")
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    scores, labels = np.asarray(scores)[order], labels[order]
    # Equal scores are one threshold: only the last of them is a point of the curve.
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true_positives = np.cumsum(labels)[last]
    precision = true_positives / (last + 1)
    recall = true_positives / labels.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def mean_of_finite(values: npt.ArrayLike) -> float:
    """Mean of the values that are not nan; nan (and no warning) where there is none."""
    array = np.asarray(values, np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else float("nan")


def _window_mean(image: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    size = (_SSIM_SIDE, _SSIM_SIDE)
    blurred = cv2.GaussianBlur(image, size, _SSIM_SIGMA, borderType=cv2.BORDER_REFLECT)
    return np.asarray(blurred, np.float64)
