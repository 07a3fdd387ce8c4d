from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from mrssl.config import ConfigError, load_cfg
from mrssl.data.augmentation import SliceAugmentation
from mrssl.data.labels import boxes_of_masks
from mrssl.data.mapper import INTENSITY_SCALE, SliceMapper, resized_shape
from mrssl.distortions import replay


class Volumes:
    """Stands in for the cache: one textured volume of 7 slices, and its label volume."""

    def __init__(self, height: int = 48, width: int = 56) -> None:
        rng = np.random.default_rng(0)
        rows, columns = np.mgrid[:height, :width]
        disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (0.45 * height) ** 2
        self.volume = np.stack(
            [disc * rng.uniform(0.3, 1.0, (height, width)) for _ in range(7)]
        ).astype(np.float32)
        self.labels = np.zeros(self.volume.shape, np.int32)
        self.labels[:, 10:20, 12:30] = 2
        self.labels[3, 30:40, 20:24] = 1

    def image(self, record: dict[str, Any]) -> np.ndarray:
        return self.volume

    def label(self, record: dict[str, Any]) -> np.ndarray:
        return self.labels


def record(index: int, **more: Any) -> dict[str, Any]:
    return {
        "file_name": "volume.nii.gz", "series": "", "image_id": index, "slice_index": index,
        "num_slices": 7, "subject_id": "s", "spacing": [3.0, 1.0, 1.0], "height": 48, "width": 56,
        "slice_axis": "D", **more,
    }  # fmt: skip


def pretext(*overrides: object, training: bool = True, seed: int = 0) -> SliceMapper:
    names = ["MODEL.ROI_HEADS.NAME", "DistortionROIHeads", "INPUT.MIN_SIZE_TRAIN", "(48,)"]
    cfg = load_cfg(None, [*names, "INPUT.MIN_SIZE_TEST", "48", *map(str, overrides)])
    mapper = SliceMapper.from_config(cfg, training=training, seed=seed)
    mapper.cache = Volumes()
    return mapper


def labelled(**options: Any) -> SliceMapper:
    settings = {"min_sizes": (0,), "max_size": 999, "class_values": (1, 2)} | options
    return SliceMapper(cache=Volumes(), **settings)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return all(np.array_equal(a[key], b[key]) for key in ("image", "clean", "boxes", "types"))


def test_channels_are_the_neighbours_and_ends_repeat() -> None:
    mapper = labelled(training=False)
    volume = mapper.cache.volume
    assert np.array_equal(mapper.stack(record(3)), volume[[2, 3, 4]])
    assert np.array_equal(mapper.stack(record(0)), volume[[0, 0, 1]])
    assert np.array_equal(labelled(neighbor_step=2).stack(record(6)), volume[[4, 6, 6]])
    assert np.array_equal(labelled(neighbor_step=0).stack(record(2)), volume[[2, 2, 2]])


def test_a_sample_follows_from_seed_epoch_and_slice_alone() -> None:
    first, second = pretext(), pretext()
    second(record(5), epoch=9)  # what came before does not matter
    a = first(record(2), epoch=4)
    assert same(a, second(record(2), epoch=4))
    assert a["seed"] == second(record(2), epoch=4)["seed"]
    for other in (first(record(2), epoch=5), pretext(seed=1)(record(2), epoch=4)):
        assert not np.array_equal(a["image"], other["image"])


def test_the_curricula_follow_the_iteration() -> None:
    mapper = pretext("MRSSL.PRETEXT.SEVERITY_CURRICULUM", "((0, 0.0), (10, 1.0))")
    counts = [
        sum(len(mapper(record(i), iteration=iteration)["boxes"]) for i in range(7))
        for iteration in (0, 10)
    ]
    assert counts[0] == 0 < counts[1]


def test_evaluation_knows_neither_seed_nor_epoch() -> None:
    a = pretext(training=False, seed=3)(record(2), epoch=1)
    assert same(a, pretext(training=False, seed=7)(record(2), epoch=5))


