from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco

from mrssl.data import VolumeCache, find_volumes, instances_of_slice, load_dataset, read_volume
from mrssl.data.cases import select_subjects
from mrssl.data.checking import check_data
from mrssl.data.descriptions import describe, read_description
from mrssl.errors import MrsslError
from mrssl.structures import Volume


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_dicts_are_standard_and_plain(labeled_set: Path) -> None:
    dataset = load_dataset(f"{labeled_set}:train")
    assert dataset.name == "toy:train"
    assert dataset.class_names == ["a", "b"]
    assert dataset.class_values == [1, 2]
    assert len(dataset.dicts) == 3 * 6
    record = dataset.dicts[7]
    assert json.loads(json.dumps(record)) == record
    assert record["slice_axis"] == "W"
    assert record["spacing"] == [3, 1, 1]
    assert (record["num_slices"], record["height"], record["width"]) == (6, 16, 12)
    assert record["subject_id"] == "case_1"
    assert record["slice_index"] == 1
    assert [r["image_id"] for r in dataset.dicts] == list(range(18))


def test_annotations_are_those_of_the_label_volume(labeled_set: Path) -> None:
    dataset = load_dataset(labeled_set, with_annotations=True, instances="component")
    cache = VolumeCache()
    assert any(record["annotations"] for record in dataset.dicts)
    for record in dataset.dicts:
        label = cache.label(record)[record["slice_index"]]
        masks, classes = instances_of_slice(label, dataset.class_values, "component")
        assert [a["category_id"] for a in record["annotations"]] == classes.tolist()
        for mask, annotation in zip(masks, record["annotations"], strict=True):
            assert np.array_equal(coco.decode(annotation["segmentation"]), mask)


def test_empty_slices_and_labels_may_be_left_out(labeled_set: Path) -> None:
    kept = load_dataset(labeled_set, keep_empty=False)
    assert {r["slice_index"] for r in kept.dicts} == {1, 2, 3, 4}  # the last one along S is 5
    assert kept.dicts[4]["image_id"] == 7  # counted before leaving out
    bare = load_dataset(labeled_set, labeled=False)
    assert bare.class_names == []
    assert not any("label_file" in record for record in bare.dicts)


