"""Which slice lends its tissue: of another subject where that costs nothing, and replayable."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrssl.config import load_cfg
from mrssl.data import load_dataset
from mrssl.data.donors import SLICE_KEYS, DonorPool, slice_name
from mrssl.data.loader import SampleStream
from mrssl.data.mapper import INTENSITY_SCALE, SliceMapper
from mrssl.data.preparing import prepare_store
from mrssl.distortions import DistortedSlice, replay
from mrssl.engines.faults import SkippedSlices
from mrssl.errors import MrsslError

ROOM = 1 << 30


def records(subjects: int = 4, slices: int = 5) -> list[dict[str, Any]]:
    return [
        {
            "file_name": f"{s}.nii.gz", "series": "", "slice_axis": "D", "subject_id": f"s{s}",
            "image_id": s * slices + i, "slice_index": i, "num_slices": slices,
            "height": 48, "width": 40, "spacing": [1.0, 1.0, 1.0],
        }
        for s in range(subjects) for i in range(slices)
    ]  # fmt: skip


def draws(pool: DonorPool, record: dict[str, Any], count: int = 2000) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [pool.draw(record, 5, rng)[0] for _ in range(count)]


def test_the_share_of_other_subjects_is_kept_and_each_is_as_likely() -> None:
    chosen = draws(DonorPool(records(), share=0.6, cache_bytes=ROOM), records()[7])
    foreign = [d for d in chosen if d["subject_id"] != "s1"]
    assert len(foreign) / len(chosen) == pytest.approx(0.6, abs=0.04)
    counts = [sum(d["subject_id"] == name for d in foreign) for name in ("s0", "s2", "s3")]
    assert min(counts) > 0.27 * len(foreign)
    assert {d["slice_index"] for d in foreign} == set(range(5))
    own = [d for d in chosen if d["subject_id"] == "s1"]
    assert {d["slice_index"] for d in own} == {0, 1, 3, 4}


def test_a_slice_that_is_not_in_the_pool_has_donors_too() -> None:
    pool = DonorPool(records(2), share=1.0, cache_bytes=ROOM)
    chosen = draws(pool, {**records()[0], "subject_id": "new"})
    assert {d["subject_id"] for d in chosen} == {"s0", "s1"}


@pytest.mark.parametrize(
    ("data", "share", "room"),
    [
        (records(1), 1.0, ROOM),  # one subject
        (records(), 0.0, ROOM),
        (records(), 1.0, 4 * 5 * 48 * 40 * 4 - 1),  # a byte too little: a decoding a sample
        ([], 1.0, ROOM),
    ],
)
def test_else_the_donor_is_another_slice_of_the_volume(
    data: list[dict[str, Any]], share: float, room: int
) -> None:
    chosen = draws(DonorPool(data, share=share, cache_bytes=room), records()[0])
    assert {d["subject_id"] for d in chosen} == {"s0"}
    assert {d["slice_index"] for d in chosen} == {1, 2, 3, 4}


def test_what_is_drawn_later_does_not_depend_on_the_donor() -> None:
    states = set()
    for share in (0.0, 1.0):
        rng = np.random.default_rng(3)
        DonorPool(records(), share=share, cache_bytes=ROOM).draw(records()[0], 5, rng)
        states.add(float(rng.random()))
    assert len(states) == 1


def test_a_single_slice_is_its_own_donor() -> None:
    record = records(1, 1)[0]
    donor, substitute = DonorPool().draw(record, 1, np.random.default_rng(0))
    assert donor["slice_index"] == substitute["slice_index"] == 0


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_named(share: float) -> None:
    with pytest.raises(MrsslError, match=r"MRSSL\.PRETEXT\.OTHER_SUBJECT"):
        DonorPool(records(), share=share)


class Volumes:
    """Stands in for the cache: each subject has its own texture; ``damaged`` cannot be read."""

    max_bytes = ROOM

    def __init__(self, damaged: str = "") -> None:
        self.damaged = damaged

    def image(self, record: dict[str, Any]) -> np.ndarray:
        if record["file_name"] == self.damaged:
            raise MrsslError(f"{self.damaged}: cut off")
        seed = int(record["file_name"][0])
        return np.random.default_rng(seed).uniform(0.3, 1, (5, 48, 40)).astype(np.float32)


def pretext(data: list[dict[str, Any]], *overrides: str) -> SliceMapper:
    keys = ["MODEL.ROI_HEADS.NAME", "DistortionROIHeads", "INPUT.MIN_SIZE_TRAIN", "(0,)"]
    keys += ["MRSSL.PRETEXT.DISTORTIONS", "('patch_blend',)", "MRSSL.PRETEXT.CLEAN_SHARE", "0.0"]
    cfg = load_cfg(None, [*keys, "MRSSL.PRETEXT.OTHER_SUBJECT", "1.0", *overrides])
    return SliceMapper.from_config(cfg, training=True, records=data)


def test_the_sample_names_its_donor_and_is_replayed_with_it() -> None:
    mapper = pretext(records())
    mapper.cache = Volumes()  # type: ignore[assignment]
    seen = set()
    for record in records():
        sample = mapper(record)
        donor = json.loads(json.dumps(sample["donor"]))
        assert set(donor) == set(SLICE_KEYS)
        assert donor["file_name"] != record["file_name"]
        again = replay(mapper.stack(record), sample["records"], donor=mapper.stack(donor))
        assert np.array_equal(again * np.float32(INTENSITY_SCALE), sample["image"])
        seen.add(donor["file_name"])
    assert len(seen) == 4


CROPPED = (
    "MRSSL.AUGMENT.PRETRAIN", "True", "INPUT.CROP.ENABLED", "True", "INPUT.CROP.TYPE",
    "relative_range", "INPUT.CROP.SIZE", "(0.4, 0.4)", "INPUT.MIN_SIZE_TRAIN", "(32, 64)",
    "INPUT.RANDOM_FLIP", "none", "MRSSL.AUGMENT.SCALE", "(1.0, 1.0)", "MRSSL.AUGMENT.ROTATE", "0.0",
    "MRSSL.AUGMENT.TRANSLATE", "0.0", "MRSSL.AUGMENT.GAMMA", "(1.0, 1.0)",
    "MRSSL.AUGMENT.CONTRAST", "(1.0, 1.0)",
)  # fmt: skip
AUGMENTED = (
    "MRSSL.AUGMENT.PRETRAIN", "True", "INPUT.RANDOM_FLIP", "horizontal", "MRSSL.AUGMENT.SCALE",
    "(0.7, 1.4)", "MRSSL.AUGMENT.ROTATE", "20.0", "MRSSL.AUGMENT.GAMMA", "(0.5, 0.8)",
)  # fmt: skip


class Spy:
    """A distorter that keeps what it was given."""

    type_names = ("patch_blend",)

    def __call__(self, image: np.ndarray, rng: np.random.Generator, **given: Any) -> DistortedSlice:
        self.image, self.donor = image, given["donor"]
        return DistortedSlice(
            image, image, np.zeros((0, *image.shape[1:]), bool), np.zeros((0, 1), np.float32), []
        )


@pytest.mark.parametrize("overrides", [(), CROPPED, AUGMENTED, CROPPED + AUGMENTED])
def test_the_donor_is_shown_as_the_slice_is(overrides: tuple[str, ...]) -> None:
    """Where both are the same pixels, they stay the same pixels."""
    mapper = pretext(records(), *overrides)
    mapper.cache = Volumes()  # type: ignore[assignment]
    volume = np.random.default_rng(0).uniform(0.3, 1, (1, 48, 40)).astype(np.float32)
    mapper.cache.image = lambda record: np.repeat(volume, 5, 0)  # type: ignore[method-assign]
    mapper.distorter = spy = Spy()
    shown = set()
    for epoch in range(8):
        mapper(records()[7], epoch=epoch)
        assert np.array_equal(spy.image, spy.donor)
        shown.add(spy.image.tobytes())
    assert len(shown) == (8 if overrides else 1)


def test_a_donor_of_a_finer_matrix_shows_the_same_part_of_its_field_of_view() -> None:
    mapper = pretext(records(), *CROPPED, "INPUT.MIN_SIZE_TRAIN", "(12,)")
    volume = np.random.default_rng(0).uniform(0.3, 1, (1, 48, 40)).astype(np.float32)
    coarse = np.repeat(volume, 5, 0)
    fine = coarse.repeat(2, 1).repeat(2, 2)
    mapper.cache = Volumes()  # type: ignore[assignment]
    mapper.cache.image = lambda r: coarse if r["subject_id"] == "s1" else fine  # type: ignore
    mapper.distorter = spy = Spy()
    for epoch in range(8):
        mapper(records()[7], epoch=epoch)
        np.testing.assert_allclose(spy.donor, spy.image, atol=1e-5)


@pytest.mark.parametrize("overrides", [CROPPED, AUGMENTED, CROPPED + AUGMENTED])
def test_a_cropped_and_augmented_sample_is_replayed_too(overrides: tuple[str, ...]) -> None:
    mapper = pretext(records(), *overrides)
    mapper.cache = Volumes()  # type: ignore[assignment]
    distorted = 0
    for record in records():
        sample = mapper(record)
        donor, view = json.loads(json.dumps([sample["donor"], sample["view"]]))
        clean, foreign = (mapper.show(mapper.stack(of), view) for of in (record, donor))
        again = replay(clean, sample["records"], donor=foreign)
        clean, again = mapper.enlarge(clean, view), mapper.enlarge(again, view)
        assert np.array_equal(clean * np.float32(INTENSITY_SCALE), sample["clean"])
        assert np.array_equal(again * np.float32(INTENSITY_SCALE), sample["image"])
        distorted += len(sample["boxes"])
    assert distorted > 5


def test_a_donor_that_cannot_be_read_is_no_fault_of_the_slice() -> None:
    damaged = "1.nii.gz"
    whole, torn = pretext(records()), pretext(records())
    whole.cache, torn.cache = Volumes(), Volumes(damaged)  # type: ignore[assignment]
    options = {"seed": 0, "batch_size": 1, "max_unreadable": 0.25}
    expected = SampleStream(records(), whole, **options)
    stream = SampleStream(records(), torn, **options)
    skipped = SkippedSlices(len(stream), 0.25)  # the five slices of the damaged volume
    replaced = 0
    for position in range(4 * len(stream)):
        sample = stream[position]
        skipped.note([sample])
        assert sample["file_name"] != damaged
        if stream.record(position)["file_name"] == damaged:
            continue  # the next slice stands in its place
        other = expected[position]
        if other["donor"]["file_name"] != damaged:
            assert np.array_equal(sample["image"], other["image"])
            assert sample["skipped"] == []
            continue
        replaced += 1
        assert sample["skipped"] == [(slice_name(other["donor"]), f"{damaged}: cut off")]
        assert sample["donor"]["file_name"] == sample["file_name"]
        assert sample["donor"]["slice_index"] != sample["slice_index"]
        # Nothing more is drawn for it: the regions and distortions are those of a whole data set.
        for key in ("clean", "types"):
            assert np.array_equal(sample[key], other[key]), key
        again = replay(
            torn.stack(stream.record(position)),
            sample["records"],
            donor=torn.stack(sample["donor"]),
        )
        assert np.array_equal(again * np.float32(INTENSITY_SCALE), sample["image"])
    assert replaced > 10
    lines = [f"skipped {damaged}[{i}]: {damaged}: cut off" for i in range(5)]
    assert skipped.lines() == lines  # once each, and no good slice


def test_a_store_lends_other_subjects_without_any_cache(labeled_set: Path, tmp_path: Path) -> None:
    for source, foreign in ((labeled_set, False), (tmp_path / "store", True)):
        prepare_store(labeled_set, tmp_path / "store")
        data = load_dataset(source, labeled=False).dicts
        mapper = pretext(data, "MRSSL.DATA.CACHE_MIB", "0")
        for record in data[::4]:
            other = mapper(record)["donor"]["file_name"] != record["file_name"]
            assert other == foreign
    assert len(mapper.cache) == 0, "nothing was decoded"
