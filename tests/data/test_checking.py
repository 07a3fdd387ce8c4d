from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import nibabel as nib
import numpy as np
import pytest

import check_data as tool
from mrssl.data import load_dataset
from mrssl.data.checking import check_data
from mrssl.data.descriptions import describe
from mrssl.data.preparing import prepare_store
from mrssl.data.splits import split_subjects
from mrssl.errors import MrsslError


def voxels(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, (6, 32, 40)).astype(np.int16)


def test_report_has_what_others_read(write_series: Callable, tmp_path: Path) -> None:
    folder = write_series(voxels())
    (folder / "notes.txt").write_text("hello")
    output = tmp_path / "out" / "report.json"
    assert tool.main([str(folder), "--json", str(output)]) == 0
    report = json.loads(output.read_text())
    (volume,) = report["volumes"]
    assert volume["path"] == str(folder)
    assert volume["format"] == "dicom"
    assert volume["shape"] == [6, 32, 40]
    assert volume["spacing"] == [2.5, 0.5, 0.8]
    assert volume["series"] == ""
    assert volume["faults"] == []
    assert volume["intensities"]["max"] == voxels().max()
    assert report["refused"] == [
        {"path": str(folder / "notes.txt"), "reason": "neither DICOM nor NIfTI"}
    ]
    assert [path.name for path in output.parent.iterdir()] == ["report.json"]