def test_slices_of_air_are_left_out(write_nifti: Callable, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 5, (32, 32, 8))
    array[8:24, 8:24, 2:6] += 500
    write_nifti(array.astype(np.int16), "scans/sub-01_T1w.nii.gz", np.diag([1.0, 1.0, 4.0, 1.0]))
    dataset = load_dataset(tmp_path / "scans", min_foreground=0.05)
    assert [record["slice_index"] for record in dataset.dicts] == [2, 3, 4, 5]
    assert dataset.dicts[0]["subject_id"] == "sub-01"
    assert len(load_dataset(tmp_path / "scans").dicts) == 8
    # What cannot be measured is for whoever reads it to count.
    whole = (tmp_path / "scans" / "sub-01_T1w.nii.gz").read_bytes()
    (tmp_path / "scans" / "sub-02_T1w.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MrsslError, match=r"sub-02_T1w\.nii\.gz"):
        load_dataset(tmp_path / "scans", min_foreground=0.05)
    dataset = load_dataset(tmp_path / "scans", min_foreground=0.05, keep_unreadable=True)
    assert [r["slice_index"] for r in dataset.dicts] == [2, 3, 4, 5, *range(8)]


def test_why_no_slice_is_left_is_told(tmp_path: Path, write_nifti: Callable) -> None:
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    array = np.zeros((32, 32, 8), np.int16)
    array[8:24, 8:24] = 500
    for name in ("a", "b"):
        write_nifti(array, f"scans/{name}.nii.gz", affine)
    write_nifti(np.zeros((32, 32, 8), np.uint8), "label.nii.gz", affine)
    air = r"have less foreground than MRSSL\.DATA\.MIN_FOREGROUND 0\.5$"
    with pytest.raises(MrsslError, match=f"none of its 16 slices .*: all {air}"):
        load_dataset(tmp_path / "scans", min_foreground=0.5)
    path = tmp_path / "dataset.json"
    cases = [{"image": "scans/a.nii.gz", "label": "label.nii.gz"}, "scans/b.nii.gz"]
    path.write_text(json.dumps({"labels": {"x": 1}, "training": cases[:1]}))
    empty = r"no label shows .* MRSSL\.DATA\.KEEP_EMPTY is False"
    with pytest.raises(MrsslError, match=f"none of its 8 slices .*: {empty}$"):
        load_dataset(path, min_foreground=0.5, keep_empty=False)
    edit(path, training=cases)
    with pytest.raises(
        MrsslError, match=f"none of its 16 slices .*: {empty}; those without label {air}"
    ):
        load_dataset(path, min_foreground=0.5, keep_empty=False)


def test_nnunet_layout(labeled_set: Path) -> None:
    content = json.loads(labeled_set.read_text())
    del content["training"]
    labeled_set.write_text(
        json.dumps({**content, "labels": {"background": 0, "a": 1, "ab": [1, 2]}})
    )
    for image in (labeled_set.parent / "imagesTr").iterdir():
        image.rename(image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")))
    dataset = load_dataset(f"{labeled_set}:test")
    assert {record["subject_id"] for record in dataset.dicts} == {"case_3"}
    assert dataset.class_values == [1, (1, 2)]
    assert all("label_file" in record for record in dataset.dicts)


def test_cases_without_a_label_are_told(
    labeled_set: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = json.loads(labeled_set.read_text())
    del content["training"]
    labeled_set.write_text(json.dumps(content))
    for image in (labeled_set.parent / "imagesTr").iterdir():
        image.rename(image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")))
    (labeled_set.parent / "labelsTr" / "case_2.nii.gz").unlink()
    assert len(load_dataset(labeled_set, labeled=True).dicts) == 18
    warning = f"{labeled_set}: 1 of 4 cases have no label and are left out"
    assert [record.message for record in caplog.records] == [warning]
    faults = [volume["faults"] for volume in check_data(labeled_set).volumes]
    assert faults == [[], [], ["no label: left out of fine-tuning and of its scores"], []]
    caplog.clear()
    assert len(load_dataset(labeled_set, labeled=False).dicts) == 24
    assert not caplog.records


def test_decathlon_labels(labeled_set: Path) -> None:
    edit(labeled_set, labels={"0": "background", "2": "b", "1": "a"})
    assert load_dataset(labeled_set).class_names == ["a", "b"]


def test_dicom_keeps_the_scanners_slices(write_series: Callable, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (5, 8, 9)).astype(np.int16)
    for echo in (10.0, 20.0):
        write_series(array, prefix=f"{echo}-", EchoTime=echo, PixelSpacing=[4.0, 4.0])
    dataset = load_dataset(tmp_path / "series")
    assert {r["slice_axis"] for r in dataset.dicts} == {"D"}
    assert len({r["series"] for r in dataset.dicts}) == 2
    assert len(dataset.dicts) == 10


def test_a_folder_may_be_described(write_series: Callable, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (5, 8, 9)).astype(np.int16)
    for echo, kind in ((10.0, "M"), (20.0, "M"), (10.0, "P")):
        write_series(array, prefix=f"{kind}{echo}-", EchoTime=echo, ImageType=["ORIGINAL", kind])
    path = tmp_path / "dataset.json"
    for include, exclude, count in [
        ({}, {}, 3),
        ({"EchoTime": 10}, {}, 2),
        ({"EchoTime": [10, 20]}, {"ImageType": "*\\P"}, 2),
        ({"EchoTime": 10, "ImageType": "original*m"}, {}, 1),
    ]:
        path.write_text(json.dumps({"folder": "series", "include": include, "exclude": exclude}))
        assert len({r["series"] for r in load_dataset(path).dicts}) == count
    path.write_text(json.dumps({"folder": "series", "include": {"EchoTime": 99}}))
    with pytest.raises(MrsslError, match="none of 3 volumes"):
        load_dataset(path)


def described(folder: Path, image: str, series: str = "") -> Path:
    entry = {"image": image, "series": series}
    (folder / "dataset.json").write_text(json.dumps({"training": [entry]}))
    return folder / "dataset.json"


def test_an_image_may_be_a_dicom_file(
    write_series: Callable, write_enhanced: Callable, tmp_path: Path
) -> None:
    array = np.random.default_rng(0).integers(0, 99, (2, 5, 8, 9)).astype(np.int16)
    write_series(array[0, :1])
    (case,) = read_description(described(tmp_path, "series/0001.dcm")).cases
    assert case.name == "0001"
    assert case.source.shape == (1, 8, 9)
    assert case.source.format == "dicom"
    path = write_enhanced(array, "x/two_echoes.dcm")
    for source in find_volumes(path).volumes:
        (case,) = read_description(described(tmp_path, "x/two_echoes.dcm", source.series)).cases
        assert case.source.tags["EchoTime"] == source.tags["EchoTime"]
    with pytest.raises(MrsslError, match=rf"one volume, of these: {source.series[:2]}.*, 3-\w+$"):
        read_description(described(tmp_path, "x/two_echoes.dcm"))
    (tmp_path / "x" / "notes").write_text("no scan")
    with pytest.raises(MrsslError, match="notes: neither DICOM nor NIfTI"):
        read_description(described(tmp_path, "x/notes"))


def test_files_of_one_folder_can_be_told_apart(write_enhanced: Callable, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 99, (2, 5, 8, 9)).astype(np.int16)
    for name in ("a", "b"):
        write_enhanced(array[:1], f"x/{name}.dcm")
    with pytest.raises(MrsslError, match=r"x: .* one volume, of these: a\.dcm, b\.dcm$"):
        read_description(described(tmp_path, "x"))
    (case,) = read_description(described(tmp_path, "x/b.dcm")).cases
    assert Path(case.source.path).name == "b.dcm"
    write_enhanced(array, "x/c.dcm")
    keys = [source.series for source in find_volumes(tmp_path / "x" / "c.dcm").volumes]
    listed = ", ".join(f"c.dcm {key}" for key in keys)
    (tmp_path / "x" / "a.dcm").unlink()  # the key of b.dcm, "", is no choice
    with pytest.raises(MrsslError, match=listed):
        read_description(described(tmp_path, "x"))
    (case,) = read_description(described(tmp_path, "x", keys[1])).cases
    assert case.source.tags["EchoTime"] == "20.0"


def test_a_subject_pattern_names_subjects(labeled_set: Path) -> None:
    dataset = load_dataset(labeled_set, subject_pattern=r"case_(\d)")
    assert {record["subject_id"] for record in dataset.dicts} == set("0123")
    for pattern in ("nothing", "case_(x)?"):
        with pytest.raises(MrsslError, match="no subject"):
            load_dataset(labeled_set, subject_pattern=pattern)
    with pytest.raises(MrsslError, match="subject pattern"):
        load_dataset(labeled_set, subject_pattern="(")


@pytest.mark.parametrize("content", [{"training": ["AB1_T1.nii.gz", "CD2_T1.nii.gz"]}, {}])
def test_a_subject_pattern_sees_no_more_than_the_data_set(
    write_nifti: Callable, monkeypatch: pytest.MonkeyPatch, content: dict
) -> None:
    for case in ("AB1_T1", "CD2_T1"):
        name = f"{case}.nii.gz" if content else f"imagesTr/{case}_0000.nii.gz"
        folder = write_nifti(np.ones((4, 4, 4), np.int16), f"MR2024/{name}").parent
    path = (folder if content else folder.parent) / "dataset.json"
    path.write_text(json.dumps({**content, "subject_pattern": "([A-Z]+[0-9]+)"}))
    assert {record["subject_id"] for record in load_dataset(path).dicts} == {"AB1", "CD2"}
    monkeypatch.chdir(path.parent)
    assert {r["subject_id"] for r in load_dataset("dataset.json").dicts} == {"AB1", "CD2"}


@pytest.mark.parametrize(
    ("first", "second", "may_overlap"),
    [
        ("train", "train_8", True),
        ("train", "pretrain", True),
        ("train", "fold0_train", True),
        ("train", "all", True),
        ("fold0_train", "fold1_test", True),
        ("2-val", "1-train", True),
        ("part_a", "part_b", True),
        ("train", "Test", False),
        ("train", "valid", False),
        ("fold0_train", "fold0_test", False),
        ("fold0_train", "test", False),
        ("siteA_train", "siteB_test", False),
        ("inner_val", "outer_test", False),
        ("mine", "yours", False),
    ],
)
def test_kinds_of_splits(labeled_set: Path, first: str, second: str, may_overlap: bool) -> None:
    split = {first: ["case_0", "case_1"], second: ["case_1"]}
    labeled_set.with_name("split.json").write_text(json.dumps(split))
    for name in (first, second):
        if may_overlap:
            assert describe(f"{labeled_set}:{name}").cases
            continue
        with pytest.raises(MrsslError, match="subject 'case_1' is in both"):
            describe(f"{labeled_set}:{name}")


def test_a_subject_in_train_and_test_is_refused(labeled_set: Path) -> None:
    split = labeled_set.with_name("split.json")
    edit(split, test=["case_3", "case_0"], train_1=["case_0"])
    with pytest.raises(MrsslError, match="'case_0' is in both 'train' and 'test'"):
        load_dataset(f"{labeled_set}:train")
    edit(split, test=["case_3"])
    assert len(load_dataset(f"{labeled_set}:train_1").dicts) == 6


def test_bad_input_is_one_line_that_names_the_file(
    labeled_set: Path, write_nifti: Callable
) -> None:
    folder = labeled_set.parent
    (folder / "empty").mkdir()
    (folder / "text").mkdir()
    (folder / "text" / "a.nii.gz").write_text("no volume")
    write_nifti(np.zeros((3, 3, 3), np.uint8), "labelsTr/case_2.nii.gz")
    for what, message in [
        (folder / "nothing", "nothing: no such"),
        (folder / "empty", "empty: no MRI volume found"),
        (folder / "text", r"text: no MRI volume found .*a\.nii\.gz: not a NIfTI file"),
        (f"{labeled_set}:none", r"split\.json: no split 'none'; it has 'train', 'test'"),
        (f"{labeled_set}:train", r"case_2\.nii\.gz: label of shape .*case_2\.nii\.gz"),
        (folder / "other.json", r"other\.json: no such file"),
    ]:
        with pytest.raises(MrsslError, match=message) as caught:
            load_dataset(what)
        assert "\n" not in str(caught.value)
    with pytest.raises(MrsslError, match="case_2"):
        VolumeCache().label(
            {
                **load_dataset(f"{labeled_set}:train", labeled=False).dicts[-1],
                "label_file": str(folder / "labelsTr" / "case_2.nii.gz"),
            }
        )


def test_a_hundred_thousand_slices_travel_light(labeled_set: Path) -> None:
    dicts = load_dataset(labeled_set).dicts
    assert len(pickle.dumps(dicts)) / len(dicts) < 400


def test_cache_is_bounded_and_drops_the_oldest(labeled_set: Path) -> None:
    dicts = load_dataset(labeled_set).dicts[::6]
    reads: list[str] = []

    def reader(file_name: str, series: str) -> Volume:
        reads.append(Path(file_name).name)
        return read_volume(file_name, series=series)

    one = 6 * 16 * 12 * 4
    cache = VolumeCache(2 * one, reader=reader)
    for index in (0, 1, 0, 2, 0, 1):
        volume = cache.image(dicts[index])
        assert volume.shape == (6, 16, 12)
        assert volume.min() == 0
        assert volume.max() == pytest.approx(1)
        assert cache.nbytes <= 2 * one
    assert [int(name[5]) for name in reads] == [0, 1, 2, 1]
    assert len(VolumeCache(0).image(dicts[0])) == 6


def test_cached_arrays_cannot_be_spoilt(labeled_set: Path) -> None:
    cache = VolumeCache()
    record = load_dataset(labeled_set).dicts[0]
    for array in (cache.image(record), cache.label(record)):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert cache.label(record).dtype == np.int32


def test_image_is_the_volume_normalised(labeled_set: Path) -> None:
    record = load_dataset(labeled_set).dicts[0]
    raw = read_volume(record["file_name"]).take_slices(record["slice_axis"])
    image = VolumeCache(normalization="window", window=(0, 400)).image(record)
    np.testing.assert_allclose(image, raw.array / 400, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "axis", "slices"), [("spine", "W", 234), ("hippocampus", "D", None)]
)
def test_real_data_sets(shared_data: Path, name: str, axis: str, slices: int | None) -> None:
    dataset = load_dataset(f"{shared_data / name / 'dataset.json'}:test")
    assert {record["slice_axis"] for record in dataset.dicts} == {axis}
    assert slices is None or len(dataset.dicts) == slices
    cache = VolumeCache()
    record = dataset.dicts[10]
    assert cache.image(record).shape == cache.label(record).shape
    assert set(np.unique(cache.label(record))) == {0, *dataset.class_values}


def test_subjects_of_a_split_are_chosen_in_the_path(labeled_set: Path) -> None:
    path = select_subjects(f"{labeled_set}:train", ["case_2", "case_0"])
    dataset = load_dataset(path)
    assert [r["subject_id"] for r in dataset.dicts] == ["case_0"] * 6 + ["case_2"] * 6
    assert dataset.name == "toy:train[case_2,case_0]"
    assert describe(f"{labeled_set}:train[case_1]").cases[0].name == "case_1"


@pytest.mark.parametrize("selection", ["train[case_3]", "train[case_0,nobody]"])
def test_a_subject_of_another_split_cannot_be_chosen(labeled_set: Path, selection: str) -> None:
    with pytest.raises(MrsslError, match=r"split 'train' has no '(case_3|nobody)'"):
        load_dataset(f"{labeled_set}:{selection}")


@pytest.mark.parametrize("selection", ["train[", "train[]", "train[a]b", "[a]", "train[[a]]"])
def test_a_malformed_choice_is_named(labeled_set: Path, selection: str) -> None:
    with pytest.raises(MrsslError, match=r"is neither a split nor split\[subject"):
        load_dataset(f"{labeled_set}:{selection}")


@pytest.mark.parametrize("names", [[], [""], ["a,b"], ["a]"], ["a/b"]])
def test_names_that_cannot_stand_in_a_path_are_refused(labeled_set: Path, names: list[str]) -> None:
    with pytest.raises(MrsslError, match=r"no subject|cannot be named"):
        select_subjects(f"{labeled_set}:train", names)
    with pytest.raises(MrsslError, match="of a split only"):
        select_subjects(labeled_set, ["case_0"])