def test_a_distorted_sample_is_annotated_and_can_be_replayed() -> None:
    sample = pretext("MRSSL.PRETEXT.CLEAN_SHARE", 0.0)(record(2))
    assert sample["image"].dtype == sample["clean"].dtype == np.float32
    assert sample["image"].min() >= 0
    assert 100 < sample["image"].max() <= INTENSITY_SCALE
    count = len(sample["boxes"])
    assert count > 0
    assert sample["masks"].shape == (count, 48, 56)
    assert sample["types"].sum(1).min() >= 1
    assert (sample["height"], sample["width"]) == (48, 56)
    mapper = pretext()
    again = replay(mapper.stack(record(2)), sample["records"], donor=mapper.stack(sample["donor"]))
    assert np.array_equal(again * np.float32(INTENSITY_SCALE), sample["image"])
    assert sample["donor"]["file_name"] == "volume.nii.gz"
    assert sample["donor"]["slice_index"] != 2


def test_what_is_enlarged_is_distorted_before() -> None:
    """Each row and column is a mixture of the scan's: no distortion has finer detail."""
    mapper = pretext("INPUT.MIN_SIZE_TRAIN", "(96,)", "MRSSL.PRETEXT.CLEAN_SHARE", 0.0)
    down, across = (
        cv2.resize(np.eye(n), (n, 2 * n), interpolation=cv2.INTER_LINEAR) for n in (48, 56)
    )
    found = 0
    for epoch in range(4):
        sample = mapper(record(2), epoch=epoch)
        assert sample["image"].shape == sample["clean"].shape == (3, 96, 112)
        assert (sample["height"], sample["width"]) == (96, 112)
        for image in (sample["image"][1], sample["clean"][1]):
            scanned = np.linalg.pinv(down) @ image @ np.linalg.pinv(across).T
            np.testing.assert_allclose(down @ scanned @ across.T, image, atol=1e-2)
        masks = sample["masks"]
        assert masks.shape == (len(sample["boxes"]), 96, 112)
        assert np.array_equal(masks, masks[:, ::2, ::2].repeat(2, 1).repeat(2, 2))
        assert np.array_equal(sample["boxes"], boxes_of_masks(masks))
        changed = np.abs(sample["image"] - sample["clean"]).max(0) > 1
        assert changed[masks.any(0)].mean() > 0.5
        # Beyond them only what lies between a changed pixel of the scan and an unchanged one.
        grown = cv2.dilate(np.uint8(masks.any(0)), np.ones((3, 3), np.uint8))
        found += len(masks)
        assert changed[grown == 0].mean() < 0.02
    assert found >= 4


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
def test_a_sample_knows_where_in_the_volume_its_pixels_lie(flip: str) -> None:
    mapper = pretext(
        "INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "relative_range", "INPUT.CROP.SIZE",
        "(0.5, 0.5)", "MRSSL.AUGMENT.PRETRAIN", True, "INPUT.RANDOM_FLIP", flip,
        "INPUT.MIN_SIZE_TRAIN", "(96,)", "MRSSL.PRETEXT.CLEAN_SHARE", 1.0,
        "MRSSL.AUGMENT.GAMMA", "(1.0, 1.0)", "MRSSL.AUGMENT.CONTRAST", "(1.0, 1.0)",
    )  # fmt: skip
    rows, columns = np.mgrid[:48, :56] + 0.5
    # The pixels say where they are, in two channels of a volume whose slices differ, and in the
    # third whether warping mixed black into them.
    channels = [rows / 48, columns / 56, np.ones(rows.shape)]
    mapper.cache.volume = np.stack([*channels, *channels, *channels[:2]]).astype(np.float32)
    for epoch in range(8):
        sample = mapper(record(1, spacing=[4.0, 2.0, 3.0], num_slices=8), epoch=epoch)
        down, right = sample["clean"][0] / 255 * 48, sample["clean"][1] / 255 * 56
        y, x = np.mgrid[: down.shape[0], : down.shape[1]] + 0.5
        mm = np.einsum("ij,jhw->ihw", sample["to_volume"], np.stack([x, y, np.ones_like(x)]))
        whole = np.uint8((sample["clean"][2] > 254.9) & (down > 0.6) & (right > 0.6))
        inner = cv2.erode(whole, np.ones((5, 5)), borderValue=0)
        inside = (inner > 0) & (down < 47) & (right < 55)
        assert inside.sum() > 500
        np.testing.assert_allclose(mm[0][inside], (right[inside] - 28) * 3, atol=1.0)
        np.testing.assert_allclose(mm[1][inside], (down[inside] - 24) * 2, atol=1.0)
        np.testing.assert_allclose(mm[2], (1 - 3.5) * 4, atol=1e-4)


