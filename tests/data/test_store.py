from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import prepare_data as tool
from benchmark_data import MAX_GROWTH, measure_growth
from mrssl.config import load_cfg
from mrssl.data import Dataset, VolumeCache, load_dataset, read_volume
from mrssl.data.preparing import prepare_store
from mrssl.data.records import PackedRecords
from mrssl.data.statistics import class_layout, intensity_summary
from mrssl.data.store import exact_type
from mrssl.engines.datasets import RunData
from mrssl.errors import MrsslError


@pytest.fixture
def store(labeled_set: Path, tmp_path: Path) -> Path:
    prepare_store(labeled_set, tmp_path / "store")
    return tmp_path / "store"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def assert_same_samples(a: Dataset, b: Dataset, **options: object) -> None:
    cache_a, cache_b = VolumeCache(**options), VolumeCache(**options)  # type: ignore[arg-type]
    assert len(a.dicts) == len(b.dicts)
    for first, second in zip(a.dicts, b.dicts, strict=True):
        for key in ("image_id", "slice_index", "height", "width", "subject_id", "num_slices"):
            assert first[key] == second[key]
        np.testing.assert_allclose(first["spacing"], second["spacing"], rtol=1e-6)
        index = np.array([first["slice_index"]] * 3)
        stored = cache_b.image(second)[index]
        assert stored.dtype == np.float32
        assert np.array_equal(cache_a.image(first)[index], stored)
        if "label_file" in first:
            label = cache_b.label(second)[index]
            assert np.array_equal(cache_a.label(first)[index], label)


@pytest.mark.parametrize(
    "options",
    [{}, {"percentiles": (5, 95)}, {"normalization": "zscore"}, {"normalization": "window"}],
)
def test_store_and_source_give_the_same_samples(
    labeled_set: Path, store: Path, options: dict
) -> None:
    assert_same_samples(load_dataset(labeled_set), load_dataset(store), **options)


def test_splits_labels_and_foreground_come_along(labeled_set: Path, store: Path) -> None:
    source = load_dataset(f"{labeled_set}:test", with_annotations=True)
    stored = load_dataset(f"{store / 'dataset.json'}:test", with_annotations=True)
    assert stored.class_names == source.class_names
    assert stored.class_values == source.class_values
    assert [d["annotations"] for d in stored.dicts] == [d["annotations"] for d in source.dicts]
    for percentiles in ((0.5, 99.5), (1, 99)):  # from the index, and measured
        options = {"labeled": False, "min_foreground": 0.9, "percentiles": percentiles}
        assert [d["image_id"] for d in load_dataset(store, **options).dicts] == [
            d["image_id"] for d in load_dataset(labeled_set, **options).dicts
        ]


def test_dicom_and_several_volumes(write_series: Callable, tmp_path: Path) -> None:
    for echo in (10.0, 20.0):
        array = np.random.default_rng(int(echo)).integers(-50, 900, (5, 16, 18)).astype(np.int16)
        folder = write_series(array, prefix=f"{echo}-", EchoTime=echo, RescaleSlope=0.37)
    prepare_store(folder, tmp_path / "store")
    assert_same_samples(load_dataset(folder), load_dataset(tmp_path / "store"))
    record = load_dataset(tmp_path / "store").dicts[0]
    source = load_dataset(folder).dicts[0]
    raw = read_volume(source["file_name"], series=source["series"]).take_slices("D")
    again = read_volume(record["file_name"])
    assert np.array_equal(again.array, raw.array)
    assert np.array_equal(again.affine, raw.affine)


def test_no_name_and_no_path_is_stored(write_series: Callable, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 900, (5, 16, 18)).astype(np.int16)
    folder = write_series(array, "Secret_Person", PatientID="Secret-Number")
    prepare_store(folder, tmp_path / "store")
    for name, content in contents(tmp_path / "store").items():
        assert b"Secret" not in content
        assert "Secret" not in name


