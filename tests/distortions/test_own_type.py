"""The types that the documents show how to write: they are used like any other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fuzz_distortions import draw_once, phantom_slice
from mrssl.config import get_cfg
from mrssl.distortions import (
    DISTORTION_REGISTRY,
    Distorter,
    build_distortions,
    registered_names,
    replay,
)
from mrssl.errors import MrsslError


@pytest.fixture(params=["docs/distortions.md", "GETTING_STARTED.md"])
def own_type(request: pytest.FixtureRequest, repository_root: Path) -> Iterator[str]:
    """The name of a documented type, registered for one test."""
    text = (repository_root / request.param).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    (code,) = [block for block in blocks if "@DISTORTION_REGISTRY.register()" in block]
    before = set(registered_names())
    exec(compile(code, request.param, "exec"), {"__name__": "documented"})
    (name,) = set(registered_names()) - before
    yield name
    del DISTORTION_REGISTRY._obj_map[name]


def test_the_documented_type_is_drawn_labelled_and_replayed(own_type: str) -> None:
    cfg = get_cfg()
    node = cfg.MRSSL.PRETEXT
    node.DISTORTIONS, node.CLEAN_SHARE = (own_type, "gamma"), 0.0
    node.WEIGHTS, node.SEVERITY = (1.0, 0.0), (1.0, 1.0)
    distorter = Distorter.from_config(cfg)
    image = phantom_slice(np.random.default_rng(0))[None]
    out = distorter(image, np.random.default_rng(0))
    assert len(out.masks) > 0
    assert out.types[:, distorter.type_names.index(own_type)].all()
    assert replay(image, out.records).tobytes() == out.image.tobytes()


def test_the_documented_type_is_one_of_all_and_passes_the_random_draws(own_type: str) -> None:
    assert own_type in [d.name for d in build_distortions(("all",))]
    rng = np.random.default_rng(0)
    slices = [phantom_slice(rng)]
    for _ in range(50):
        assert draw_once(rng, build_distortions([own_type]), slices) == own_type


@pytest.mark.parametrize("own_type", ["docs/distortions.md"], indirect=True)
def test_the_documented_type_does_what_it_says(own_type: str) -> None:
    (halving,) = build_distortions([own_type])
    patch = np.full((1, 8, 8), 0.8, np.float32)
    params = halving.sample(np.random.default_rng(0), (8, 8), 0.5)
    assert halving.apply(patch, params) == pytest.approx(patch * 0.75)


def test_a_name_that_was_never_registered_is_told() -> None:
    with pytest.raises(MrsslError, match="no distortion 'halving'"):
        build_distortions(["halving"])
