"""Distances between the surfaces of two masks, in millimetres.

Definitions follow Maier-Hein, Reinke et al., Metrics reloaded, Nature Methods 21, 2024,
doi:10.1038/s41592-023-02151-z. The surface of a mask is its voxels with a face-neighbour outside
of it; the outside of the array is outside. An axis along which the array has one voxel is none:
all voxels would have an outside neighbour there, and the inside of an outline would be surface.
Distances are between voxel centres, exact, found with a k-d tree over the surface voxels only, so
the cost follows the surface and not the volume.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_erosion, find_objects
from scipy.spatial import cKDTree


class SurfaceDistances(NamedTuple):
    """From each surface voxel of one mask to the nearest one of the other, in mm.

    Attributes:
        prediction_to_truth: float64, one value a surface voxel of the prediction.
        truth_to_prediction: float64, one value a surface voxel of the truth.
    """

    prediction_to_truth: npt.NDArray[np.float64]
    truth_to_prediction: npt.NDArray[np.float64]

    @property
    def hd95(self) -> float:
        """The larger of the 95th percentiles of either direction."""
        return float(max(np.percentile(distances, 95) for distances in self))

    @property
    def assd(self) -> float:
        """Mean over the surface voxels of both masks."""
        return float(np.concatenate(self).mean())


def surface_distances(
    prediction: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], spacing: Sequence[float]
) -> SurfaceDistances:
    """Surface distances of two masks of equal shape.

    Args:
        prediction: bool (D, H, W), or any other number of axes; whole volumes, since the length of
            an axis decides whether it counts: those of length 1 are left out.
        truth: bool, of the same shape.
        spacing: mm between voxel centres along each axis.

    Raises:
        ValueError: a mask is empty, or the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    if not prediction.any() or not truth.any():
        raise ValueError("the surface of an empty mask is not defined")
    axes = [axis for axis, length in enumerate(truth.shape) if length > 1] or [0]
    shape, steps = np.take(truth.shape, axes), np.take(spacing, axes)
    prediction, truth = prediction.reshape(shape), truth.reshape(shape)
    (crop,) = find_objects((prediction | truth).astype(np.uint8))
    points = [_surface_points(mask[crop], steps) for mask in (prediction, truth)]
    to_truth, _ = cKDTree(points[1]).query(points[0])
    to_prediction, _ = cKDTree(points[0]).query(points[1])
    return SurfaceDistances(to_truth, to_prediction)


def _surface_points(
    mask: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return np.argwhere(mask & ~binary_erosion(mask)).astype(np.float64) * spacing
