"""Region shapes and their placement."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from fuzz_distortions import phantom_slice
from mrssl.config import get_cfg
from mrssl.distortions import Region, RegionSampler
from mrssl.distortions.alpha import SHAPES, render_alpha
from mrssl.errors import MrsslError
from mrssl.structures.foreground import foreground_mask


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("shape", [(40, 30), (31, 31), (6, 17)])
@pytest.mark.parametrize("feather", [0.0, 0.05, 0.3])
def test_alpha_is_soft_inside_and_full_in_the_middle(kind, shape, feather):
    flat = np.full(shape, 0.5, np.float32)
    alpha = render_alpha(kind, shape, feather, 3, flat)
    assert alpha.dtype == np.float32 and alpha.shape == shape
    assert alpha.min() >= 0 and alpha.max() <= 1
    assert alpha[shape[0] // 2, shape[1] // 2] > 0.4
    if feather == 0:
        assert set(np.unique(alpha)) <= {0.0, 1.0}
    elif feather * min(shape) > 1:
        assert alpha[0].max() < 0.8 and alpha[:, 0].max() < 0.8  # no seam at the box
    assert np.array_equal(alpha, render_alpha(kind, shape, feather, 3, flat))


def test_rectangle_feather_has_the_width_asked_for():
    profile = render_alpha("rectangle", (100, 100), 0.1, seed=0)[50]
    assert (
        (profile[:10] < 1).all()
        and (profile[10:90] == 1).all()
        and (np.diff(profile[:11]) > 0).all()
    )
    np.testing.assert_allclose(profile, profile[::-1], atol=1e-5)
    # Smoothstep at the centre of pixel 4: t = 0.45.
    assert profile[4] == pytest.approx(0.45**2 * (3 - 2 * 0.45), abs=1e-5)


def test_ellipse_has_the_area_of_an_ellipse():
    assert render_alpha("ellipse", (80, 60), 0.0, 0).mean() == pytest.approx(np.pi / 4, abs=0.01)


def test_blobs_differ_by_seed_and_fill_their_box_well():
    blobs = [render_alpha("blob", (50, 50), 0.05, seed) for seed in range(40)]
    assert all(not np.array_equal(blobs[0], other) for other in blobs[1:])
    assert 0.4 < np.mean([blob.mean() for blob in blobs]) < 0.9


def two_tissues(edge: int = 25) -> np.ndarray:
    """Two tissues side by side, with noise and a hole in the left one."""
    image = np.where(np.arange(50) < edge, 0.3, 0.6) + np.zeros((50, 1))
    image[24:27, 14:17] = 0.9
    return (image + 0.01 * np.random.default_rng(0).standard_normal(image.shape)).astype(np.float32)


def test_tissue_ends_where_the_intensity_does():
    patch = two_tissues()
    for seed in range(20):
        blob = render_alpha("blob", (50, 50), 0.0, seed)
        left, right = blob[:, :24].sum(), blob[:, 26:].sum()
        alpha = render_alpha("tissue", (50, 50), 0.0, seed, patch)
        assert (alpha <= blob).all()
        # Where it is grown from is on one side or the other; the whole of that side is it.
        shares = sorted([alpha[:, :24].sum() / left, alpha[:, 26:].sum() / right])
        assert shares[0] == 0 and shares[1] > 0.85
        if alpha[:, :24].any():
            assert (alpha[24:27, 14:17] == blob[24:27, 14:17]).all()  # holes are filled


def test_tissue_is_never_a_scrap():
    """What is grown may hang together by bridges of a pixel; what is left of it counts."""
    rng = np.random.default_rng(0)
    for seed in range(40):
        patch = cv2.GaussianBlur(rng.random((50, 50), np.float32), (0, 0), 2.0)
        patch = cv2.normalize(patch, None, 0, 1, cv2.NORM_MINMAX)
        blob = render_alpha("blob", (50, 50), 0.0, seed)
        assert render_alpha("tissue", (50, 50), 0.0, seed, patch).sum() >= 0.3 * blob.sum()


def test_tissue_is_a_blob_where_nothing_is_alike():
    noise = np.random.default_rng(0).random((50, 50), np.float32)
    noise = np.where(noise > 0.5, 10 * noise, 0).astype(np.float32)
    for seed in range(5):
        alpha = render_alpha("tissue", (50, 50), 0.1, seed, noise)
        assert np.array_equal(alpha, render_alpha("blob", (50, 50), 0.1, seed))


def test_tissue_needs_the_slice():
    with pytest.raises(MrsslError, match="drawn from the slice"):
        render_alpha("tissue", (20, 20), 0.1, 0)


def test_unknown_shape_is_told():
    with pytest.raises(MrsslError, match="REGION_SHAPES"):
        render_alpha("star", (10, 10), 0.1, 0)


def sample(seed: int, foreground: np.ndarray, **options) -> list[Region]:
    return RegionSampler(**options).sample(np.random.default_rng(seed), foreground)


def test_regions_keep_to_their_ranges_and_to_tissue():
    foreground = foreground_mask(phantom_slice(np.random.default_rng(0), (200, 160)))
    counts = []
    for seed in range(200):
        regions = sample(seed, foreground, regions=(2, 5), size=(0.1, 0.3), min_foreground=0.5)
        counts.append(len(regions))
        for region in regions:
            x0, y0, x1, y1 = region.box
            assert 0 <= x0 < x1 <= 160 and 0 <= y0 < y1 <= 200
            assert 0.1 * 200 - 1 <= y1 - y0 <= 0.3 * 200 + 1
            assert 0.1 * 160 - 1 <= x1 - x0 <= 0.3 * 160 + 1
            assert foreground[region.rows, region.columns].mean() >= 0.5
            assert region.alpha.shape == (y1 - y0, x1 - x0)
    assert max(counts) == 5 and min(counts) >= 1 and np.mean(counts) > 3


@pytest.mark.parametrize("separation", [0.5, 1.0])
def test_centres_are_poisson_discs_apart(separation):
    foreground = np.ones((128, 128), dtype=bool)
    for seed in range(100):
        regions = sample(seed, foreground, regions=(6, 6), separation=separation)
        for i, a in enumerate(regions):
            for b in regions[:i]:
                (ax, ay, ar), (bx, by, br) = (
                    ((r.box[0] + r.box[2]) / 2, (r.box[1] + r.box[3]) / 2, max(r.alpha.shape) / 2)
                    for r in (a, b)
                )
                assert np.hypot(ax - bx, ay - by) >= separation * (ar + br) - 1e-9


def test_less_separation_lets_regions_overlap():
    foreground = np.ones((96, 96), dtype=bool)

    def overlaps(separation: float) -> int:
        count = 0
        for seed in range(50):
            cover = np.zeros((96, 96), dtype=int)
            for r in sample(seed, foreground, regions=(6, 6), separation=separation):
                cover[r.rows, r.columns] += 1
            count += bool((cover > 1).any())
        return count

    assert overlaps(0.3) > 40


def test_no_tissue_no_regions():
    assert sample(0, np.zeros((64, 64), dtype=bool), regions=(3, 3)) == []
    assert sample(0, np.ones((4, 64), dtype=bool), regions=(3, 3)) == []


def test_count_factor_lowers_the_upper_end():
    sampler = RegionSampler(regions=(1, 6), size=(0.05, 0.1))
    foreground = np.ones((256, 256), dtype=bool)
    counts = [
        len(sampler.sample(np.random.default_rng(s), foreground, count_factor=0.5))
        for s in range(100)
    ]
    assert set(counts) == {1, 2, 3}


def test_render_gives_the_same_region_again():
    foreground = np.ones((64, 80), dtype=bool)
    for region in sample(5, foreground, regions=(3, 3)):
        again = Region.render(list(region.box), region.shape, region.feather, region.seed)
        assert again.box == region.box and np.array_equal(again.alpha, region.alpha)


def test_from_config_reads_the_keys():
    cfg = get_cfg()
    cfg.MRSSL.PRETEXT.REGIONS = (2, 3)
    cfg.MRSSL.PRETEXT.REGION_SHAPES = ("ellipse",)
    cfg.MRSSL.PRETEXT.SEPARATION = 0.25
    sampler = RegionSampler.from_config(cfg)
    assert (sampler.regions, sampler.shapes, sampler.separation) == ((2, 3), ("ellipse",), 0.25)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"regions": (3, 2)}, "REGIONS"),
        ({"size": (0.0, 0.2)}, "REGION_SIZE"),
        ({"shapes": ()}, "REGION_SHAPES"),
        ({"shapes": ("star",)}, "REGION_SHAPES"),
        ({"feather": (0.2, 0.1)}, "FEATHER"),
        ({"min_foreground": 1.2}, "MIN_FOREGROUND"),
        ({"separation": -1.0}, "SEPARATION"),
    ],
)
def test_impossible_ranges_are_told(options, key):
    with pytest.raises(MrsslError, match=rf"MRSSL\.PRETEXT\.{key}:"):
        RegionSampler(**options)
