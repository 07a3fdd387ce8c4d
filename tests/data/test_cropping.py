"""Windows by Detectron2's INPUT.CROP keys."""

from __future__ import annotations

import numpy as np
import pytest

from mrssl.config import ConfigError, load_cfg
from mrssl.data.cropping import RandomCrop, window_from_shares, window_to_shares
from mrssl.data.mapper import SliceMapper

SHAPE = (40, 60)


def lengths(kind: str, size: tuple[float, float], count: int = 300) -> np.ndarray:
    rng = np.random.default_rng(0)
    drawn = [RandomCrop(kind, size).sample(SHAPE, rng) for _ in range(count)]
    for window in drawn:
        for side, part in zip(SHAPE, window, strict=True):
            assert 0 <= part.start < part.stop <= side
    return np.array([[part.stop - part.start for part in window] for window in drawn])


def test_each_type_means_what_detectron2_means() -> None:
    assert (lengths("relative", (0.5, 0.25)) == (20, 15)).all()
    assert (lengths("absolute", (16, 100)) == (16, 60)).all()
    drawn = lengths("relative_range", (0.5, 0.5))
    assert drawn.min(0).tolist() == [20, 30] and drawn.max(0).tolist() == [40, 60]
    drawn = lengths("absolute_range", (10, 50))
    assert drawn.min(0).tolist() == [10, 10] and drawn.max(0).tolist() == [40, 50]


def test_windows_reach_every_border() -> None:
    rng = np.random.default_rng(0)
    rows = [RandomCrop("relative", (0.5, 0.5)).sample(SHAPE, rng)[0].start for _ in range(300)]
    assert min(rows) == 0 and max(rows) == 20


def test_a_window_by_its_shares_is_itself_and_fits_a_slice_of_any_size() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        shape = tuple(int(n) for n in rng.integers(1, 700, 2))
        window = RandomCrop("relative_range", (0.01, 0.01)).sample(shape, rng)
        shares = window_to_shares(window, shape)
        assert window_from_shares(shares, shape) == window
        for side in (1, 2, 999):
            found = window_from_shares(shares, (side, side))
            assert all(0 <= part.start < part.stop <= side for part in found)
            ends = [[part.start, part.stop] for part in found]
            np.testing.assert_allclose(ends, np.array(shares) * side, atol=1.5)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("square", (0.5, 0.5)),
        ("relative", (0.5, 1.5)),
        ("relative_range", (0.0, 0.5)),
        ("absolute_range", (50, 10)),
        ("absolute", (10,)),
        ("absolute_range", (10,)),
    ],
)
def test_what_makes_no_window_is_refused(kind: str, size: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match=r"INPUT\.CROP\."):
        RandomCrop(kind, size)  # type: ignore[arg-type]


class _Volumes:
    """One volume whose pixels are all different, labelled with itself."""

    labels = np.arange(1, 2401, dtype=np.int32).reshape(1, *SHAPE)

    def image(self, record: dict) -> np.ndarray:
        return self.labels / np.float32(2400)

    def label(self, record: dict) -> np.ndarray:
        return self.labels


def _mapper(*overrides: str, training: bool = True) -> SliceMapper:
    names = ["INPUT.MIN_SIZE_TRAIN", "(0,)", "MRSSL.DATA.MIN_INSTANCE_PIXELS", "1"]
    names += ["INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[0.5, 0.5]"]
    still = {"SCALE": "(1.0, 1.0)", "ROTATE": "0.0", "TRANSLATE": "0.0", "GAMMA": "(1.0, 1.0)"}
    for key, value in (still | {"CONTRAST": "(1.0, 1.0)"}).items():
        names += [f"MRSSL.AUGMENT.{key}", value]
    cfg = load_cfg(None, [*names, *overrides])
    mapper = SliceMapper.from_config(cfg, training=training, class_values=range(1, 2401))
    mapper.cache = _Volumes()  # type: ignore[assignment]
    return mapper


def _record() -> dict:
    return {"image_id": 0, "slice_index": 0, "label_file": "x", "height": 40, "width": 60}


def test_the_labels_show_the_same_window() -> None:
    sample = _mapper()(_record())
    height, width = sample["image"].shape[1:]
    assert 20 <= height <= 40 and 30 <= width <= 60 and height * width < 2400
    seen = np.zeros((height, width))
    for category, mask in zip(sample["classes"], sample["masks"], strict=True):
        seen[mask] = category + 1
    np.testing.assert_allclose(sample["image"][0] * (2400 / 255), seen, atol=1e-2)


def test_evaluation_shows_the_whole_slice() -> None:
    assert (
        _mapper("INPUT.MIN_SIZE_TEST", "0", training=False)(_record())["image"].shape[1:] == SHAPE
    )


def test_a_wrong_type_is_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"INPUT\.CROP\.TYPE 'square': one of"):
        _mapper("INPUT.CROP.TYPE", "square")