def test_evaluation_keeps_the_labels_own_grid() -> None:
    mapper = labelled(training=False, min_sizes=(96,))
    sample = mapper(record(3, label_file="label.nii.gz"))
    assert sample["image"].shape == (3, 96, 112)
    assert sample["masks"].shape == (2, 48, 56)
    assert sample["classes"].tolist() == [0, 1]
    assert sample["boxes"].tolist() == [[20, 30, 24, 40], [12, 10, 30, 20]]


def test_evaluation_is_where_the_curricula_end() -> None:
    """Not at their first point, where there may be nothing to find."""
    curriculum = ("MRSSL.PRETEXT.SEVERITY_CURRICULUM", "((0, 0.0), (100, 1.0))")
    curriculum += ("MRSSL.PRETEXT.CLEAN_SHARE", "0.0", "MRSSL.PRETEXT.SEVERITY", "(0.0, 1.0)")
    mapper = pretext(*curriculum, training=False)
    plain = pretext(*curriculum[2:], training=False)
    assert any(len(mapper(record(index))["boxes"]) for index in range(7))
    assert all(same(mapper(record(i)), plain(record(i))) for i in range(7))
    assert not any(len(pretext(*curriculum)(record(index))["boxes"]) for index in range(7))


def test_training_resizes_labels_with_the_image() -> None:
    sample = labelled(min_sizes=(96,))(record(3, label_file="label.nii.gz"))
    assert sample["boxes"].tolist() == [[40, 60, 48, 80], [24, 20, 60, 40]]
    empty = labelled()(record(3, label_file="label.nii.gz") | {"slice_index": 0})
    assert empty["classes"].tolist() == [1]


@pytest.mark.parametrize("size", [64, 100, 160, 228, 400])
def test_a_resized_label_lies_on_its_image(size: int) -> None:
    """Of an image that is its own label, both have one centre, whatever the factor."""
    rows, columns = np.mgrid[:160, :200]
    disc = (rows - 75.3) ** 2 + (columns - 108.6) ** 2 < 60**2
    volumes = Volumes()
    volumes.volume, volumes.labels = (np.stack([disc] * 7).astype(kind) for kind in "fi")
    mapper = SliceMapper(cache=volumes, min_sizes=(size,), max_size=999, class_values=(1,))
    sample = mapper(record(1, label_file="label.nii.gz"))
    image, mask = sample["image"][1], sample["masks"][0]
    assert image.shape == mask.shape == resized_shape((160, 200), size, 999)
    grid = np.indices(mask.shape)
    of_image = (grid * image).sum((1, 2)) / image.sum()
    np.testing.assert_allclose(grid[:, mask].mean(1), of_image, atol=0.1)


@pytest.mark.parametrize("elastic", [0.0, 0.05])
@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
def test_labels_move_with_the_pixels(flip: str, elastic: float) -> None:
    """A bright square and its label stay on one another under every change."""
    change = SliceAugmentation(
        scale=(0.8, 1.3),
        rotate=30,
        translate=0.1,
        elastic=elastic,
        gamma=(0.7, 1.4),
        contrast=(0.8, 1.2),
        flip=flip,
    )
    image, label = np.zeros((3, 64, 80), np.float32), np.zeros((64, 80), np.int32)
    image[:, 20:36, 30:50] = 1.0
    label[20:36, 30:50] = 4
    moved = set()
    for seed in range(20):
        params = change.sample(np.random.default_rng(seed))
        bright = change.apply_image(image, params)[1]
        assert bright.dtype == np.float32
        assert 0 <= bright.min() <= bright.max() <= 1
        found, there = bright > (bright.min() + bright.max()) / 2, change.apply_label(label, params)
        assert set(np.unique(there)) == {0, 4}
        overlap = 2 * (found & (there == 4)).sum() / (found.sum() + (there == 4).sum())
        assert overlap > 0.93
        moved.add(tuple(np.argwhere(there == 4).mean(0).round(1)))
    assert len(moved) > 15


