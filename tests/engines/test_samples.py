"""What the branches are to restore is the clean slice, from the distorted one."""

from __future__ import annotations

import numpy as np

from mrssl.engines.samples import restoration_targets


def test_the_middle_channels_are_the_pixels() -> None:
    rng = np.random.default_rng(0)
    sample = {
        "image": rng.random((3, 8, 9), np.float32) * 255,
        "clean": rng.random((3, 8, 9), np.float32) * 255,
        "masks": np.ones((2, 8, 9), bool),
    }
    targets = restoration_targets(sample)
    np.testing.assert_allclose(targets.pixels[0] * 255, sample["image"][1], rtol=1e-5)
    np.testing.assert_allclose(targets.pixels[1] * 255, sample["clean"][1], rtol=1e-5)
    assert len(targets) == 2
