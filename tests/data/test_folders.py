"""Series that lie in several folders, and folders that are named after patients."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import check_data
import prepare_data
from mrssl.checkpoint import Provenance
from mrssl.config import get_cfg
from mrssl.data import dicom_scan, find_volumes, load_dataset, read_volume
from mrssl.data.dicom_scan import forget_scans, scan_tree
from mrssl.data.preparing import prepare_store
from mrssl.data.sources import Refused
from mrssl.privacy import PathMask, cover, patient_marks, pseudonym


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, (6, 8, 10)).astype(np.int16)


def deal(folder: Path, *, into: list[str]) -> Path:
    """Move the files of ``folder`` to several folders beneath it, in turns."""
    for number, path in enumerate(sorted(folder.iterdir())):
        target = folder / into[number % len(into)] / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    return folder


def test_a_folder_that_cannot_be_opened_is_told(
    write_series: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = deal(write_series(voxels()), into=["open", "closed"])
    closed, scandir = str(folder / "closed"), os.scandir

    def refusing(path: str = ".") -> Any:  # as for others than root
        if os.fspath(path) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    forget_scans()
    found = find_volumes(folder.parent)
    assert len(found.volumes) == 1
    reason = "the folder cannot be opened (Permission denied)"
    assert found.refused == [Refused(closed, reason)]
    assert scan_tree(folder).refused == ((closed, reason),)


@pytest.mark.parametrize("into", [["a", "b"], ["a/x", "b"], list("abcdef"), [".", "b"]])
def test_a_series_in_several_folders_is_one_volume(write_series: Callable, into: list[str]) -> None:
    folder = deal(write_series(voxels()), into=into)
    found = find_volumes(folder.parent)
    (source,) = found.volumes
    assert not found.refused
    assert source.path == str(folder)
    assert source.faults == ()
    forget_scans()
    volume = read_volume(source.path, series=source.series)
    assert np.array_equal(volume.array, voxels())
    np.testing.assert_allclose(volume.affine, source.affine)
    dataset = load_dataset(folder.parent)
    assert {(r["file_name"], r["series"]) for r in dataset.dicts} == {(source.path, source.series)}


def test_several_spread_series_cost_one_search(
    write_series: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2, 3):
        folder = write_series(
            voxels(number), prefix=f"{number}-", SeriesInstanceUID=f"1.2.{number}"
        )
    deal(folder, into=["a", "b"])
    sources, found = find_volumes(folder).volumes, scan_tree(folder)
    forget_scans()
    searched: list[Any] = []
    monkeypatch.setattr(dicom_scan, "scan_tree", lambda root: searched.append(root) or found)
    read = [read_volume(source.path, series=source.series).array for source in sources]
    assert sorted(a.sum() for a in read) == sorted(voxels(n).sum() for n in (1, 2, 3))
    assert searched == [str(folder)]


def test_repeats_in_several_folders_are_told_apart(write_series: Callable) -> None:
    """Two acquisitions, so many files a folder that the first ends within the second folder."""
    for number in (1, 2):
        folder = write_series(voxels(number), prefix=f"{number}-", AcquisitionNumber=number)
    for number, path in enumerate(sorted(folder.iterdir())):
        dataset = numbered(path, number)
        target = folder / f"disk{number // 4}" / path.name
        target.parent.mkdir(exist_ok=True)
        dataset.save_as(target)
        path.unlink()
    sources = find_volumes(folder).volumes
    assert [source.shape for source in sources] == [(6, 8, 10)] * 2
    read = [read_volume(s.path, series=s.series).array for s in sources]
    assert sorted(a.sum() for a in read) == sorted(voxels(n).sum() for n in (1, 2))


def numbered(path: Path, number: int):
    import pydicom

    dataset = pydicom.dcmread(path)
    dataset.InstanceNumber = number + 1
    return dataset


def test_whole_volumes_in_folders_of_their_own_stay_there(write_series: Callable) -> None:
    for echo in (1, 2, 3):
        folder = write_series(voxels(echo), f"series/{echo}", AcquisitionNumber=echo)
        for number, path in enumerate(sorted(folder.iterdir())):
            numbered(path, 6 * echo + number).save_as(path)
    sources = find_volumes(folder.parent).volumes
    assert [Path(source.path).name for source in sources] == ["1", "2", "3"]
    assert all(source.series == "" and not source.faults for source in sources)


def test_copies_of_slices_are_reported_and_not_joined(write_series: Callable) -> None:
    folder = write_series(voxels(), "scans/a")
    (folder.parent / "b").mkdir()
    for path in sorted(folder.iterdir())[:2]:
        shutil.copy(path, folder.parent / "b")
    whole, part = find_volumes(folder.parent).volumes
    assert (whole.shape[0], part.shape[0]) == (6, 2)
    assert "2 folders hold slices of this series" in whole.faults[0]
    assert np.array_equal(read_volume(whole.path, series=whole.series).array, voxels())


def test_links_to_folders_are_followed(write_series: Callable, tmp_path: Path) -> None:
    for number in (1, 2):
        write_series(voxels(number), f"archive/{number}/t1", PatientID=f"id-{number}")
    (tmp_path / "scans").mkdir()
    for number in (1, 2):
        (tmp_path / f"scans/patient_{number}").symlink_to(f"../archive/{number}")
    found = find_volumes(tmp_path / "scans", subject_pattern=r"patient_(\d)")
    assert [volume.subject for volume in found.volumes] == ["1", "2"]
    assert not found.refused
    for number, source in enumerate(found.volumes, 1):
        assert np.array_equal(read_volume(source.path).array, voxels(number))


def test_a_folder_comes_once_however_many_links_lead_to_it(
    write_series: Callable, tmp_path: Path
) -> None:
    write_series(voxels(1), "scans/own", PatientID="one")
    write_series(voxels(2), "archive/other", PatientID="two")
    scans = tmp_path / "scans"
    for name, target in {
        "a": "own",  # sorts before what it leads to
        "b": "../archive",
        "c": "../archive/other",
        "own/above": "..",
        "own/gone": "nowhere",
    }.items():
        (scans / name).symlink_to(target, target_is_directory=True)
    paths = [Path(source.path) for source in find_volumes(scans).volumes]
    assert paths == [scans / "own", scans / "b" / "other"]


def test_different_patients_are_never_joined(write_series: Callable) -> None:
    folder = write_series(voxels(), "scans/a", PatientID="one")
    write_series(voxels(), "scans/b", PatientID="two")
    for path in sorted(folder.iterdir())[:3]:
        path.unlink()
    for path in sorted((folder.parent / "b").iterdir())[3:]:
        path.unlink()
    assert [s.shape[0] for s in find_volumes(folder.parent).volumes] == [3, 3]


@pytest.fixture
def named_folder(write_series: Callable, tmp_path: Path) -> Path:
    """A folder of two patients, each in a folder with their name; one file is damaged."""
    people = {"Müller_Hans": "Müller^Hans", "jane-doe-7788": "Doe^Jane"}
    for number, (folder, name) in enumerate(people.items()):
        tags = {
            "PatientName": name,
            "PatientID": f"id-{number}",
            "SpecificCharacterSet": "ISO_IR 100",
        }
        path = write_series(voxels(number), f"scans/{folder}/t1", **tags)
    (path / "0001.dcm").write_bytes((path / "0001.dcm").read_bytes()[:300])
    return tmp_path / "scans"


NAMES = ("ller", "Hans", "doe", "jane")


def assert_nameless(text: str) -> None:
    assert not [name for name in NAMES if name.lower() in text.lower()]


def test_folders_named_after_patients_are_covered(
    named_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    assert check_data.main([str(named_folder), "--json", str(report)]) == 0
    text = capsys.readouterr().out + report.read_text()
    assert "6x8x10" in text
    assert "t1" in text
    assert "refused" in text
    assert_nameless(text)
    check_data.main([str(named_folder), "--show-paths"])
    assert "Hans" in capsys.readouterr().out


def test_the_folder_of_one_patient_is_covered_too(
    named_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check_data.main([str(named_folder / "Müller_Hans")])
    assert_nameless(capsys.readouterr().out)


def test_no_name_comes_into_a_store(
    named_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = [{"image": f"scans/{name}/t1"} for name in ("Müller_Hans", "jane-doe-7788")]
    description = tmp_path / "dataset.json"
    description.write_text(json.dumps({"training": images, "name": "two"}))
    split = {"train": ["t1"], "all": ["t1"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    for source in (named_folder, named_folder / "Müller_Hans", description):
        output = tmp_path / f"store{len(str(source))}"
        assert prepare_data.main([str(source), str(output), "--workers", "1"]) == 0
        files = [path for path in output.rglob("*") if path.is_file()]
        assert_nameless("".join(map(str, [path.relative_to(output) for path in files])))
        assert_nameless("".join(path.read_text() for path in files if path.suffix == ".json"))
    assert_nameless(capsys.readouterr().out)


def test_cases_and_splits_of_a_store_are_covered_alike(
    write_series: Callable, tmp_path: Path
) -> None:
    write_series(voxels(), "Doe_Jane", PatientName="Doe^Jane")
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [{"image": "Doe_Jane"}]}))
    (tmp_path / "split.json").write_text(json.dumps({"train": ["Doe_Jane"]}))
    prepare_store(tmp_path / "dataset.json", tmp_path / "store")
    assert len(load_dataset(f"{tmp_path / 'store' / 'dataset.json'}:train").dicts) == 6
    assert_nameless((tmp_path / "store" / "split.json").read_text())


def test_a_data_set_has_the_marks_of_its_patients(write_series: Callable[..., Path]) -> None:
    folder = write_series(voxels(), "Doe_Jane", PatientName="Doe^Jane")
    assert cover("Doe_Jane_T1", load_dataset(folder).marks).startswith("~")


def test_subjects_without_an_id_are_not_named_after_their_folder(write_series: Callable) -> None:
    (source,) = find_volumes(write_series(voxels(), "Doe_Jane", PatientID=None)).volumes
    assert source.subject
    assert_nameless(source.subject)


def test_without_an_id_the_subject_is_the_study_or_the_pattern(
    write_series: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        tags = {"PatientID": None, "StudyInstanceUID": f"1.2.{number}"}
        for kind in (1, 2):
            folder = f"scans/patient_{number}/T{kind}"
            write_series(voxels(10 * number + kind), folder, SeriesInstanceUID=f"1.{kind}", **tags)
    volumes = find_volumes(tmp_path / "scans").volumes
    subjects = [volume.subject for volume in volumes]
    assert subjects[0] == subjects[1] != subjects[2] == subjects[3]
    split = tmp_path / "split.json"
    arguments = [str(tmp_path / "scans"), "--write-split", str(split)]
    check_data.main([*arguments, "--shares", "train=.5", "test=.5"])
    assert capsys.readouterr().out.count("no PatientID: the subject is a guess") == 4
    assert sorted(map(len, json.loads(split.read_text()).values())) == [1, 1]
    split.unlink()  # of other subjects
    check_data.main([*arguments, "--subject-pattern", r"patient_(\d+)"])
    assert "no PatientID" not in capsys.readouterr().out


def test_no_folder_of_scans_is_named_in_a_checkpoint(named_folder: Path) -> None:
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (str(named_folder / "Müller_Hans"),)
    (name,) = Provenance.from_config(cfg, task="pretrain", class_names=[]).data
    assert name.startswith("folder-")
    assert name == load_dataset(named_folder / "Müller_Hans").name


@pytest.mark.parametrize(
    ("text", "covered"),
    [
        ("Doe_Jane", "~"),
        ("DOE JANE T1", "~ T1"),
        ("Jane_2_Doe", "~_2_~"),
        ("doejane", "~"),
        ("scan_JaneDoe_2", "scan_~_2"),
        ("pgbm003/T1", "~/T1"),
        ("PGBM-003", "~"),
        ("doer", "doer"),
        ("T2", "T2"),
    ],
)
def test_words_are_recognised(text: str, covered: str) -> None:
    marks = patient_marks("Doe^Jane", "PGBM-003")
    digits = "0123456789abcdef"
    shown = cover(text, marks)
    while any(f"~{d}" in shown for d in digits):
        for d in digits:
            shown = shown.replace(f"~{d}", "~")
    assert shown == covered


def test_accents_and_their_spelling_make_no_difference() -> None:
    marks = patient_marks("Müller^Hans", "")
    for text in ("Müller", "MÜLLER", "Mu\u0308ller", "muller"):
        assert "ller" not in cover(text, marks).lower()


def test_a_message_is_covered_from_its_first_path_on() -> None:
    mask = PathMask("/data/doe", [patient_marks("Doe^Jane", ""), patient_marks("Roe^Jim", "")])
    assert mask("the doe pixels, 12.5 mm") == "the doe pixels, 12.5 mm"
    text = mask("the doe pixels (image /data/doe/roe (2)/jane: T1/a.dcm) end")
    assert text.startswith("the doe pixels (image /data/doe/~")
    assert text.endswith(": T1/a.dcm) end")
    assert "roe" not in text
    assert "jane" not in text
    assert "jane" not in mask("the file with its voxels, 'jane.raw', is missing")


@pytest.mark.parametrize("root", [".", "scans", "scans/a", "/data", "a"])
@pytest.mark.parametrize("inner", ["", "T2 (2)/", "scan: one/", "a/"])
def test_a_path_is_covered_whole_whatever_is_in_it(root: str, inner: str) -> None:
    """As a field and in a message, also beneath a root that goes without saying."""
    mask = PathMask(root, [patient_marks("Doe^Jane", ""), patient_marks("Roe^Jim", "")])
    path = str(Path(root) / f"{inner}Doe_Jane" / "0001.dcm")
    assert_nameless(mask(f"label unusable: {path}: truncated"))
    shown = mask.path(path)
    assert_nameless(shown)
    assert shown.startswith(path[: path.index("Doe")])
    assert shown.endswith("/0001.dcm")
    assert mask(f"{path}: truncated") == f"{shown}: truncated"


def test_a_folder_is_covered_from_within(
    named_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(named_folder)
    check_data.main(["."])
    prepare_data.main([".", "../store", "--workers", "1"])
    assert_nameless(capsys.readouterr().out)


UUID = "550e8400-e29b-41d4-a716-446655440000"


@pytest.mark.parametrize(
    ("name", "patient_id", "text"),
    [
        ("", UUID, UUID),
        ("", "1.2.840.113619.2.55.3.604688119", "1.2.840.113619.2.55.3.604688119"),
        ("Smith^Anna^Maria", "", "SmithAnna"),
        ("Smith^Anna^Maria", "", "AnnaSmith"),
        ("Smith^Anna^Maria", "", "Smith_AnnaMaria"),
    ],
)
def test_long_ids_and_parts_of_names_are_recognised(name: str, patient_id: str, text: str) -> None:
    assert re.fullmatch(r"x/(~\w{6}_?)+/T1", cover(f"x/{text}/T1", patient_marks(name, patient_id)))


def test_a_key_makes_pseudonyms_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden: sha256sum, and openssl dgst -sha256 -hmac."""
    assert pseudonym("0412345") == "b01dad08d99b"
    monkeypatch.setenv("MRSSL_PSEUDONYM_KEY", "secret")
    assert pseudonym(" 0412345") == "571d8522194a"
    assert pseudonym("") == pseudonym(None) == ""
    monkeypatch.setenv("MRSSL_PSEUDONYM_KEY", "")
    assert pseudonym("0412345") == "b01dad08d99b"


def test_a_key_changes_subjects_and_what_is_covered(
    write_series: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_series(voxels(), "Roe_Jim", PatientName="Roe^Jim", PatientID="0412345")
    plain = load_dataset(folder)
    monkeypatch.setenv("MRSSL_PSEUDONYM_KEY", "secret")
    forget_scans()
    patient_marks.cache_clear()
    keyed = load_dataset(folder)
    assert keyed.dicts[0]["subject_id"] != plain.dicts[0]["subject_id"]
    shown = {cover("Roe_Jim/T1", plain.marks | keyed.marks), cover("Roe_Jim/T1", keyed.marks)}
    assert len(shown) == 1
    assert shown.pop().startswith("~")
    monkeypatch.undo()
    forget_scans()
    patient_marks.cache_clear()
