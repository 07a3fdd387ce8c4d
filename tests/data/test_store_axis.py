"""A slice store is sliced as it was prepared, whatever axis a configuration names again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mrssl.data import VolumeCache, load_dataset
from mrssl.data.preparing import prepare_store
from mrssl.errors import MrsslError


@pytest.mark.parametrize("axis", ["auto", "D", "H", "W"])
def test_a_store_is_trained_with_the_configuration_that_made_it(
    labeled_set: Path, tmp_path: Path, axis: str
) -> None:
    prepare_store(labeled_set, tmp_path / "store", slice_axis=axis)
    prepare_store(tmp_path / "store", tmp_path / "again", slice_axis=axis)
    options = {"slice_axis": axis, "with_annotations": True}
    source = load_dataset(labeled_set, **options).dicts
    cache = VolumeCache()
    for name in ("store", "again"):
        stored = load_dataset(tmp_path / name, **options).dicts
        assert [d["annotations"] for d in stored] == [d["annotations"] for d in source]
        for a, b in zip(source, stored, strict=True):
            index = np.array([a["slice_index"]])
            assert np.array_equal(cache.image(a)[index], cache.image(b)[index])


def test_an_axis_of_no_name_is_refused_for_a_store_too(labeled_set: Path, tmp_path: Path) -> None:
    prepare_store(labeled_set, tmp_path / "store")
    with pytest.raises(MrsslError, match="slice axis 'X'"):
        load_dataset(tmp_path / "store", slice_axis="X")