@pytest.mark.parametrize("head", ["DistortionROIHeads", "StandardROIHeads"])
def test_the_mapper_makes_the_same_samples(labeled_set: Path, store: Path, head: str) -> None:
    """As training sees them: distorted, or with labels; augmented, with neighbours, resized."""
    samples = []
    for path in (labeled_set, store / "dataset.json"):
        settings = ["MODEL.ROI_HEADS.NAME", head, "INPUT.MIN_SIZE_TRAIN", "(48,)"]
        settings += ["MODEL.MASK_ON", "True"]
        cfg = load_cfg(None, [*settings, "DATASETS.TRAIN", f"('{path}:train',)"])
        data = RunData(cfg, seed=3)
        samples.append([data.train_mapper(record, epoch=2, iteration=9) for record in data.train])
        assert data.train_intensities["volumes"] == 3
    assert len(samples[0]) == len(samples[1]) == 18
    for a, b in zip(*samples, strict=True):
        assert a.keys() == b.keys()
        for sample in (a, b):  # where the slice came from, and the one that pixels were borrowed of
            del sample["file_name"], sample["series"]
            if "donor" in sample:
                sample["donor"] = sample["donor"]["slice_index"]
        for name in a:
            np.testing.assert_equal(a[name], b[name], name)
    assert any(len(sample["masks"]) for sample in samples[0])


def test_what_was_trained_on_is_summed_up_alike(labeled_set: Path, store: Path) -> None:
    summaries = [
        intensity_summary(load_dataset(path).dicts, VolumeCache(**options))
        for options in ({}, {"percentiles": (5, 95)})  # as prepared, and not
        for path in (labeled_set, store)
    ]
    assert summaries[0] == summaries[1] != summaries[2] == summaries[3]
    assert summaries[0]["volumes"] == 4
    assert summaries[0]["low"] == sorted(summaries[0]["low"])
    assert 20 <= summaries[0]["low"][0] < summaries[0]["high"][0] < 200
    assert "case" not in json.dumps(summaries)


def test_what_cannot_be_read_is_left_out_of_the_sum(labeled_set: Path) -> None:
    dataset = load_dataset(labeled_set)
    files = sorted({(record["file_name"], record["label_file"]) for record in dataset.dicts})
    for image, label in files[:2]:
        Path(image).write_bytes(Path(image).read_bytes()[:-400])
        Path(label).write_bytes(Path(label).read_bytes()[:-400])
    assert intensity_summary(dataset.dicts, VolumeCache())["volumes"] == 2
    assert class_layout(dataset.dicts, VolumeCache(), [1]).volumes.max() == 2
    first = [record for record in dataset.dicts if record["file_name"] == files[0][0]]
    with pytest.raises(MrsslError, match=Path(files[0][0]).name):
        intensity_summary(first, VolumeCache())


def test_records_travel_packed(store: Path) -> None:
    dicts = load_dataset(store).dicts
    packed = PackedRecords(dicts)
    assert list(packed) == dicts
    assert packed[-1] == dicts[-1]
    assert list(packed[3:9:2]) == dicts[3:9:2]
    assert pickle.loads(pickle.dumps(packed)) == packed
    assert PackedRecords(dicts[:3]) != packed
    assert not PackedRecords([])
    with pytest.raises(IndexError):
        packed[len(dicts)]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_a_worker_does_not_grow_with_the_number_of_volumes() -> None:
    # 500 more volumes are 31 MiB of voxels. What a forked worker touches of its parent's memory
    # counts as its own, and is more the more the parent has loaded.
    assert measure_growth(600, warm_up=100) < MAX_GROWTH


def test_workers_make_no_difference(labeled_set: Path, store: Path, tmp_path: Path) -> None:
    prepare_store(labeled_set, tmp_path / "other", workers=2)
    assert contents(tmp_path / "other") == contents(store)


