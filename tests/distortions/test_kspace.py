"""Oracles: what a k-space distortion was asked for is found in k-space."""

from __future__ import annotations

import numpy as np
import pytest

from mrssl.distortions import DISTORTION_REGISTRY
from mrssl.distortions.kspace import modulate_lines, move
from mrssl.distortions.resolution import crop_kspace


def smooth(h: int = 48, w: int = 40, seed: int = 0) -> np.ndarray:
    """A band-limited image well inside (0, 1), so that neither modulus nor clipping acts."""
    rng = np.random.default_rng(seed)
    k = np.zeros((h, w), dtype=complex)
    k[:5, :5] = rng.standard_normal((5, 5)) + 1j * rng.standard_normal((5, 5))
    k[0, 0] = 0
    image = np.fft.ifft2(k).real
    return (0.5 + 0.05 * image / np.abs(image).max()).astype(np.float32)[None]


def make(name: str):
    return DISTORTION_REGISTRY.get(name)()


def test_lines_are_multiplied_by_the_gain():
    image = smooth()
    gain = 1 + 0.1 * np.cos(2 * np.pi * np.arange(48) / 8)  # Hermitian: the image stays real
    for axis, g in ((-2, gain), (-1, 1 + 0.1 * np.cos(2 * np.pi * np.arange(40) / 8))):
        out = modulate_lines(image, g, axis)
        shaped = g[:, None] if axis == -2 else g
        expected = np.fft.fft(image, axis=axis) * shaped
        np.testing.assert_allclose(np.fft.fft(out, axis=axis), expected, atol=2e-5)


@pytest.mark.parametrize("axis", [-2, -1])
def test_ghosts_have_the_displacement_and_amplitude_asked_for(axis):
    point = np.zeros((1, 48, 48), dtype=np.float32)
    point[0, 10, 10] = 1.0
    params = {"severity": 1.0, "axis": axis, "period": 4.0, "phase": 0.0, "intensity": 0.3}
    out = make("ghosting").apply(point, params)[0]
    expected = np.zeros((48, 48))
    expected[10, 10] = 1.0
    for shift in (12, -12):  # 48 lines / period 4
        place = [10, 10]
        place[axis] += shift
        expected[tuple(np.mod(place, 48))] = 0.3
    np.testing.assert_allclose(out, expected, atol=1e-6)


def blob(length: int, centre: float) -> np.ndarray:
    """A blob in a row of pixels, smooth enough to lie between them."""
    x = np.arange(length) - centre
    return np.exp(-(x**2) / 8).astype(np.float32)[None, None].repeat(12, axis=1)


def centre_and_share(row: np.ndarray, near: float, whole: np.ndarray) -> tuple[float, float]:
    """Of what lies within 5 pixels of a place: its centre of mass, and its share of ``whole``."""
    x = np.arange(len(row))
    part = np.where(np.abs(x - near) <= 5, row, 0)
    return float((x * part).sum() / part.sum()), float(part.sum() / whole.sum())


@pytest.mark.parametrize(("length", "period"), [(60, 5.5), (61, 4.7)])
def test_ghosts_of_a_period_that_divides_no_field_of_view_are_copies_still(length, period):
    image, apart = blob(length, 30), length / period
    params = {"severity": 1.0, "axis": -1, "period": period, "phase": 0.0, "intensity": 0.3}
    out = make("ghosting").apply(image, params)[0, 6]
    for shift, amplitude in ((0, 1.0), (apart, 0.3), (-apart, 0.3)):
        found = centre_and_share(out, 30 + shift, image[0, 6])
        assert found == pytest.approx((30 + shift, amplitude), abs=0.05)


def test_ghosting_leaves_the_mean_brightness_alone():
    rng = np.random.default_rng(0)
    flat = np.full((1, 41, 40), 0.5, np.float32)
    for _ in range(50):
        params = make("ghosting").sample(rng, (41, 40), 1.0)
        np.testing.assert_allclose(make("ghosting").apply(flat, params), flat, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3])
