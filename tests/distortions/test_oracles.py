"""Oracles of the other distortions: closed forms and second implementations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy import interpolate, ndimage
from scipy.sparse import csr_matrix, lil_matrix
from scipy.sparse.linalg import spsolve

from mrssl.distortions import DistortionContext
from mrssl.distortions.fields import perlin_noise, spline_basis
from mrssl.distortions.intensity import bezier, look_up
from mrssl.distortions.transplant import farthest_patch, harmonic

from .conftest import make


@pytest.mark.parametrize("window", [2, 5, 9])
def test_local_shuffle_permutes_each_window_alike_in_all_channels(patch, window):
    out = make("local_shuffle").apply(patch, {"severity": 1.0, "window": window, "seed": 1})
    for y in range(0, 45, window):
        for x in range(0, 38, window):
            before = patch[:, y : y + window, x : x + window].reshape(3, -1)
            after = out[:, y : y + window, x : x + window].reshape(3, -1)
            # Whole pixels (all channels together) are permuted.
            assert sorted(map(tuple, before.T)) == sorted(map(tuple, after.T))
    assert (out != patch).mean() > 0.5


def test_patch_swap_exchanges_blocks(patch):
    params = {"severity": 1.0, "grid": [3, 2], "pairs": [[0, 5], [1, 2]]}
    out = make("patch_swap").apply(patch, params)
    h, w = 15, 19
    place = {
        i: (slice((i // 2) * h, (i // 2 + 1) * h), slice((i % 2) * w, (i % 2 + 1) * w))
        for i in range(6)
    }
    for a, b in [(0, 5), (5, 0), (1, 2), (2, 1), (3, 3), (4, 4)]:
        np.testing.assert_array_equal(
            out[(slice(None), *place[a])], patch[(slice(None), *place[b])]
        )
    np.testing.assert_array_equal(np.sort(out, axis=None), np.sort(patch, axis=None))


def test_bezier_against_de_casteljau():
    controls = np.array([[0.2, 0.9], [0.7, 0.1]])
    t = np.linspace(0, 1, 11)
    points = np.vstack([(0, 0), controls, (1, 1)])[:, None] * np.ones((4, 11, 1))
    while len(points) > 1:
        points = points[:-1] * (1 - t[:, None]) + points[1:] * t[:, None]
    np.testing.assert_allclose(bezier(controls, t), points[0], atol=1e-12)


def test_intensity_curve_goes_through_the_curve(patch):
    controls = [[0.1, 0.8], [0.6, 0.3]]
    params = {"severity": 1.0, "controls": controls, "monotonic": False, "weight": 0.7}
    out = make("intensity_curve").apply(patch, params)
    x, y = bezier(np.asarray(controls), np.linspace(0, 1, 20_001)).T
    expected = 0.3 * patch + 0.7 * np.interp(patch, x, y)
    np.testing.assert_allclose(out, expected, atol=3e-3)


def test_monotonic_curves_never_fall():
    grid = np.linspace(0, 1, 1000, dtype=np.float32)[None, None]
    rng = np.random.default_rng(0)
    seen = {True: 0, False: 0}
    for _ in range(60):
        params = make("intensity_curve").sample(rng, (1, 1000), 1.0)
        seen[params["monotonic"]] += 1
        if params["monotonic"]:
            assert (np.diff(make("intensity_curve").apply(grid, params)) >= -1e-6).all()
    assert min(seen.values()) > 10


def test_look_up_takes_the_nearest_entry():
    table = np.linspace(0, 1, 1024) ** 2
    values = np.array([[[0.0, 0.5, 1.0]]], dtype=np.float32)
    np.testing.assert_allclose(look_up(values, table), values**2, atol=1e-3)


def test_gamma_and_inversion(patch):
    out = make("gamma").apply(patch, {"severity": 1.0, "gamma": 2.0})
    np.testing.assert_allclose(out, patch**2, rtol=1e-5)
    out = make("contrast_inversion").apply(patch, {"severity": 1.0, "weight": 1.0})
    np.testing.assert_allclose(out, patch.min() + patch.max() - patch, atol=1e-6)


def test_histogram_transfer_gives_the_other_histogram_and_keeps_the_order(patch):
    other = patch[:, ::-1, ::-1] ** 3
    params = {"severity": 1.0, "places": [[0.0, 0.0]], "weight": 1.0}
    context = DistortionContext(patch, (0, 0, 38, 45), np.ascontiguousarray(other))
    out = make("histogram_transfer").apply(patch, params, context=context)
    quantiles = np.linspace(0.02, 0.98, 25)
    np.testing.assert_allclose(
        np.quantile(out[1], quantiles), np.quantile(other[1], quantiles), atol=0.02
    )
    order = np.argsort(patch[1], axis=None)
    assert (np.diff(out[1].ravel()[order]) >= -1e-6).all()


@pytest.mark.parametrize("name", ["bias_polynomial", "bias_spline"])
def test_bias_field_is_smooth_with_the_peak_asked_for(name):
    patch = np.full((2, 50, 40), 0.2, dtype=np.float32)
    for seed in range(10):
        params = make(name).sample(np.random.default_rng(seed), (50, 40), 1.0)
        log_field = np.log(make(name).apply(patch, params) / patch).astype(np.float64)
        np.testing.assert_array_equal(log_field[0], log_field[1])
        assert np.abs(log_field).max() == pytest.approx(params["peak"], rel=1e-3)
        assert log_field[0].mean() == pytest.approx(0, abs=1e-3)
        assert np.abs(np.diff(log_field[0], axis=0)).max() < 0.35


def test_polynomial_bias_is_a_cubic():
    patch = np.full((1, 30, 30), 0.1, dtype=np.float32)
    params = make("bias_polynomial").sample(np.random.default_rng(0), (30, 30), 0.8)
    field = np.log(make("bias_polynomial").apply(patch, params)[0].astype(np.float64))
    assert np.abs(np.diff(field, 4, axis=0)).max() < 1e-4  # fourth differences of a cubic vanish
    assert np.abs(np.diff(field, 4, axis=1)).max() < 1e-4


@pytest.mark.parametrize(("side", "cells"), [(37, 4), (60, 5)])
def test_spline_basis_against_scipy(side, cells):
    place = (np.arange(side) + 0.5) * (cells / side)
    expected = interpolate.BSpline.design_matrix(place, np.arange(-3, cells + 4.0), 3).toarray()
    np.testing.assert_allclose(spline_basis(side, cells), expected, atol=1e-6)


def test_perlin_noise_against_the_textbook():
    shape, grid = (21, 34), (2, 3)
    out = perlin_noise(np.random.default_rng(5), shape, grid)
    angles = np.random.default_rng(5).uniform(0, 2 * np.pi, (3, 4))
    for i in range(0, 21, 4):
        for j in range(0, 34, 5):
            y, x = (i + 0.5) * 2 / 21, (j + 0.5) * 3 / 34
            a, b = int(y), int(x)

            def ramp(p: int, q: int, y: float = y, x: float = x) -> float:
                return np.sin(angles[p, q]) * (y - p) + np.cos(angles[p, q]) * (x - q)

            def fade(t: float) -> float:
                return t**3 * (t * (6 * t - 15) + 10)

            u, v = fade(y - a), fade(x - b)
            top = ramp(a, b) * (1 - v) + ramp(a, b + 1) * v
            bottom = ramp(a + 1, b) * (1 - v) + ramp(a + 1, b + 1) * v
            assert out[i, j] == pytest.approx(top * (1 - u) + bottom * u, abs=1e-5)


def laplace(values: np.ndarray) -> np.ndarray:
    """The discrete Dirichlet problem by a sparse direct solver."""
    h, w = values.shape
    matrix, right = lil_matrix((h * w, h * w)), values.astype(np.float64).ravel().copy()
    for i in range(h):
        for j in range(w):
            k = i * w + j
            matrix[k, k] = 1.0
            if 0 < i < h - 1 and 0 < j < w - 1:
                matrix[k, [k - 1, k + 1, k - w, k + w]] = -0.25
                right[k] = 0.0
    return spsolve(csr_matrix(matrix), right).reshape(h, w)


def test_harmonic_against_a_sparse_solver():
    values = np.random.default_rng(0).random((2, 14, 19), dtype=np.float32)
    out = harmonic(values)
    for channel, found in zip(values, out, strict=True):
        np.testing.assert_allclose(found, laplace(channel), atol=1e-5)


def test_poisson_blend_keeps_the_border_and_the_other_gradients(patch):
    target, other = patch[:1] * 0.5 + 0.2, patch[1:2] * 0.6 + 0.1
    params = {"severity": 1.0, "places": [[0.0, 0.0]], "factor": 1.0}
    context = DistortionContext(target, (0, 0, 38, 45), other)
    out = make("poisson_blend").apply(target, params, context=context)
    for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
        np.testing.assert_allclose(out[edge], target[edge], atol=1e-6)
    wanted, found = (ndimage.laplace(a[0])[1:-1, 1:-1] for a in (other, out))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_poisson_blend_agrees_with_opencv(patch):
    """OpenCV clones 8-bit images and shrinks the mask it is given by some two pixels."""
    target, other = ((a.repeat(3, 0)) for a in (patch[:1] * 0.5 + 0.2, patch[1:2] * 0.6 + 0.1))
    params = {"severity": 1.0, "places": [[0.0, 0.0]], "factor": 1.0}
    context = DistortionContext(target, (0, 0, 38, 45), other)
    out = make("poisson_blend").apply(target, params, context=context)

    def framed(a: np.ndarray) -> np.ndarray:
        padded = np.pad(a, ((0, 0), (10, 10), (10, 10)), mode="edge")
        return np.ascontiguousarray(np.rint(padded * 255).astype(np.uint8).transpose(1, 2, 0))

    mask = np.zeros((65, 58), dtype=np.uint8)
    mask[8:57, 8:50] = 255
    cloned = cv2.seamlessClone(framed(other), framed(target), mask, (29, 32), cv2.NORMAL_CLONE)
    inner = np.s_[4:-4, 4:-4]
    expected = cloned[10:-10, 10:-10, 0][inner] / 255.0
    assert np.abs(expected - out[0][inner]).mean() < 0.01
    assert np.corrcoef(expected.ravel(), out[0][inner].ravel())[0, 1] > 0.98
    assert np.abs(other[0] - out[0])[inner].mean() > 0.03  # the levels had to move


def test_farthest_patch_takes_the_most_different():
    source = np.zeros((1, 40, 40), dtype=np.float32)
    source[:, 20:, 20:] = 1.0
    own = np.zeros((1, 20, 20), dtype=np.float32)
    found = farthest_patch(own, source, [[0.0, 0.0], [1.0, 1.0], [0.5, 0.5]])
    assert (found == 1).all()


def test_farthest_patch_takes_air_only_where_there_is_nothing_else():
    source = np.zeros((1, 40, 40), dtype=np.float32)
    source[:, 25:, :] = 0.8  # three quarters of the lowest 20 rows
    own = np.full((1, 20, 20), 0.7, dtype=np.float32)
    air, tissue = [0.0, 0.0], [1.0, 0.3]
    assert farthest_patch(own, source, [air, tissue]).max() == np.float32(0.8)
    assert farthest_patch(own, source, [air, air]).max() == 0


def test_patch_blend_is_a_weighted_mean(patch):
    other = np.ascontiguousarray(patch[:, ::-1])
    params = {"severity": 1.0, "places": [[0.3, 0.7]], "factor": 0.25}
    out = make("patch_blend").apply(
        patch, params, context=DistortionContext(patch, (0, 0, 38, 45), other)
    )
    np.testing.assert_allclose(out, 0.75 * patch + 0.25 * other, atol=1e-6)


def test_cut_paste_takes_the_piece_it_names():
    image = np.random.default_rng(0).random((1, 80, 90), dtype=np.float32)
    patch = image[:, 10:31, 20:41]
    params = {
        "severity": 1.0, "place": [1.0, 1.0], "degrees": 0.0, "scale": 1.0, "gain": 0.9,
        "opacity": 1.0,
    }  # fmt: skip
    out = make("cut_paste").apply(patch, params, context=DistortionContext(image, (20, 10, 41, 31)))
    np.testing.assert_allclose(out, 0.9 * image[:, 59:80, 69:90], atol=1e-5)


def test_rotation_by_a_right_angle_is_exact(patch):
    square = patch[:, :31, :31]
    out = make("rotation").apply(square, {"severity": 1.0, "degrees": 90})
    np.testing.assert_allclose(out, np.rot90(square, axes=(1, 2)), atol=2e-3)


@pytest.mark.parametrize(
    ("name", "params"),
    [("swirl", {"angle": 2.0}), ("local_scaling", {"k": 0.6}), ("local_scaling", {"k": -1.0})],
)
def test_radial_warps_leave_everything_beyond_the_ellipse(name, params, patch):
    out = make(name).apply(patch, {"severity": 1.0, **params})
    y, x = np.mgrid[0:45, 0:38]
    r = np.hypot((y + 0.5) * 2 / 45 - 1, (x + 0.5) * 2 / 38 - 1)
    np.testing.assert_allclose(out[:, r >= 1], patch[:, r >= 1], atol=1e-4)
    assert np.abs(out - patch)[:, r < 0.8].mean() > 0.02


def test_swirl_turns_by_the_angle_of_its_radius():
    side = 101
    rows = np.arange(side)[:, None].repeat(side, axis=1)
    image = (rows / side).astype(np.float32)[None]  # the value tells the row it came from
    out = make("swirl").apply(image, {"severity": 1.0, "angle": 1.2})[0]
    for row, col in [(50, 80), (30, 50), (60, 60), (40, 75)]:
        v, u = (row + 0.5) * 2 / side - 1, (col + 0.5) * 2 / side - 1
        a = 1.2 * (1 - np.hypot(v, u))
        source = ((v * np.cos(a) + u * np.sin(a)) + 1) * side / 2 - 0.5
        assert out[row, col] == pytest.approx(source / side, abs=1e-3)


def test_local_scaling_magnifies_the_centre():
    side = 101
    ramp = np.tile(np.linspace(0, 1, side, dtype=np.float32), (side, 1))[None]
    for k in (0.5, -1.0):
        out = make("local_scaling").apply(ramp, {"severity": 1.0, "k": k})[0]
        slope = (out[50, 52] - out[50, 48]) / 4 * (side - 1)
        assert slope == pytest.approx(1 - k, abs=0.03)


def test_elastic_warp_reaches_as_far_as_asked_for():
    h, w = 60, 48
    controls = np.random.default_rng(0).uniform(-1, 1, (2, 7, 8)).tolist()
    for axis, side in ((0, h), (1, w)):
        ramp = np.linspace(0, 1, side, dtype=np.float32)
        image = np.broadcast_to(ramp[:, None] if axis == 0 else ramp, (h, w))[None].copy()
        params = {"severity": 1.0, "controls": controls, "reach": 0.08}
        shift = np.abs(make("elastic_warp").apply(image, params) - image)[0] * (side - 1)
        assert shift.max() <= 0.08 * side + 0.1
        assert shift.max() >= 0.05 * side


@pytest.mark.parametrize("sigma", [1.0, 3.0])
def test_gaussian_blur_against_scipy(patch, sigma):
    out = make("gaussian_blur").apply(patch, {"severity": 1.0, "sigma": sigma})
    expected = ndimage.gaussian_filter(patch, (0, sigma, sigma), mode="mirror", truncate=4)
    np.testing.assert_allclose(out, expected, atol=2e-3)


@pytest.mark.parametrize("fill", ["constant", "mean", "noise"])
def test_inpainting_fills(patch, fill):
    params = {"severity": 1.0, "fill": fill, "value": 0.3, "opacity": 1.0, "seed": 1}
    out = make("inpainting").apply(patch, params)
    if fill == "constant":
        np.testing.assert_allclose(out, 0.3, atol=1e-6)
    elif fill == "mean":
        np.testing.assert_allclose(out, patch.mean((1, 2), keepdims=True) + 0 * patch, atol=1e-6)
    else:
        assert out.mean() == pytest.approx(0.5, abs=0.03) and (out[0] == out[2]).all()
        assert out.std() == pytest.approx(np.sqrt(1 / 12), rel=0.1)


def test_grid_dropout_has_holes_of_the_size_asked_for(patch):
    params = {
        "severity": 1.0,
        "period": 9,
        "hole": 4,
        "offset": [0, 0],
        "fill": "zero",
        "opacity": 1.0,
    }
    out = make("grid_dropout").apply(patch, params)
    y, x = np.mgrid[0:45, 0:38]
    holes = (y % 9 < 4) & (x % 9 < 4)
    assert (out[:, holes] == 0).all()
    np.testing.assert_array_equal(out[:, ~holes], patch[:, ~holes])


def test_perlin_texture_touches_only_its_mask(patch):
    covered = []
    for seed in range(20):
        params = make("perlin_texture").sample(np.random.default_rng(seed), (45, 38), 1.0)
        out = make("perlin_texture").apply(patch, params)
        covered.append((out[1] != patch[1]).mean())
    assert 0.3 < np.mean(covered) < 0.7