def test_no_name_is_shown_or_written(
    write_series: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_series(voxels(), PatientID="Secret-Number", SeriesDescription="t1")
    output = tmp_path / "report.json"
    tool.main([str(folder), "--json", str(output)])
    text = capsys.readouterr().out + output.read_text()
    assert "6x32x40" in text
    assert "Secret" not in text


def test_faults_are_listed_with_their_consequence(
    write_nifti: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nifti(np.full((8, 8, 8), 7, np.uint8), "d/constant.nii.gz")
    write_nifti(voxels(), "d/a.nii.gz")
    write_nifti(voxels(), "d/copy_of_a.nii.gz")
    (tmp_path / "d" / "bad.nii.gz").write_text("no")
    assert tool.main([str(tmp_path / "d")]) == 0
    out = capsys.readouterr().out
    assert "all voxels are 7: nothing to learn from" in out
    assert "a.nii.gz: keep one" in out
    assert "copy_of_a.nii.gz: keep one" in out
    assert "bad.nii.gz: not a NIfTI file" in out
    assert "3 volumes of 3 subjects" in out


def test_labels_are_checked(labeled_set: Path, write_nifti: Callable) -> None:
    wrong = np.zeros((12, 16, 6), np.uint8)
    wrong[0] = 9
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    write_nifti(wrong, "labelsTr/case_1.nii.gz", affine)
    write_nifti(np.zeros((3, 3, 3), np.uint8), "labelsTr/case_2.nii.gz")
    moved = affine.copy()
    moved[0, 3] = 7
    label = nib.load(labeled_set.parent / "labelsTr" / "case_3.nii.gz")
    write_nifti(np.asarray(label.dataobj), "labelsTr/case_3.nii.gz", moved)
    good, values, shape, place = check_data(labeled_set).volumes
    assert good["faults"] == []
    assert good["label"]["voxels"] == {"0": 1152 - 36 - 30, "1": 36, "2": 30}
    assert "[9] are not in 'labels'" in values["faults"][0]
    assert "label unusable" in shape["faults"][0]
    assert "7 mm beside" in place["faults"][0]


def test_contact_sheet_shows_every_volume(write_series: Callable, tmp_path: Path) -> None:
    for echo in (10.0, 20.0, 30.0):
        folder = write_series(voxels(), prefix=f"{echo}-", EchoTime=echo)
    sheet = tmp_path / "sheet.png"
    tool.main([str(folder), "--contact-sheet", str(sheet)])
    picture = cv2.imread(str(sheet), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (2 * 188, 2 * 160)
    assert picture[:160, :160].std() > 20
    assert not picture[188:, 160:].any()


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_text("no volume")
    with pytest.raises(MrsslError, match="no usable volume"):
        tool.main([str(tmp_path), "--json", str(tmp_path / "r.json")])
    assert len(json.loads((tmp_path / "r.json").read_text())["refused"]) == 1
    with pytest.raises(MrsslError, match="no such file"):
        tool.main([str(tmp_path / "nowhere")])


def test_wrong_arguments_exit_2(tmp_path: Path) -> None:
    for arguments in ([], ["a", "--shares", "train"], ["a", "--shares", "train=x"]):
        with pytest.raises(SystemExit) as caught:
            tool.main(arguments)
        assert caught.value.code == 2


def test_unwritable_output_is_one_line(write_series: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MrsslError, match=r"r\.json: cannot be written"):
        tool.main([str(write_series(voxels())), "--json", str(tmp_path / "file" / "r.json")])


def test_split_is_written_and_keeps_copies_together(write_nifti: Callable, tmp_path: Path) -> None:
    for index in range(6):
        write_nifti(voxels(index), f"d/sub-{index}.nii.gz")
    write_nifti(voxels(0), "d/sub-copy.nii.gz")
    output = tmp_path / "split.json"
    arguments = [
        str(tmp_path / "d"),
        "--write-split",
        str(output),
        "--shares",
        "train=.5",
        "test=.5",
    ]
    for seed in range(5):
        output.unlink(missing_ok=True)
        tool.main([*arguments, "--seed", str(seed)])
        split = json.loads(output.read_text())
        assert len(split["train"]) + len(split["test"]) == 7
        assert ("sub-0" in split["train"]) == ("sub-copy" in split["train"])


@pytest.mark.parametrize(
    ("names", "pattern", "subjects"),
    [
        ([f"p{i}/T{c}.nii.gz" for i in range(4) for c in (1, 2)], "([^/]+)/[^/]+$", 4),
        ([f"pat{i}_visit{v}.nii" for i in range(3) for v in (1, 2)], "([^/]*[0-9])[_-][^_/-]+$", 3),
    ],
)
def test_no_split_is_written_that_might_part_a_patient(
    names: list[str],
    pattern: str,
    subjects: int,
    write_nifti: Callable,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for index, name in enumerate(names):
        write_nifti(voxels(index), f"d/{name}")
    output = tmp_path / "split.json"
    arguments = [str(tmp_path / "d"), "--write-split", str(output)]
    with pytest.raises(MrsslError, match=r"split\.json: not written, since it might part"):
        tool.main(arguments)
    assert pattern in capsys.readouterr().out.split("doubtful: ")[1]
    assert not output.exists()
    tool.main([*arguments, "--subject-pattern", pattern])  # as the line has it
    assert sum(map(len, json.loads(output.read_text()).values())) == subjects


def test_ordinary_names_are_not_doubted(write_nifti: Callable, tmp_path: Path) -> None:
    for index in range(4):
        write_nifti(voxels(index), f"d/vb3_{index:02d}.nii.gz")
        write_nifti(voxels(9 + index), f"d/sub-{index}/ses-1/sub-{index}_T1w.nii.gz")
        write_nifti(voxels(20 + index), f"d/T{index % 2}/case{index // 2}.nii.gz")
    assert check_data(tmp_path / "d").doubts == []


def test_a_split_that_is_there_is_kept(write_nifti: Callable, tmp_path: Path) -> None:
    for index in range(4):
        write_nifti(voxels(index), f"d/sub-{index}.nii.gz")
    output = tmp_path / "split.json"
    arguments = [str(tmp_path / "d"), "--write-split", str(output)]
    tool.main(arguments)
    own = output.read_text()
    assert tool.main(arguments) == 0  # the same command, typed again
    write_nifti(voxels(4), "d/sub-4.nii.gz")
    for by_hand in (own, json.dumps({"train": ["sub-3"], "test": ["sub-0"]})):
        output.write_text(by_hand)
        with pytest.raises(MrsslError, match=r"split\.json: is there and divides .* otherwise"):
            tool.main(arguments)
        assert output.read_text() == by_hand


def test_a_written_split_is_read_though_it_covers_names(
    write_series: Callable, write_nifti: Callable, tmp_path: Path
) -> None:
    """Subjects that are patients' IDs by the pattern, or files named after a patient."""
    for number in (17, 18):
        tags = {"PatientID": f"KNEE00{number}", "PatientName": "Doe^Jane"}
        write_series(voxels(number), f"scans/KNEE00{number}/T2", **tags)
    for name in ("Doe_KNEE0019_T1", "x1_KNEE0020"):
        write_nifti(voxels(len(name)), f"scans/{name}.nii.gz")
    source, split = tmp_path / "dataset.json", tmp_path / "split.json"
    for pattern in ("", r"([A-Za-z0-9_]*KNEE\d+)"):
        source.write_text(json.dumps({"folder": "scans", "subject_pattern": pattern}))
        shares = ["--shares", "train=.5", "test=.5"]
        split.unlink(missing_ok=True)
        tool.main([str(source), "--write-split", str(split), *shares])
        assert "Doe" not in split.read_text()
        assert "KNEE0017" not in split.read_text()
        store = tmp_path / f"store{len(pattern)}"
        prepare_store(source, store)
        for path in (source, store / "dataset.json"):
            parts = [describe(f"{path}:{name}").cases for name in ("train", "test")]
            assert [len(part) for part in parts] == [2, 2]
            assert len({case.source.subject for part in parts for case in part}) == 4
            name = json.loads(split.read_text())["train"][0]
            assert len(describe(f"{path}:train[{name}]").cases) == 1
    split.write_text(json.dumps({"train": ["KNEE0017"], "test": ["x1_KNEE0020"]}))
    assert describe(f"{source}:train").cases[0].source.subject == "KNEE0017"


def test_splits_are_reproducible_and_by_subject() -> None:
    subjects = [f"s{index}" for index in range(20)]
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    split = split_subjects(subjects, shares, seed=1)
    assert [len(split[name]) for name in shares] == [14, 2, 4]
    assert sorted(name for names in split.values() for name in names) == sorted(subjects)
    assert split == split_subjects([*reversed(subjects), "s3"], shares, seed=1)
    assert split != split_subjects(subjects, shares, seed=2)
    together = split_subjects(subjects, shares, together=[["s1", "s2"], ["s2", "s3"]])
    assert any({"s1", "s2", "s3"} <= set(names) for names in together.values())
    assert all(len(v) == 1 for v in split_subjects("ab", {"x": 0.99, "y": 0.01}).values())


@pytest.mark.parametrize("shares", [{}, {"a": 0.5}, {"a": -0.5, "b": 1.5}, {"a": 0.5, "b": 0.5}])
def test_impossible_splits_are_refused(shares: dict) -> None:
    with pytest.raises(MrsslError):
        split_subjects(["one"], shares)


def test_label_maps_among_the_scans_are_told(
    write_nifti: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    scan = rng.integers(0, 500, (32, 32, 12)).astype(np.int16)
    label = np.zeros((32, 32, 12), np.uint8)
    label[4:20, 8:24, 2:10] = rng.integers(1, 4, (16, 16, 8))
    write_nifti(scan, "scans/case1.nii.gz", affine)
    load_dataset(tmp_path / "scans", min_foreground=0.05)
    assert caplog.text == ""
    write_nifti(label, "scans/case1_seg.nii.gz", affine)
    load_dataset(tmp_path / "scans", min_foreground=0.05)
    assert "1 of 2 volumes have but a few intensities, as label maps do (case1_seg.nii.gz)" in (
        caplog.text
    )
    report = check_data(tmp_path / "scans")
    assert [bool(volume["faults"]) for volume in report.volumes] == [False, True]
    assert "a label map, not a scan?" in report.volumes[1]["faults"][0]
