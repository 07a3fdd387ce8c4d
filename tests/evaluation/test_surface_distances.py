"""Surface distances against hand-made shapes and a brute-force reference."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from mrssl.evaluation.surface import surface_distances

SPACING = (3.3, 0.8, 1.2)


def blob(seed: int, shape: tuple[int, int, int] = (7, 14, 13)) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), (1, 2, 2))
    return noise > np.quantile(noise, 0.7)


def brute_force(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of surface voxels, the surface found by looking at six neighbours one by one."""

    def surface(mask: np.ndarray) -> np.ndarray:
        padded = np.pad(mask, 1)
        points = []
        for point in np.argwhere(padded):
            steps = np.concatenate([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
            if not all(padded[tuple(point + step)] for step in steps):
                points.append(point * SPACING)
        return np.array(points)

    pairs = np.linalg.norm(surface(a)[:, None] - surface(b)[None], axis=-1)
    return pairs.min(axis=1), pairs.min(axis=0)


def test_two_voxels_are_their_distance_in_mm_apart() -> None:
    a, b = np.zeros((2, 4, 4, 4), bool)
    a[0, 0, 0] = b[2, 3, 1] = True
    distances = surface_distances(a, b, SPACING)
    expected = np.hypot(np.hypot(2 * 3.3, 3 * 0.8), 1.2)
    assert distances.hd95 == pytest.approx(expected)
    assert distances.assd == pytest.approx(expected)


def test_equal_masks_are_at_distance_zero_even_at_the_border() -> None:
    mask = np.ones((3, 4, 5), bool)
    distances = surface_distances(mask, mask, SPACING)
    assert distances.hd95 == distances.assd == 0.0
    assert len(distances.prediction_to_truth) == 3 * 4 * 5 - 1 * 2 * 3


def test_each_direction_and_the_percentile_by_hand() -> None:
    # A line of 21 voxels against its first voxel: distances 0..20 one way, 0 the other way.
    line, point = np.zeros((2, 3, 3, 30), bool)
    line[1, 1, 2:23] = point[1, 1, 2] = True
    distances = surface_distances(line, point, (1.0, 1.0, 2.0))
    np.testing.assert_allclose(np.sort(distances.prediction_to_truth), 2.0 * np.arange(21))
    np.testing.assert_allclose(distances.truth_to_prediction, [0.0])
    assert distances.hd95 == pytest.approx(2.0 * 19)
    assert distances.assd == pytest.approx(2.0 * 210 / 22)


@pytest.mark.parametrize("axis", range(3))
def test_an_axis_of_one_voxel_is_none(axis: int) -> None:
    a, b = np.zeros((2, 64, 64), bool)
    a[16:48, 16:48] = b[20:44, 20:44] = True
    flat = surface_distances(a, b, SPACING[1:])
    assert len(flat.prediction_to_truth) == 4 * 31  # the outline of a square, not its inside
    spacing = np.insert(SPACING[1:], axis, SPACING[0])
    deep = surface_distances(np.expand_dims(a, axis), np.expand_dims(b, axis), spacing)
    for one, other in zip(deep, flat, strict=True):
        np.testing.assert_array_equal(one, other)


def test_masks_in_one_slice_of_several_have_two_faces() -> None:
    a, b = np.zeros((2, 3, 64, 64), bool)
    a[1, 16:48, 16:48] = b[1, 20:44, 20:44] = True
    assert len(surface_distances(a, b, SPACING).prediction_to_truth) == 32**2


def test_a_volume_of_one_voxel_is_at_distance_zero() -> None:
    voxel = np.ones((1, 1, 1), bool)
    assert surface_distances(voxel, voxel, SPACING).hd95 == 0.0


@pytest.mark.parametrize("seed", range(3))
def test_against_brute_force(seed: int) -> None:
    a, b = blob(seed), blob(seed + 100)
    found, expected = surface_distances(a, b, SPACING), brute_force(a, b)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.sort(one), np.sort(other), rtol=1e-12)
    assert found.hd95 == pytest.approx(max(np.percentile(side, 95) for side in expected))
    assert found.assd == pytest.approx(np.concatenate(expected).mean())


@pytest.mark.parametrize("seed", range(3))
def test_against_monai(seed: int) -> None:
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is not installed")
    torch = pytest.importorskip("torch")
    a, b = blob(seed), blob(seed + 100)
    found = surface_distances(a, b, SPACING)
    tensors = [torch.from_numpy(mask)[None, None].float() for mask in (a, b)]
    hd95 = metrics.compute_hausdorff_distance(*tensors, percentile=95, spacing=SPACING)
    assd = metrics.compute_average_surface_distance(*tensors, symmetric=True, spacing=SPACING)
    assert found.hd95 == pytest.approx(hd95.item(), rel=1e-5)
    assert found.assd == pytest.approx(assd.item(), rel=1e-5)


def test_swapping_the_masks_changes_nothing_and_spacing_scales() -> None:
    a, b = blob(1), blob(2)
    forth, back = surface_distances(a, b, SPACING), surface_distances(b, a, SPACING)
    assert (forth.hd95, forth.assd) == pytest.approx((back.hd95, back.assd))
    doubled = surface_distances(a, b, [2 * step for step in SPACING])
    assert doubled.assd == pytest.approx(2 * forth.assd)


def test_an_empty_mask_and_unequal_shapes_are_refused() -> None:
    mask = np.ones((2, 2, 2), bool)
    with pytest.raises(ValueError, match="empty"):
        surface_distances(mask, np.zeros_like(mask), SPACING)
    with pytest.raises(ValueError, match="shape"):
        surface_distances(mask, mask[:1], SPACING)
