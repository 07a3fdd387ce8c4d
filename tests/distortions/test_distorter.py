"""Composition, annotation, curricula and replay."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from fuzz_distortions import phantom_slice
from mrssl.config import get_cfg
from mrssl.distortions import (
    Curriculum,
    DistortedSlice,
    Distorter,
    RegionSampler,
    build_distortions,
    registered_names,
    replay,
)
from mrssl.distortions.alpha import BLIND_SHAPES, SHAPES
from mrssl.errors import MrsslError


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([phantom_slice(rng, (128, 144)) for _ in range(3)])


@pytest.fixture(scope="module")
def donor() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([phantom_slice(rng, (128, 144)) for _ in range(3)])


def make(
    names=("all",), regions=(3, 3), separation=1.0, shapes=BLIND_SHAPES, **options
) -> Distorter:
    sampler = RegionSampler(regions=regions, separation=separation, shapes=shapes)
    return Distorter(sampler, build_distortions(names), **{"clean_share": 0.0, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compose": (2, 4)},
        {"separation": 0.2, "regions": (5, 5)},
        {"separation": 0.2, "regions": (5, 5), "shapes": SHAPES},
    ],
)
def test_replay_from_json_is_bitwise_the_sample(options, image, donor):
    distorter = make(all_channels=0.5, **options)
    regions = 0
    for seed in range(60):
        out = distorter(image, np.random.default_rng(seed), donor=donor if seed % 2 else None)
        records = json.loads(json.dumps(out.records))
        again = replay(image, records, donor=donor if seed % 2 else None)
        assert again.tobytes() == out.image.tobytes()
        regions += len(records)
    assert regions > 60


def test_a_graft_ends_on_the_border_of_its_box_whatever_the_shape(image, donor):
    """An outline inside the box would cut through what was fitted to the box."""
    sampler = RegionSampler(regions=(3, 3), shapes=("ellipse",), feather=(0.0, 0.0))
    distorter = Distorter(sampler, build_distortions(["poisson_blend"]), clean_share=0.0)
    in_corners = 0
    for seed in range(20):
        out = distorter(image, np.random.default_rng(seed), donor=donor)
        for record in out.records:
            x0, y0, x1, y1 = record["box"]
            change = (out.image - out.clean)[:, y0:y1, x0:x1]
            for edge in (np.s_[:, 0], np.s_[:, -1], np.s_[:, :, 0], np.s_[:, :, -1]):
                np.testing.assert_allclose(change[edge], 0, atol=1e-5)
            rows, columns = np.mgrid[-1 : 1 : 1j * (y1 - y0), -1 : 1 : 1j * (x1 - x0)]
            in_corners += np.count_nonzero(change[1][rows**2 + columns**2 > 1.2])
    assert in_corners > 0


def test_same_generator_same_sample(image, donor):
    a, b = (make()(image, np.random.default_rng(9), donor=donor) for _ in range(2))
    assert a.records == b.records and a.image.tobytes() == b.image.tobytes()
    c = make()(image, np.random.default_rng(10), donor=donor)
    assert c.records != a.records


def test_shapes_and_dtypes_also_without_regions(image):
    for distorter in (make(), make(clean_share=1.0), make(regions=(0, 0))):
        out = distorter(image, np.random.default_rng(0))
        n = len(out.masks)
        assert out.image.shape == image.shape and out.image.dtype == np.float32
        assert out.masks.shape == (n, 128, 144) and out.masks.dtype == bool
        assert out.types.shape == (n, len(distorter.type_names)) and out.types.dtype == np.float32
        assert len(out.records) == n
        if n == 0:
            assert out.image is image


def test_clean_share_is_kept(image):
    distorter = make(["gamma"], clean_share=0.4)
    rng = np.random.default_rng(0)
    clean = [len(distorter(image, rng).masks) == 0 for _ in range(500)]
    assert np.mean(clean) == pytest.approx(0.4, abs=0.07)


def test_composed_types_are_multi_hot_in_the_order_of_a_scan(image, donor):
    distorter = make(compose=(2, 3), severity=(0.7, 1.0))
    stages = {d.name: d.stage for d in distorter.distortions}
    sizes = set()
    for seed in range(40):
        out = distorter(image, np.random.default_rng(seed), donor=donor)
        for row, record in zip(out.types, out.records, strict=True):
            names = [step["name"] for step in record["distortions"]]
            assert sorted(names) == [
                name for name, on in zip(distorter.type_names, row, strict=True) if on
            ]
            order = [stages[name] for name in names]
            assert order == sorted(order)
            sizes.add(len(names))
    assert sizes == {2, 3}


def test_every_type_named_changes_enough_pixels(image, donor):
    """No type is only in the label: each step alone moves the share asked for."""
    distorter = make(compose=(1, 3), min_changed=0.3)
    for seed in range(30):
        out = distorter(image, np.random.default_rng(seed), donor=donor)
        for mask, record in zip(out.masks, out.records, strict=True):
            x0, y0, x1, y1 = record["box"]
            # A blob's support is unknown here; it is at least a third of its box.
            assert mask.sum() >= 0.3 * 0.33 * (x1 - x0) * (y1 - y0)


def test_nothing_changes_at_severity_zero(image):
    out = make(severity=(0.0, 0.0))(image, np.random.default_rng(0))
    assert len(out.masks) == 0 and out.image.tobytes() == image.tobytes()


def test_unchanged_regions_are_kept_where_they_are_asked_for(image):
    kept = make(severity=(0.0, 0.0), keep_unchanged=True)(image, np.random.default_rng(0))
    assert len(kept.masks) == len(kept.records) == 3 and kept.types.sum() == 3
    assert kept.image.tobytes() == image.tobytes() and not kept.masks.any()
    assert all(record["unchanged"] for record in kept.records)


def test_the_regions_depend_on_neither_type_nor_severity(image):
    places = [
        [
            record["box"]
            for record in make([name], severity=(severity, severity), keep_unchanged=True)(
                image, np.random.default_rng(4)
            ).records
        ]
        for name in ("gamma", "zipper", "motion")
        for severity in (0.0, 0.3, 1.0)
    ]
    assert places[0] and all(place == places[0] for place in places)


def test_keeping_the_unchanged_changes_nothing_else(image, donor):
    for seed in range(10):
        kept, usual = (
            make(keep_unchanged=keep, min_changed=0.0, severity=(0.9, 1.0))(
                image, np.random.default_rng(seed), donor=donor
            )
            for keep in (True, False)
        )
        if len(usual.masks) == len(kept.masks):
            assert usual.records == kept.records
            assert np.array_equal(usual.masks, kept.masks)


def test_flat_slices_are_not_labelled():
    for value in (0.0, 1.0):
        flat = np.full((3, 64, 64), value, dtype=np.float32)
        distorter = make(["local_shuffle", "gaussian_blur", "rotation", "patch_swap"])
        for seed in range(20):
            out = distorter(flat, np.random.default_rng(seed))
            assert len(out.masks) == 0


def test_weights_set_the_frequencies(image):
    distorter = make(["gamma", "inpainting", "rotation"], weights=(1, 3, 0), severity=(0.8, 1.0))
    totals = sum(distorter(image, np.random.default_rng(s)).types.sum(0) for s in range(200))
    assert totals[2] == 0
    assert totals[1] / totals.sum() == pytest.approx(0.75, abs=0.06)


def test_types_are_drawn_alike_without_weights(image, donor):
    distorter = make(severity=(0.5, 1.0))
    totals = sum(
        distorter(image, np.random.default_rng(s), donor=donor).types.sum(0) for s in range(700)
    )
    share = totals / totals.sum() * len(totals)
    assert share.min() > 0.5 and share.max() < 1.6


def test_choice_of_channels_is_recorded(image):
    distorter = make(["inpainting"], all_channels=0.5)
    seen = set()
    for seed in range(20):
        out = distorter(image, np.random.default_rng(seed))
        for record in out.records:
            seen.add(record["channels"])
            x0, y0, x1, y1 = record["box"]
            moved = (out.image[:, y0:y1, x0:x1] != image[:, y0:y1, x0:x1]).any(axis=(1, 2))
            assert moved.tolist() == [
                record["channels"] == "all",
                True,
                record["channels"] == "all",
            ]
    assert seen == {"all", "middle"}


def test_curricula_move_severity_and_number(image):
    distorter = make(
        ["inpainting"],
        regions=(1, 6),
        severity=(0.3, 1.0),
        severity_curriculum=Curriculum([(0, 0.2), (100, 1.0)]),
        regions_curriculum=Curriculum([(0, 1 / 6), (100, 1.0)]),
    )

    def severities(iteration: int) -> list[list[float]]:
        drawn = [distorter(image, np.random.default_rng(s), iteration=iteration) for s in range(60)]
        return [[r["distortions"][0]["params"]["severity"] for r in out.records] for out in drawn]

    early, late = severities(0), severities(1000)
    assert max(map(len, early)) == 1 and max(map(len, late)) > 3
    early_values, late_values = (np.concatenate(drawn) for drawn in (early, late))
    assert early_values.max() <= 0.2
    assert late_values.max() > 0.8 and late_values.min() >= 0.3


def test_curriculum_is_linear_between_points_and_constant_outside():
    curve = Curriculum([(10, 0.0), (20, 1.0), (40, 0.5)])
    assert [curve(i) for i in (0, 10, 15, 20, 30, 99)] == [0.0, 0.0, 0.5, 1.0, 0.75, 0.5]
    assert Curriculum()(123) == 1.0
    for points in ([(0, 2.0)], [(5, 0.1), (5, 0.2)], [1, 2], [(3, 1, 1)]):
        with pytest.raises(MrsslError, match="curriculum"):
            Curriculum(points)


def test_from_config_reads_the_keys_and_sorts_weights_with_names(image):
    cfg = get_cfg()
    node = cfg.MRSSL.PRETEXT
    node.DISTORTIONS, node.WEIGHTS = ("swirl", "gamma"), (0.0, 1.0)
    node.SEVERITY_CURRICULUM = ((0, 0.5), (10, 1.0))
    node.CLEAN_SHARE = 0.0
    distorter = Distorter.from_config(cfg)
    assert distorter.type_names == ["gamma", "swirl"]
    out = [distorter(image, np.random.default_rng(s)) for s in range(10)]
    assert sum(o.types[:, 0].sum() for o in out) > 0 and not any(o.types[:, 1].any() for o in out)
    assert distorter.severity_curriculum(5) == 0.75
    assert Distorter.from_config(get_cfg()).type_names == registered_names()


def test_a_type_named_beside_all_is_drawn_that_much_more_often():
    cfg = get_cfg()
    cfg.MRSSL.PRETEXT.DISTORTIONS = ("all", "motion", "motion")
    distorter = Distorter.from_config(cfg)
    assert distorter.type_names == registered_names()
    drawn = [distorter._draw_types(np.random.default_rng(n))[0].name for n in range(6000)]
    share = 3 / (len(registered_names()) + 2)
    assert drawn.count("motion") / 6000 == pytest.approx(share, rel=0.15)


def test_composition_overlap_channels_and_curricula_by_config(image, donor):
    cfg = get_cfg()
    node = cfg.MRSSL.PRETEXT
    node.REGIONS, node.SEPARATION, node.REGION_SIZE = (1, 6), 0.1, (0.3, 0.4)
    node.COMPOSE, node.CLEAN_SHARE, node.ALL_CHANNELS = (2, 2), 0.0, 0.0
    node.SEVERITY, node.MIN_CHANGED = (0.8, 1.0), 0.05
    node.REGIONS_CURRICULUM = ((0, 0.0), (10, 1.0))
    distorter = Distorter.from_config(cfg)

    def draws(iteration: int) -> list[DistortedSlice]:
        rngs = (np.random.default_rng(seed) for seed in range(20))
        return [distorter(image, rng, donor=donor, iteration=iteration) for rng in rngs]

    early, late = draws(0), draws(10)
    assert max(len(out.masks) for out in early) == 1 and max(len(out.masks) for out in late) > 3
    assert all((out.types.sum(axis=1) == 2).all() for out in late)
    assert any((out.masks.sum(axis=0) > 1).any() for out in late), "regions overlap"
    assert {record["channels"] for out in late for record in out.records} == {"middle"}


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"weights": (1.0,)}, "WEIGHTS"),
        ({"weights": (0.0, 0.0)}, "WEIGHTS"),
        ({"weights": (1.0, -1.0)}, "WEIGHTS"),
        ({"compose": (0, 1)}, "COMPOSE"),
        ({"compose": (1, 3)}, "COMPOSE"),
        ({"severity": (0.5, 1.5)}, "SEVERITY"),
        ({"clean_share": 1.5}, "CLEAN_SHARE"),
        ({"tolerance": -0.1}, "TOLERANCE"),
        ({"min_changed": 2.0}, "MIN_CHANGED"),
        ({"all_channels": -1.0}, "ALL_CHANNELS"),
    ],
)
def test_impossible_values_are_told(options, key):
    with pytest.raises(MrsslError, match=rf"MRSSL\.PRETEXT\.{key}:"):
        make(["gamma", "swirl"], **options)


def test_memory_does_not_grow_with_the_number_of_samples(image, donor):
    distorter = make()

    def run(first: int, last: int) -> None:
        for seed in range(first, last):
            distorter(image, np.random.default_rng(seed), donor=donor)

    run(0, 400)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    run(400, 600)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 400_000  # bytes; one sample alone is 800 kB
