"""What every registered distortion promises. No type is named here: a new one is tested too."""

from __future__ import annotations

import inspect
import json
import re

import numpy as np
import pytest

from fuzz_distortions import fuzz, phantom_slice, read_slices
from mrssl.distortions import (
    DISTORTION_REGISTRY,
    Distorter,
    DistortionContext,
    RegionSampler,
    build_distortions,
    registered_names,
)
from mrssl.errors import MrsslError

NAMES = registered_names()
SHAPES = [(31, 31), (6, 6), (7, 52), (60, 24)]
FULL = RegionSampler(regions=(3, 3), feather=(0.0, 0.15))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.stack([phantom_slice(rng) for _ in range(3)])


@pytest.fixture(scope="module")
def donor() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([phantom_slice(rng, (150, 130)) for _ in range(3)])


def make(name: str):
    return DISTORTION_REGISTRY.get(name)()


def cut(image: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    box = (70, 50, 70 + shape[1], 50 + shape[0])
    return image[:, box[1] : box[3], box[0] : box[2]], box


def test_family_is_complete():
    assert len(NAMES) >= 20
    assert [d.name for d in build_distortions(["all"])] == NAMES
    assert [d.name for d in build_distortions(["swirl", "gamma"])] == ["gamma", "swirl"]
    assert [d.name for d in build_distortions(["all", "gamma", "gamma"])] == NAMES


@pytest.mark.parametrize(
    "names", [["no_such_type"], [], ["gamma", "gamma"], ["all", "no_such_type"]]
)
def test_bad_names_are_told(names):
    with pytest.raises(MrsslError, match=r"MRSSL\.PRETEXT\.DISTORTIONS"):
        build_distortions(names)


@pytest.mark.parametrize("name", NAMES)
def test_documented(name):
    text = DISTORTION_REGISTRY.get(name).__doc__
    assert text and "Severity:" in text
    assert re.search(r"\b(19|20)\d\d\b", text), "a source, with its year"
    assert "``" in text.split("Severity:")[0], "a formula"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_severity_zero_is_bitwise_identity(name, shape, image, donor):
    patch, box = cut(image, shape)
    params = make(name).sample(np.random.default_rng(3), shape, 0.0)
    out = make(name).apply(patch, params, context=DistortionContext(image, box, donor))
    assert out.tobytes() == patch.tobytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("severity", [-0.01, 1.01, float("nan")])
def test_severity_outside_range_is_refused(name, severity):
    with pytest.raises(MrsslError, match=name):
        make(name).sample(np.random.default_rng(0), (20, 20), severity)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels", [1, 3])
def test_deterministic_float32_in_range_and_input_untouched(name, shape, channels, image, donor):
    patch, box = cut(image[:channels], shape)
    for use_donor in (True, False):
        context = DistortionContext(image[:channels], box, donor[:channels] if use_donor else None)
        for severity in (0.05, 0.5, 1.0):
            params = make(name).sample(np.random.default_rng(7), shape, severity)
            before = image.copy()
            first = make(name).apply(patch, params, context=context)
            again = make(name).apply(patch, json.loads(json.dumps(params)), context=context)
            assert first.dtype == np.float32 and first.shape == patch.shape
            assert np.isfinite(first).all() and first.min() >= 0 and first.max() <= 1
            assert first.tobytes() == again.tobytes()
            assert image.tobytes() == before.tobytes()
            assert not np.shares_memory(first, image)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
def test_constant_and_empty_patches(name, value):
    patch = np.full((3, 31, 40), value, dtype=np.float32)
    params = make(name).sample(np.random.default_rng(5), (31, 40), 1.0)
    out = make(name).apply(patch, params)
    assert out.dtype == np.float32 and np.isfinite(out).all()
    assert out.min() >= 0 and out.max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_donor_smaller_than_the_patch(name, image):
    patch, box = cut(image, (60, 50))
    small = np.full((3, 20, 90), 0.8, dtype=np.float32)
    params = make(name).sample(np.random.default_rng(5), (60, 50), 1.0)
    out = make(name).apply(patch, params, context=DistortionContext(image, box, small))
    assert out.shape == patch.shape and np.isfinite(out).all()


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_parameters_other_seed_other_result(name, image):
    patch, box = cut(image, (40, 50))
    context = DistortionContext(image, box)

    def draw(seed: int) -> np.ndarray:
        params = make(name).sample(np.random.default_rng(seed), (40, 50), 0.7)
        return make(name).apply(patch, params, context=context)

    draws = [draw(seed) for seed in range(8)]
    assert draw(0).tobytes() == draws[0].tobytes()
    # A type without a parameter of its own follows from the severity alone.
    drawn = [make(name).sample(np.random.default_rng(s), (40, 50), 0.7) for s in range(8)]
    if any(params != drawn[0] for params in drawn):
        assert any(other.tobytes() != draws[0].tobytes() for other in draws[1:])


@pytest.mark.parametrize("name", NAMES)
def test_effect_grows_with_severity(name, image, donor):
    patch, box = cut(image, (48, 44))
    context = DistortionContext(image, box, donor)
    means = []
    for severity in (0.15, 0.5, 1.0):
        rng = np.random.default_rng(2)
        changes = [
            np.abs(
                make(name).apply(patch, make(name).sample(rng, (48, 44), severity), context=context)
                - patch
            ).mean()
            for _ in range(40)
        ]
        means.append(float(np.mean(changes)))
    assert means[0] < means[1] < means[2]
    assert means[2] > 0.02  # severity 1 can be seen


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("all_channels", [0.0, 1.0])
def test_labels_follow_pixels(name, all_channels, image, donor):
    distorter = Distorter(
        FULL,
        build_distortions([name]),
        clean_share=0.0,
        severity=(0.8, 1.0),
        all_channels=all_channels,
    )
    before = image.copy()
    found = 0
    for seed in range(6):
        out = distorter(image, np.random.default_rng(seed), donor=donor)
        found += len(out.masks)
        assert out.clean is image and image.tobytes() == before.tobytes()
        changed = np.abs(out.image[1] - image[1]) > distorter.tolerance
        assert np.array_equal(out.masks.any(axis=0), changed)
        for mask, record in zip(out.masks, out.records, strict=True):
            x0, y0, x1, y1 = record["box"]
            assert mask.any() and mask[y0:y1, x0:x1].sum() == mask.sum()
        outside = np.ones(image.shape[1:], dtype=bool)
        for x0, y0, x1, y1 in (record["box"] for record in out.records):
            outside[y0:y1, x0:x1] = False
        assert out.image[:, outside].tobytes() == image[:, outside].tobytes()
        if all_channels == 0:
            assert out.image[::2].tobytes() == image[::2].tobytes()
        assert out.types.shape == (len(out.masks), 1) and (out.types == 1).all()
    assert found >= 9  # of 18 asked for: the type can be seen where it is strong


def test_ten_thousand_draws():
    rng = np.random.default_rng(0)
    counts = fuzz(10_000, [phantom_slice(rng) for _ in range(8)], seed=1, seconds=20)
    assert min(counts.values()) > 0


def test_draws_over_real_slices(shared_data):
    slices = read_slices(shared_data, 24, np.random.default_rng(0))
    assert sum(fuzz(3_000, slices, seed=2, seconds=10).values()) > 300


@pytest.mark.parametrize("name", NAMES)
def test_the_document_says_what_the_docstring_says(name, repository_root):
    text = (repository_root / "docs" / "distortions.md").read_text(encoding="utf-8")
    summary = " ".join(inspect.getdoc(DISTORTION_REGISTRY.get(name)).split("\n\n")[0].split())
    assert f"| `{name}` | {summary.replace('``', '`')} |" in text
