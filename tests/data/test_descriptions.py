"""A description names nothing but what came with it, and tells what of that is not used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import check_data
from mrssl.data import descriptions, load_dataset
from mrssl.errors import MrsslError


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "private" / "patient.nii.gz"
    path.parent.mkdir()
    nib.save(nib.Nifti1Image(np.ones((6, 6, 6), np.float32), np.eye(4)), path)
    (tmp_path / "shared").mkdir()
    return path


def description(folder: Path, content: object) -> Path:
    path = folder / "dataset.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"training": ["../private/patient.nii.gz"]},
        {"training": [{"image": "a/../../private/patient.nii.gz"}]},
        {"training": [{"image": "{secret}"}]},
        {"folder": "../private"},
        {"folder": "../../../.."},
    ],
)
def test_paths_out_of_the_folder_are_refused(
    secret: Path, content: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MRSSL_TRUST_PATHS", raising=False)
    text = json.dumps(content).replace("{secret}", str(secret))
    path = description(secret.parents[1] / "shared", json.loads(text))
    with pytest.raises(MrsslError, match=r"dataset\.json: .* outside its folder"):
        load_dataset(path)


def test_a_label_out_of_the_folder_is_refused(
    secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MRSSL_TRUST_PATHS", raising=False)
    folder = secret.parents[1] / "shared"
    (folder / "scan.nii.gz").write_bytes(secret.read_bytes())
    case = {"image": "scan.nii.gz", "label": "../private/patient.nii.gz"}
    path = description(folder, {"labels": {"a": 1}, "training": [case]})
    with pytest.raises(MrsslError, match="outside its folder"):
        load_dataset(path)


def test_the_user_can_allow_them(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = description(secret.parents[1] / "shared", {"training": ["../private/patient.nii.gz"]})
    monkeypatch.setenv("MRSSL_TRUST_PATHS", "1")
    assert len(load_dataset(path).dicts) == 6


def test_dots_that_stay_inside_are_no_fault(secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MRSSL_TRUST_PATHS", raising=False)
    path = description(secret.parents[1], {"training": ["./shared/../private/patient.nii.gz"]})
    assert len(load_dataset(path).dicts) == 6


def test_the_index_of_a_store_names_nothing_outside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MRSSL_TRUST_PATHS", raising=False)
    index = {"volumes": [{"key": "../../private/patient"}]}
    with pytest.raises(MrsslError, match="outside its folder"):
        descriptions._stored_cases(tmp_path / "index.json", index)


@pytest.fixture
def damaged(write_series: Callable[..., Path], tmp_path: Path) -> Path:
    """Two series of 6 slices in ``scans``, the last slice of one cut off; its file."""
    array = np.random.default_rng(0).integers(0, 900, (6, 8, 10)).astype(np.int16)
    for number in (1, 2):
        tags = {"PatientID": f"id-{number}", "PatientName": "Doe^Jane", "EchoTime": 10 * number}
        folder = write_series(array, f"scans/Doe_Jane_{number}", **tags)
    path = folder / "0001.dcm"
    path.write_bytes(path.read_bytes()[:300])
    return path


@pytest.mark.parametrize(
    "content",
    [
        {"folder": "scans"},
        {"folder": "scans", "exclude": {"EchoTime": 20}},
        {"training": ["scans/Doe_Jane_1", "scans/Doe_Jane_2"]},
        {"training": [{"image": "scans/Doe_Jane_2", "series": ""}] * 2},
    ],
)
def test_files_that_are_not_used_are_told(
    damaged: Path,
    tmp_path: Path,
    content: dict,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = description(tmp_path, content)
    (refused,) = descriptions.describe(path).refused
    assert refused.path == str(damaged)
    assert f"{path}: 1 files are not used" in caplog.text
    check_data.main([str(path)])
    out = capsys.readouterr().out
    assert "1 files refused" in out
    assert "0001.dcm: " in out
    assert "Doe" not in out


@pytest.mark.parametrize(
    "content",
    [
        {"folder": "scans"},
        {"training": ["scans/Doe_Jane_2"]},
        {"folder": "scans", "include": {"EchoTime": 20}},
    ],
)
def test_why_there_is_no_volume_is_told(damaged: Path, tmp_path: Path, content: dict) -> None:
    for path in (tmp_path / "scans").rglob("*.dcm"):
        if path.parent == damaged.parent or "include" not in content:
            path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(MrsslError, match=r"files refused, the first .*\.dcm: .+") as caught:
        load_dataset(description(tmp_path, content))
    assert "\n" not in str(caught.value)


def changed(path: Path, changes: dict) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": {"a": "x"}}, "'a'"),
        ({"labels": {}}, "no 'labels'"),
        ({"labels": [1]}, "'labels'"),
        ({"labels": {"a": 1.7}}, "label 'a': 1.7 is not a whole number"),
        ({"labels": {"a": True}}, "label 'a': True is not a whole number"),
        ({"labels": {"a": [1, 2.5]}}, r"label 'a': \[1, 2.5\] is not a whole number"),
        (
            {"labels": {"1": "a", "2": "a"}},
            r"two labels are called 'a': .*, as in {\"a\": \[1, 2\]}",
        ),
        ({"training": [{}]}, "no 'image'"),
        ({"training": {}}, "list"),
        ({"training": []}, "no volume"),
        ({"exlcude": {}}, "unknown key 'exlcude': is 'exclude' meant"),
        ({"Labels": {}}, "unknown key 'Labels': is 'labels' meant"),
        ({"folder": ".", "exclude": {"Kinds": "phase"}}, "'exclude' knows no field 'Kinds': is 'K"),
        ({"folder": ".", "include": {"Colour": "red"}}, "'include' knows no field 'Colour', of Bo"),
        ({"folder": ".", "include": ["Kind"]}, "must map header fields"),
        ({"training": ["./imagesTr/gone.nii.gz"]}, "gone.nii.gz: no such file"),
    ],
)
def test_malformed_descriptions_are_named(labeled_set: Path, changes: dict, message: str) -> None:
    changed(labeled_set, changes)
    with pytest.raises(MrsslError, match=message):
        load_dataset(labeled_set)


def test_label_values_are_whole_numbers_whatever_their_notation(labeled_set: Path) -> None:
    labels = {"background": [0], "b": 2.0, "a": "1", "both": [1.0, 2], "ignore": 3}
    changed(labeled_set, {"labels": labels})
    described = descriptions.describe(labeled_set)
    assert described.class_names == ["a", "both", "b"]
    assert repr(described.class_values) == "[1, (1, 2), 2]"  # integers all


def test_a_byte_order_mark_before_the_text_is_passed_over(labeled_set: Path) -> None:
    before = load_dataset(f"{labeled_set}:test").dicts
    for path in (labeled_set, labeled_set.with_name("split.json")):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_dataset(f"{labeled_set}:test").dicts == before


def test_what_macos_leaves_beside_a_copied_image_is_no_image(labeled_set: Path) -> None:
    content = json.loads(labeled_set.read_text())
    del content["training"]
    labeled_set.write_text(json.dumps(content))
    folder = labeled_set.parent / "imagesTr"
    for image in list(folder.iterdir()):
        image.rename(image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")))
    before = load_dataset(labeled_set).dicts
    (folder / "._case_0_0000.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    assert before and load_dataset(labeled_set).dicts == before


def test_keys_of_nnunet_and_the_decathlon_are_let_be(labeled_set: Path) -> None:
    decathlon = ("description", "reference", "licence", "license", "release", "relase", "modality")
    decathlon += ("tensorImageSize", "numTraining", "numTest", "test", "dataset_name")
    nnunet = ("channel_names", "regions_class_order", "overwrite_image_reader_writer", "citation")
    nnunet += ("image_reader_writer", "converted_by", "dataset", "validation", "author")
    changed(labeled_set, dict.fromkeys(decathlon + nnunet, 1))
    assert load_dataset(labeled_set).dicts


def test_the_first_nnunet_names_images_without_their_channel(labeled_set: Path) -> None:
    before = load_dataset(labeled_set).dicts
    for entry in json.loads(labeled_set.read_text())["training"]:
        image = labeled_set.parent / entry["image"]
        image.rename(image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")))
    after = load_dataset(labeled_set).dicts
    assert [d["subject_id"] for d in after] == [d["subject_id"] for d in before]
    assert after[0]["file_name"].endswith("_0000.nii.gz")
    image.with_name(image.name.replace(".nii.gz", "_0000.nii.gz")).unlink()
    with pytest.raises(MrsslError, match=rf"{image.name}: no such file"):
        load_dataset(labeled_set)