def test_killed_and_resumed_is_as_undisturbed(
    labeled_set: Path, store: Path, tmp_path: Path, repository_root: Path
) -> None:
    output = tmp_path / "killed"
    command = [
        sys.executable,
        str(repository_root / "tools" / "prepare_data.py"),
        str(labeled_set),
        str(output),
        "--workers=1",
    ]
    # Slow enough to be killed in between: each array takes a while to be written.
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(
        "import os, time\n"
        "replace = os.replace\n"
        "def slowly(*names):\n"
        "    time.sleep(0.2)\n"
        "    replace(*names)\n"
        "os.replace = slowly\n"
    )
    path = os.pathsep.join([str(slow), str(repository_root)])
    kills = 0
    for number in range(3):
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path})
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if len(list((output / "entries").glob("[!.]*.json"))) > number:
                time.sleep(0.3)  # in the middle of the next
                break
            time.sleep(0.01)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    report = prepare_store(labeled_set, output)
    assert report.kept
    assert contents(output) == contents(store)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_in_one_line(
    labeled_set: Path, store: Path, tmp_path: Path, repository_root: Path
) -> None:
    output = tmp_path / "killed"
    images = labeled_set.parent / "imagesTr"
    # As the system does where memory runs out: at the third volume.
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "from mrssl.data import preparing\n"
        "read = preparing.read_source\n"
        "def read_or_die(source):\n"
        "    if source.path.endswith('case_2.nii.gz'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return read(source)\n"
        "preparing.read_source = read_or_die\n"
    )
    tool_file = repository_root / "tools" / "prepare_data.py"
    ended = subprocess.run(
        [sys.executable, str(tool_file), str(labeled_set), str(output), "--workers=2"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(repository_root)])},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: a worker died, probably for want of memory, at one of ")
    assert str(images / "case_2.nii.gz") in line
    assert "fewer --workers" in line
    assert prepare_store(labeled_set, output).written > 0
    assert contents(output) == contents(store)


def test_another_version_or_a_damaged_index_is_refused(labeled_set: Path, store: Path) -> None:
    index = store / "dataset.json"
    good = index.read_text()
    for text, message in [
        (json.dumps({**json.loads(good), "mrssl_store": 99}), "version 99"),
        (good.replace("case_1", "case_X"), "index of the slice store is damaged"),
        (good[:-40], "not readable JSON"),
    ]:
        index.write_text(text)
        for attempt in (load_dataset, lambda path: prepare_store(labeled_set, path)):
            with pytest.raises(MrsslError, match=r"dataset\.json: .*" + message) as caught:
                attempt(store)
            assert "\n" not in str(caught.value)


def test_a_damaged_array_is_named(store: Path) -> None:
    record = load_dataset(store).dicts[0]
    path = Path(record["file_name"])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MrsslError, match=path.name):
        VolumeCache().image(record)
    path.unlink()
    with pytest.raises(MrsslError, match=path.name):
        VolumeCache().image(record)


