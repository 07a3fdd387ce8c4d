"""Every parameter that is drawn counts, and every key of the configuration is read."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import interpolate, ndimage

from fuzz_distortions import phantom_slice
from mrssl.config import get_cfg
from mrssl.distortions import (
    Distorter,
    Distortion,
    DistortionContext,
    RegionSampler,
    build_distortions,
)
from mrssl.distortions.base import Stage

from .conftest import make


@pytest.mark.parametrize("scale", [0.7, 1.4])
def test_cut_paste_scales_and_turns_its_piece(scale):
    rows, columns = np.mgrid[:80, :90].astype(np.float32)
    slope_y, slope_x = 0.002, 0.004
    image = (0.2 + slope_y * rows + slope_x * columns)[None]
    params = {"severity": 1.0, "place": [0.5, 0.5], "degrees": 30.0, "scale": scale, "gain": 1.0}
    out = make("cut_paste").apply(
        image[:, 10:31, 20:41], params | {"opacity": 1.0},
        context=DistortionContext(image, (20, 10, 41, 31)),
    )[0]  # fmt: skip
    along_y, along_x = (np.diff(out[5:16, 5:16], axis=axis).mean() for axis in (0, 1))
    cos, sin = scale * np.cos(np.pi / 6), scale * np.sin(np.pi / 6)
    assert along_x == pytest.approx(cos * slope_x - sin * slope_y, rel=0.02)
    assert along_y == pytest.approx(sin * slope_x + cos * slope_y, rel=0.02)


def test_the_texture_of_perlin_texture_varies(patch):
    params = make("perlin_texture").sample(np.random.default_rng(0), (45, 38), 1.0)
    out = make("perlin_texture").apply(patch, params | {"opacity": 1.0})
    assert out[1][out[1] != patch[1]].std() > 0.05


def test_holes_of_grid_dropout_may_have_the_mean(patch):
    params = {"severity": 1.0, "period": 9, "hole": 4, "offset": [2, 5], "opacity": 0.6}
    out = make("grid_dropout").apply(patch, params | {"fill": "mean"})
    y, x = np.mgrid[0:45, 0:38]
    holes = ((y + 2) % 9 < 4) & ((x + 5) % 9 < 4)
    expected = np.where(holes, 0.4 * patch + 0.6 * patch.mean((1, 2), keepdims=True), patch)
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_elastic_warp_is_the_displacement_of_its_splines(patch):
    h, w = patch.shape[1:]
    controls = np.random.default_rng(0).uniform(-1, 1, (2, 7, 8))
    params = {"severity": 1.0, "controls": controls.tolist(), "reach": 0.05}
    out = make("elastic_warp").apply(patch, params)
    bases = [
        interpolate.BSpline.design_matrix(
            (np.arange(side) + 0.5) * (cells / side), np.arange(-3, cells + 4.0), 3
        ).toarray()
        for side, cells in ((h, 4), (w, 5))
    ]
    shift = np.stack([bases[0] @ c @ bases[1].T for c in controls])
    shift *= 0.05 / np.abs(shift).max((1, 2), keepdims=True)
    y, x = np.mgrid[:h, :w] + shift * np.array([h, w])[:, None, None]
    for found, channel in zip(out, patch, strict=True):
        expected = ndimage.map_coordinates(channel, [y, x], order=1, mode="mirror")
        np.testing.assert_allclose(found, expected, atol=5e-3)


def test_severity_sets_the_share_of_blocks_and_the_least_motion():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        swap = make("patch_swap").sample(rng, (40, 40), 1.0)
        assert len(swap["pairs"]) == swap["grid"][0] * swap["grid"][1] // 2
        assert len(make("patch_swap").sample(rng, (40, 40), 0.01)["pairs"]) == 1
        for *_, degrees, dy, dx in make("motion").sample(rng, (40, 60), 0.8)["events"]:
            assert 0.5 <= abs(degrees) / (0.8 * 15) <= 1
            assert 0.5 <= abs(dy) / (0.8 * 0.15 * 40) <= 1
            assert 0.5 <= abs(dx) / (0.8 * 0.15 * 60) <= 1


def test_every_key_of_the_configuration_is_read():
    cfg = get_cfg()
    node = cfg.MRSSL.PRETEXT
    node.TOLERANCE, node.MIN_CHANGED, node.CLEAN_SHARE, node.ALL_CHANNELS = 0.05, 0.2, 0.3, 0.4
    node.COMPOSE, node.SEVERITY = (2, 3), (0.4, 0.6)
    node.REGION_SIZE, node.FEATHER, node.MIN_FOREGROUND = (0.1, 0.2), (0.01, 0.02), 0.7
    distorter = Distorter.from_config(cfg)
    assert (distorter.tolerance, distorter.min_changed) == (0.05, 0.2)
    assert (distorter.clean_share, distorter.all_channels) == (0.3, 0.4)
    assert (distorter.compose, distorter.severity) == ((2, 3), (0.4, 0.6))
    regions = distorter.regions
    assert (regions.size, regions.feather) == ((0.1, 0.2), (0.01, 0.02))
    assert regions.min_foreground == 0.7


class Nothing(Distortion):
    """Changes nothing, whatever is drawn."""

    name = "nothing"
    stage = Stage.NOISE

    def _sample(self, rng, shape, severity):
        return {}

    def _apply(self, patch, params, context):
        return patch.copy()


def test_a_type_that_changed_nothing_is_in_no_label():
    rng = np.random.default_rng(0)
    image = np.stack([phantom_slice(rng, (128, 144)) for _ in range(3)])
    sampler = RegionSampler(regions=(3, 3))
    types = [*build_distortions(["inpainting"]), Nothing()]
    options = {"clean_share": 0.0, "severity": (1.0, 1.0)}
    both = Distorter(sampler, types, compose=(2, 2), **options)
    alone = Distorter(sampler, types[:1], **options)
    for seed in range(5):
        assert len(alone(image, np.random.default_rng(seed)).masks) > 0
        assert len(both(image, np.random.default_rng(seed)).masks) == 0