def test_an_elastic_change_moves_pixels_no_further_than_asked() -> None:
    """A slice whose pixels tell where they came from."""
    change = SliceAugmentation(scale=(1.0, 1.0), rotate=180, translate=0.1, elastic=0.04)
    side = 96
    place = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="ij"))
    image = (0.25 + place / (2 * side)).astype(np.float32)  # 0 comes from outside
    for seed in range(10):
        params = change.sample(np.random.default_rng(seed))
        stiff = {key: value for key, value in params.items() if key != "grid"}
        elastic, affine = (change.apply_image(image, p) for p in (params, stiff))
        there = np.pad((np.minimum(elastic, affine).min(0) > 0).astype(np.uint8), 1)
        inside = cv2.erode(there, np.ones((5, 5)))[1:-1, 1:-1]
        shift = 2 * np.linalg.norm((elastic - affine)[:, inside > 0], axis=0)
        assert 0.5 * params["reach"] <= shift.max() <= np.sqrt(2) * params["reach"] + 2e-3


GOLDEN = {
    "scale": 1.05879476650911, "angle": -4.604265724722594, "dx": -0.1377079428191416,
    "dy": -0.14504170934144126, "gamma": 1.2300330382583669, "contrast": 1.1582925574215486,
    "flip": 0.0,
}  # fmt: skip


def test_without_an_elastic_change_the_samples_are_those_of_before() -> None:
    """Golden: drawn by code 0b73ad7, which knew no elastic changes."""
    change = SliceAugmentation(
        (0.85, 1.2), 10.0, 0.15, gamma=(0.7, 1.4), contrast=(0.8, 1.2), flip="horizontal"
    )
    assert change.sample(np.random.default_rng(0)) == pytest.approx(GOLDEN)


def test_the_place_of_what_is_bent_is_not_learned() -> None:
    bent = ["MRSSL.AUGMENT.PRETRAIN", "True", "MRSSL.AUGMENT.ELASTIC", "0.05"]
    with pytest.raises(ConfigError, match=r"^MRSSL.AUGMENT.ELASTIC 0.05: .*POSITION_HEAD"):
        pretext(*bent, "MRSSL.POSITION_HEAD.LOSS_WEIGHT", "1.0")
    assert pretext(*bent).augmentation is not None


def test_a_flip_of_another_name_is_refused() -> None:
    cfg = load_cfg(None, ["INPUT.RANDOM_FLIP", "Horizontal"])
    with pytest.raises(ConfigError, match=r"^INPUT\.RANDOM_FLIP 'Horizontal': one of none, "):
        SliceAugmentation.from_config(cfg)


def test_no_change_is_the_identity() -> None:
    change = SliceAugmentation()
    image = np.random.default_rng(0).random((3, 16, 18), np.float32)
    params = change.sample(np.random.default_rng(1))
    np.testing.assert_allclose(change.apply_image(image, params), image, atol=1e-6)


def test_resized_shapes() -> None:
    assert resized_shape((224, 224), 0, 99) == (224, 224)
    assert resized_shape((100, 200), 50, 999) == (50, 100)
    assert resized_shape((100, 400), 200, 400) == (100, 400)
    assert resized_shape((35, 50), 112, 999) == (112, 160)


def test_evaluation_has_sizes_of_its_own_and_every_labelled_pixel() -> None:
    cfg = load_cfg(None, [
        "INPUT.MIN_SIZE_TRAIN", "(96, 144)", "INPUT.MAX_SIZE_TRAIN", "130",
        "INPUT.MIN_SIZE_TEST", "72", "INPUT.MAX_SIZE_TEST", "80",
        "MRSSL.DATA.MIN_INSTANCE_PIXELS", "41", "MRSSL.AUGMENT.ROTATE", "0.0",
    ])  # fmt: skip
    shown = {}
    for training in (True, False):
        mapper = SliceMapper.from_config(cfg, training=training, class_values=(1, 2))
        sizes = ((96, 144), 130) if training else ((72,), 80)
        assert (mapper.min_sizes, mapper.max_size) == sizes
        mapper.cache = Volumes()  # 48 x 56; class 1 has 40 pixels in slice 3
        samples = [mapper(record(3, label_file="l.nii.gz"), epoch=epoch) for epoch in range(8)]
        shown[training] = {sample["image"].shape[1:] for sample in samples}
        assert (0 in samples[0]["classes"].tolist()) or training
        assert training or all(
            np.array_equal(sample["image"], samples[0]["image"]) for sample in samples
        )
    assert shown == {True: {(96, 112), (111, 130)}, False: {(69, 80)}}
