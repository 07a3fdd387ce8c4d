"""Damaged files end in the one error meant for the user: no crash, no hang, no flood of memory."""

from __future__ import annotations

import gzip
import json
import resource
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from fuzz_readers import main
from mrssl.data import find_volumes, load_dataset, read_volume
from mrssl.data.preparing import prepare_store
from mrssl.data.store import index_digest
from mrssl.errors import MrsslError

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
NIBABEL_FILES = Path(nib.__file__).parent / "tests" / "data"
SOURCES = [
    *sorted(PYDICOM_FILES.glob("MR_small*.dcm")),
    PYDICOM_FILES / "image_dfl.dcm",
    NIBABEL_FILES / "anatomical.nii",
    NIBABEL_FILES / "example4d.nii.gz",
    NIBABEL_FILES / "example_nifti2.nii.gz",
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_damage_ends_in_the_defined_error(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(source), "--count", "40"]) == 0, capsys.readouterr().out


def test_a_small_gzip_that_swells_is_stopped(tmp_path: Path) -> None:
    """A header that promises little, in front of a gigabyte of zeros."""
    header = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).to_bytes()
    path = tmp_path / "bomb.nii.gz"
    with gzip.open(path, "wb", 9) as stream:
        stream.write(header)
        for _ in range(1024):
            stream.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_volume(path).shape == (4, 4, 4)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_header_without_its_voxels_allocates_nothing(tmp_path: Path) -> None:
    """512 MB promised, zeros that end early."""
    header = nib.Nifti1Header()
    header.set_data_shape((800, 800, 800))
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    path = tmp_path / "short.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(20 << 20), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MrsslError, match=r"short\.nii\.gz"):
        read_volume(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_countless_volumes_are_refused(tmp_path: Path) -> None:
    header = nib.Nifti1Header()
    header.set_data_shape((1, 1, 1, 32767, 1))
    header.set_data_dtype(np.uint8)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    path = tmp_path / "a.nii"
    path.write_bytes(header.binaryblock + bytes(4) + bytes(32767))
    assert "larger than can be real" in find_volumes(path).refused[0].reason


def test_one_bad_file_does_not_spoil_its_folder(write_series: Callable) -> None:
    array = np.random.default_rng(0).integers(0, 99, (5, 8, 9)).astype(np.int16)
    folder = write_series(array)
    (folder / "bad.dcm").write_bytes((folder / "0001.dcm").read_bytes()[:300])
    found = find_volumes(folder)
    assert [Path(item.path).name for item in found.refused] == ["bad.dcm"]
    assert np.array_equal(read_volume(folder).array, array)


def test_a_dicom_header_without_its_pixels_allocates_nothing(
    write_series: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_series(np.ones((2, 8, 9), np.int16))
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.Rows = dataset.Columns = 65535
        dataset.save_as(path)
    assert len(find_volumes(folder).volumes) == 1
    monkeypatch.setattr(np, "empty", None)
    with pytest.raises(MrsslError, match=r"0002\.dcm: truncated: 8589672450 bytes of pixels"):
        read_volume(folder)


@pytest.mark.parametrize("far", ["1e308", "-1.0e300"])
def test_slices_farther_than_any_patient_do_not_end_a_scan(
    write_series: Callable, far: str
) -> None:
    folder = write_series(np.ones((2, 8, 9), np.int16))
    for number, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient = ["0", "0", "1e308" if number else "-1e308"]
        dataset.save_as(path)
    (volume,) = find_volumes(folder).volumes
    assert any("no position" in fault for fault in volume.faults)


@pytest.mark.parametrize("key", ["../../outside", "/outside", "0123456789abcdeg"])
def test_the_index_of_a_strange_store_leads_nowhere_else(
    labeled_set: Path, tmp_path: Path, key: str
) -> None:
    store = tmp_path / "a" / "b" / "store"
    prepare_store(labeled_set, store)
    content = json.loads((store / "dataset.json").read_text())
    content["volumes"][0]["key"] = key
    content["digest"] = index_digest(content)
    (store / "dataset.json").write_text(json.dumps(content))
    for use in (lambda: prepare_store(labeled_set, store), lambda: load_dataset(store)):
        with pytest.raises(MrsslError, match=r"describes a volume as no slice store does"):
            use()
    assert not list(tmp_path.rglob("outside*"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shape", [2, 3]),
        ("shape", [2.5, 8, 9]),
        ("shape", "abc"),
        ("affine", [[1.0, 0.0], [0.0, 1.0]]),
        ("affine", [[float("nan")] * 4] * 4),
        ("window", [0.0, "much"]),
        ("foreground", [0.5]),
        ("foreground", ["all"]),
        ("tags", ["Modality"]),
        ("faults", None),
        ("case", 7),
        ("label", "yes"),
        (None, "no dictionary"),
    ],
)
def test_an_index_that_no_store_has_is_named_in_one_line(
    labeled_set: Path, tmp_path: Path, field: str | None, value: object
) -> None:
    """Its maker made its digest too, so that tells nothing."""
    store = tmp_path / "store"
    prepare_store(labeled_set, store)
    content = json.loads((store / "dataset.json").read_text())
    if field is None:
        content["volumes"][0] = value
    else:
        content["volumes"][0][field] = value
    content["digest"] = index_digest(content)
    (store / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(MrsslError, match=r"dataset\.json: describes a volume as no slice store"):
        load_dataset(store)


@pytest.mark.parametrize("name", ["volumes", "labels", "entries"])
def test_what_a_link_in_a_store_leads_to_is_not_cleared(
    labeled_set: Path, tmp_path: Path, name: str
) -> None:
    store, mine = tmp_path / "store", tmp_path / "mine"
    prepare_store(labeled_set, store)
    mine.mkdir()
    (mine / "thesis.txt").write_text("x")
    if (store / name).is_dir():
        (store / name).rename(store / f"{name}-before")
    (store / name).symlink_to(mine, target_is_directory=True)
    with pytest.raises(MrsslError, match=rf"{name}: is a link"):
        prepare_store(labeled_set, store)
    assert (mine / "thesis.txt").read_text() == "x"


def test_folders_that_are_called_as_those_of_a_store_are_left_alone(
    labeled_set: Path, tmp_path: Path
) -> None:
    for file in ("entries/january.json", "labels/mine.npy"):
        (tmp_path / "diary" / file).parent.mkdir(parents=True)
        (tmp_path / "diary" / file).write_text("precious")
    with pytest.raises(MrsslError, match="diary: is neither empty nor a slice store"):
        prepare_store(labeled_set, tmp_path / "diary")
    (tmp_path / "diary/entries/january.json").unlink()  # as a run that was stopped at once
    prepare_store(labeled_set, tmp_path / "diary")
    assert (tmp_path / "diary/labels/mine.npy").read_text() == "precious"


def test_the_ending_of_files_leads_nowhere_else(labeled_set: Path) -> None:
    root = labeled_set.parent
    (root / "imagesTr" / "x_0000").mkdir(parents=True, exist_ok=True)
    ending = "/../../../private/secret.nii.gz"
    path = root / "other.json"
    path.write_text(json.dumps({"labels": {"a": 1}, "file_ending": ending}))
    with pytest.raises(MrsslError, match=r"other.json: 'file_ending' '/\.\./.* is not of the kind"):
        load_dataset(path)