def test_aliasing_sums_displaced_copies(factor):
    image = np.random.default_rng(0).random((3, 48, 36), dtype=np.float32)
    params = {"severity": 1.0, "axis": -2, "factor": factor, "weakening": 1.0}
    out = make("aliasing").apply(image, params)
    copies = [np.roll(image, i * 48 // factor, axis=-2) for i in range(factor)]
    np.testing.assert_allclose(out, np.mean(copies, axis=0), atol=1e-5)
    kept = np.abs(np.fft.fft(out, axis=-2))
    assert kept[:, np.arange(48) % factor != 0].max() < 1e-3


@pytest.mark.parametrize(("length", "factor"), [(61, 2), (61, 3), (64, 3)])
def test_aliasing_folds_over_where_the_lines_are_no_multiple_of_the_factor(length, factor):
    image = blob(length, 12)
    params = {"severity": 1.0, "axis": -1, "factor": factor, "weakening": 1.0}
    out = make("aliasing").apply(image, params)[0, 6]
    for copy in range(factor):
        place = 12 + copy * length / factor
        found = centre_and_share(out, place, image[0, 6])
        assert found == pytest.approx((place, 1 / factor), abs=0.05)


def test_aliasing_weakens_by_the_share_asked_for():
    gain = make("aliasing").gain(12, {"factor": 3, "weakening": 0.4})
    assert gain.tolist() == pytest.approx([1, 0.6, 0.6] * 4)


@pytest.mark.parametrize("shape", [(48, 40), (31, 45)])
def test_spikes_stand_where_and_as_high_as_asked_for(shape):
    image = smooth(*shape)
    v, u, phase, intensity = 9, -7, 0.8, 0.05
    params = {"severity": 1.0, "intensity": intensity, "spikes": [[v, u, phase]]}
    out = make("kspace_spikes").apply(image, params)
    added = np.fft.fft2(out[0].astype(np.float64)) - np.fft.fft2(image[0].astype(np.float64))
    dc = np.fft.fft2(image[0])[0, 0].real
    expected = np.zeros(shape, dtype=complex)
    expected[v, u] = intensity * dc * np.exp(1j * phase)
    expected[-v, -u] = np.conj(expected[v, u])
    np.testing.assert_allclose(added, expected, atol=1e-4 * dc)


def test_motion_takes_each_line_from_the_pose_of_its_time():
    image = np.random.default_rng(0).random((2, 32, 24), dtype=np.float32)
    motion = make("motion")
    for axis in (-2, -1):
        length = image.shape[axis]
        events = [[0, 12, 5.0, 2.0, -1.0], [length - 10, length, -8.0, 0.0, 3.0]]
        lines = np.fft.fftshift(motion.lines(image, {"axis": axis, "events": events}), axes=axis)
        poses = [image, move(image, 5.0, 2.0, -1.0), move(image, -8.0, 0.0, 3.0)]
        moment = np.zeros(length, dtype=int)
        moment[:12], moment[length - 10 :] = 1, 2
        for j in range(length):
            k = np.fft.fftshift(np.fft.fft(poses[moment[j]], axis=axis), axes=axis)
            np.testing.assert_allclose(lines.take(j, axis), k.take(j, axis), atol=1e-4)


def test_motion_spares_the_centre_of_kspace():
    rng = np.random.default_rng(0)
    for draw in range(60):
        shape = [(40, 60), (6, 8), (12, 9)][draw % 3]
        params = make("motion").sample(rng, shape, 1.0)
        length = shape[params["axis"]]
        image = rng.random((1, *shape), dtype=np.float32)
        lines = make("motion").lines(image, params)
        clean = np.fft.fft(image, axis=params["axis"])
        assert not any(length // 2 in range(*event[:2]) for event in params["events"])
        np.testing.assert_allclose(
            lines.take(0, params["axis"]), clean.take(0, params["axis"]), atol=1e-4
        )


def test_move_displaces_by_whole_pixels_exactly():
    image = np.random.default_rng(0).random((1, 20, 20), dtype=np.float32)
    moved = move(image, 0.0, 3.0, -2.0)
    np.testing.assert_allclose(moved[0, 3:, :-2], image[0, :-3, 2:], atol=1e-6)


@pytest.mark.parametrize("axis", [-2, -1])
def test_gibbs_keeps_the_lines_asked_for_and_no_other(axis):
    rng = np.random.default_rng(0)
    image = 0.5 + 0.02 * rng.standard_normal((1, 40, 48)).astype(np.float32)
    out = make("gibbs_ringing").apply(image, {"severity": 1.0, "axis": axis, "half_width": 6})
    before, after = (np.fft.fft(a, axis=axis) for a in (image, out))
    frequency = np.abs(np.fft.fftfreq(image.shape[axis], 1 / image.shape[axis]))
    kept = frequency <= 6
    index = np.flatnonzero(kept)
    np.testing.assert_allclose(after.take(index, axis), before.take(index, axis), atol=1e-4)
    assert np.abs(after.take(np.flatnonzero(~kept), axis)).max() < 1e-4


def test_gibbs_overshoots_an_edge_by_nine_percent():
    edge = np.full((1, 128, 8), 0.3, dtype=np.float32)
    edge[:, 32:96] = 0.7
    out = make("gibbs_ringing").apply(edge, {"severity": 1.0, "axis": -2, "half_width": 20})
    assert (out.max() - 0.7) / 0.4 == pytest.approx(0.0895, abs=0.02)


@pytest.mark.parametrize("shape", [(48, 40), (31, 45), (32, 33)])
@pytest.mark.parametrize("matrix", [(12, 10), (11, 13), (12, 13), (13, 10)])
def test_low_resolution_keeps_the_centre_of_kspace(shape, matrix):
    image = np.random.default_rng(0).random((2, *shape), dtype=np.float32) * 0.2 + 0.4
    coarse = crop_kspace(image, matrix)
    before = np.fft.fft2(image) / (shape[0] * shape[1])
    after = np.fft.fft2(coarse) / (matrix[0] * matrix[1])
    first = [(n / m - 1) / 2 for n, m in zip(shape, matrix, strict=True)]  # its centre, in pixels
    for v in range(-((matrix[0] - 1) // 2), (matrix[0] - 1) // 2 + 1):
        for u in range(-((matrix[1] - 1) // 2), (matrix[1] - 1) // 2 + 1):
            moved = np.exp(2j * np.pi * (v * first[0] / shape[0] + u * first[1] / shape[1]))
            np.testing.assert_allclose(after[:, v, u], before[:, v, u] * moved, atol=1e-6)
    np.testing.assert_allclose(coarse.mean((1, 2)), image.mean((1, 2)), rtol=1e-5)


@pytest.mark.parametrize(("length", "matrix"), [(40, 8), (40, 10), (41, 9), (40, 20), (60, 17)])
def test_low_resolution_displaces_nothing(length, matrix):
    """Each large voxel is shown where it is, so that what is seen stays in its place."""
    errors = []
    for centre in length / 2 + length / matrix * np.linspace(-1, 1, 48, endpoint=False):
        image = blob(length, centre)
        params = {"severity": 1.0, "matrix": [12, matrix]}
        out = make("low_resolution").apply(image, params)[0, 6]
        errors.append((np.arange(length) * out).sum() / out.sum() - centre)
    assert abs(np.mean(errors)) < 0.2


def test_low_resolution_shows_the_voxels_of_the_matrix():
    image = np.random.default_rng(0).random((1, 40, 30), dtype=np.float32)
    out = make("low_resolution").apply(image, {"severity": 1.0, "matrix": [8, 6]})
    blocks = out.reshape(8, 5, 6, 5)
    assert (blocks == blocks[:, :1, :, :1]).all()
    np.testing.assert_array_equal(blocks[:, 0, :, 0], crop_kspace(image, (8, 6))[0].clip(0, 1))


def test_full_matrix_is_no_change():
    image = np.random.default_rng(0).random((1, 32, 30), dtype=np.float32)
    np.testing.assert_allclose(crop_kspace(image, (32, 30)), image, atol=1e-6)


def test_zipper_is_a_tone_of_constant_modulus_in_each_readout():
    image = np.full((1, 24, 40), 0.5, dtype=np.float32)
    params = {
        "severity": 1.0, "axis": -1, "starts": [13], "width": 1, "amplitude": 0.4, "seed": 4
    }  # fmt: skip
    out = make("zipper").apply(image, params)
    readouts = np.fft.fft(out[0] - image[0], axis=-1)
    modulus = np.abs(readouts)
    np.testing.assert_allclose(modulus, modulus[:, :1].repeat(40, axis=1), atol=1e-5)
    # Its frequency is the place of the line: the phase advances by 2 pi 13 / 40 a sample.
    step = np.angle(readouts[:, 1] / readouts[:, 0])
    np.testing.assert_allclose(step, -2 * np.pi * 13 / 40, atol=1e-4)
    assert modulus.min() >= 0.2 - 1e-6 and modulus.max() <= 0.4 + 1e-6
    assert (np.sign(out[0, :, 13] - 0.5) == np.where(np.arange(24) % 2, -1, 1)).all()
