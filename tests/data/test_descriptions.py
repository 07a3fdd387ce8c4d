"""A description from a stranger names nothing but what came with it."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

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