def test_what_cannot_be_read_is_reported_and_left_out(
    labeled_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = labeled_set.parent / "imagesTr" / "case_1.nii.gz"
    path.write_bytes(path.read_bytes()[:-30])
    assert tool.main([str(labeled_set), str(tmp_path / "store"), "--workers", "1"]) == 0
    assert "refused: " in (out := capsys.readouterr().out)
    assert "case_1.nii.gz" in out
    assert {d["subject_id"] for d in load_dataset(tmp_path / "store").dicts} == {
        "case_0",
        "case_2",
        "case_3",
    }


def test_prepared_again_a_store_follows_its_source(
    labeled_set: Path, store: Path, tmp_path: Path, write_nifti: Callable
) -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    image, label = np.full((12, 16, 6), 7, np.uint8), np.ones((12, 16, 6), np.uint8)
    image[0] = 9
    write_nifti(image, "imagesTr/case_1.nii.gz", affine)
    write_nifti(label, "labelsTr/case_2.nii.gz", affine)
    pattern = r"case_(\d)"
    report = prepare_store(labeled_set, store, subject_pattern=pattern)
    assert (report.written, report.kept) == (2, 2)
    assert {d["subject_id"] for d in load_dataset(store).dicts} == set("0123")
    assert_same_samples(load_dataset(labeled_set, subject_pattern=pattern), load_dataset(store))
    prepare_store(labeled_set, tmp_path / "fresh", subject_pattern=pattern)
    assert contents(store) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("folder", ["volumes", "labels"])
@pytest.mark.parametrize("size", [0, 60, 200, None])
def test_prepared_again_a_damaged_array_is_whole(
    labeled_set: Path, store: Path, folder: str, size: int | None
) -> None:
    before = contents(store)
    path = sorted((store / folder).iterdir())[1]
    path.unlink() if size is None else path.write_bytes(path.read_bytes()[:size])
    report = prepare_store(labeled_set, store)
    assert (report.written, report.kept) == (1, 3)
    assert contents(store) == before
    assert prepare_store(labeled_set, store).kept == 4


def test_a_store_of_a_store_lacks_what_that_lacks(store: Path, tmp_path: Path) -> None:
    missing = sorted((store / "volumes").iterdir())[1]
    missing.unlink()
    report = prepare_store(store, tmp_path / "second")
    assert report.written == 3
    assert [Path(path) for path, _ in report.refused] == [missing]


def test_a_copied_store_needs_no_source(labeled_set: Path, store: Path, tmp_path: Path) -> None:
    expected = [VolumeCache().image(d)[np.array([0])] for d in load_dataset(store).dicts]
    shutil.copytree(store, tmp_path / "elsewhere" / "copy", copy_function=shutil.copyfile)
    for folder in (store, labeled_set.parent / "imagesTr", labeled_set.parent / "labelsTr"):
        shutil.rmtree(folder)
    copied = load_dataset(tmp_path / "elsewhere" / "copy").dicts
    for record, image in zip(copied, expected, strict=True):
        assert np.array_equal(VolumeCache().image(record)[np.array([0])], image)


@pytest.mark.parametrize("place", [2, 3, 4, 6])
def test_overrides_stand_before_and_after_options(
    labeled_set: Path, tmp_path: Path, place: int
) -> None:
    arguments = [str(labeled_set), str(tmp_path / "store")]
    arguments += ["MRSSL.DATA.SLICE_AXIS", "D", "MRSSL.DATA.SUBJECT_PATTERN", r"case_(\d)"]
    assert tool.main([*arguments[:place], "--workers", "1", *arguments[place:]]) == 0
    dicts = load_dataset(tmp_path / "store").dicts
    assert {(d["height"], d["subject_id"]) for d in dicts} == {(6, subject) for subject in "0123"}


def test_other_folders_are_left_alone(labeled_set: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(MrsslError, match="neither empty nor a slice store"):
        prepare_store(labeled_set, tmp_path / "mine")
    with pytest.raises(MrsslError, match="is a file"):
        prepare_store(labeled_set, labeled_set)
    assert contents(tmp_path / "mine") == {"thesis.txt": b"precious"}


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([0, 255], np.uint8),
        ([-1, 255], np.int16),
        ([0, 65535], np.uint16),
        ([0, 2**24], np.int32),
        ([0.5, 1], np.float32),
        ([0, 3e9], np.float32),
    ],
)
def test_arrays_take_the_smallest_exact_type(values: list[float], dtype: type) -> None:
    array = np.array(values, np.float32)
    stored = exact_type(array)
    assert stored.dtype == dtype
    assert np.array_equal(stored.astype(np.float32), array)


def test_maps_kept_open_are_bounded(
    labeled_set: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mrssl.data import store as module

    monkeypatch.setattr(module, "_MAX_OPEN", 2)
    cache = VolumeCache()
    for record in load_dataset(store).dicts:
        cache.image(record)[0]
        assert len(module._OPEN) <= 2
    assert cache.nbytes == 0
