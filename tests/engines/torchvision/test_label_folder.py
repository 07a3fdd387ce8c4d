"""The folder that ``tools/segment.py`` writes: nothing of others is lost, nothing misread."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from label_folder import LabelFolder, names_of_volumes
from mrssl.errors import MrsslError
from mrssl.privacy import patient_marks


def facts(weights: str = "first", **others: str) -> dict[str, Any]:
    """What is known of a scan."""
    scan = {"data": "scans", "path": "a.nii.gz", "series": "", "subject": "a"}
    return scan | {"weights": weights} | others


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["a.nii.gz", "a.png"])
def test_what_somebody_made_by_hand_is_not_replaced(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("drawn in a week")
    before = content(tmp_path)
    with pytest.raises(MrsslError, match=rf"{name}: is there, and no volumes.json"):
        LabelFolder(tmp_path).begin({"b": facts(), "a": facts()}, ["femur"])
    assert content(tmp_path) == before


def test_what_is_listed_and_there_is_done(tmp_path: Path) -> None:
    listed = {"a": facts(), "x/b": facts(path="b")}
    folder = LabelFolder(tmp_path)
    assert folder.begin(listed, ["femur"]) == set()
    assert json.loads((tmp_path / "labels.json").read_text()) == {"background": 0, "femur": 1}
    folder.labels("x/b").parent.mkdir()
    folder.labels("x/b").write_text("labels")
    assert LabelFolder(tmp_path).begin(listed, ["femur"]) == {"x/b"}


def test_labels_of_other_weights_are_gone_before_their_classes_are(tmp_path: Path) -> None:
    folder = LabelFolder(tmp_path)
    folder.begin({name: facts() for name in "ab"}, ["femur", "tibia"])
    for name in "ab":
        folder.labels(name).write_text("2 is the tibia")
        folder.picture(name).write_text("a picture")
    assert LabelFolder(tmp_path).begin({n: facts("second") for n in "ab"}, ["tibia"]) == set()
    assert set(content(tmp_path)) == {"labels.json", "volumes.json"}


def test_labels_of_other_weights_that_stay_keep_their_classes(tmp_path: Path) -> None:
    folder = LabelFolder(tmp_path)
    folder.begin({name: facts() for name in "ab"}, ["femur", "tibia"])
    folder.labels("a").write_text("2 is the tibia")
    folder.labels("b").write_text("2 is the tibia")
    before = content(tmp_path)
    with pytest.raises(MrsslError, match=r"labels.json: is there, of other classes"):
        LabelFolder(tmp_path).begin({"a": facts("second")}, ["tibia"])
    assert content(tmp_path) == before
    LabelFolder(tmp_path).begin({"a": facts("second")}, ["femur", "tibia"])
    assert set(content(tmp_path)) == {"b.nii.gz", "labels.json", "volumes.json"}


def test_labels_json_of_somebody_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"background": 0, "mine": 1}')
    with pytest.raises(MrsslError, match=r"labels.json: is there, of other classes"):
        LabelFolder(tmp_path).begin({"a": facts()}, ["femur"])
    assert set(content(tmp_path)) == {"labels.json"}


def test_another_data_set_is_refused(tmp_path: Path) -> None:
    LabelFolder(tmp_path).begin({"a": facts()}, ["femur"])
    with pytest.raises(MrsslError, match="a is there, of another data set"):
        LabelFolder(tmp_path).begin({"a": facts(data="other")}, ["femur"])


def test_a_list_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "volumes.json").write_text('{"a": 1}')
    with pytest.raises(MrsslError, match=r"volumes.json: must map names to facts"):
        LabelFolder(tmp_path)


def test_what_is_left_out_and_was_not_written_by_us_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "site"
    inside = [{"file_name": str(output / f"{name}.nii.gz")} for name in "ab"]
    (outside,) = records = [{"file_name": str(tmp_path / "c.nii.gz")}]
    output.mkdir()
    (output / "volumes.json").write_text('{"a": {}, "b": {}}')
    assert LabelFolder(output).scans_of([*inside, *records]) == [outside]
    assert capsys.readouterr().out == ""
    (output / "volumes.json").write_text('{"a": {}}')
    assert LabelFolder(output).scans_of([*inside, *records]) == [outside]
    assert "left out, as they lie in" in (told := capsys.readouterr().out)
    assert told.endswith(": 1 files or series\n")


def test_what_is_written_into_a_series_folder_does_not_change_its_digest(tmp_path: Path) -> None:
    (tmp_path / "slice").write_bytes(b"a")
    output = tmp_path / "labels"

    def digest() -> str:
        return LabelFolder(output).digest_of_files(str(tmp_path), tmp_path)

    before = digest()
    output.mkdir()
    (output / "x.nii.gz").write_bytes(b"b")
    assert digest() == before
    (tmp_path / "slice").write_bytes(b"ab")
    assert digest() != before


def names_of(*files: str, series: str = "", marks: frozenset[str] = frozenset()) -> list[str]:
    records = [{"file_name": f"data/{file}", "series": series} for file in files]
    return list(names_of_volumes(records, Path("data"), marks).values())


def test_a_volume_is_named_after_its_path_in_the_data_set() -> None:
    assert names_of("x/T1", "y/T1", ".") == ["x/T1", "y/T1", "data"]
    (numbered,) = names_of("y/T1", series="1.2.3")
    assert re.fullmatch(r"y/T1-\w{8}", numbered)
    (elsewhere,) = names_of("../../other/T1")
    assert re.fullmatch(r"T1-\w{8}", elsewhere)


def test_sources_named_alike_get_names_of_their_own() -> None:
    names = names_of("x/T1", "x/t1", "x/T2")
    assert len({name.lower() for name in names}) == 3
    assert names == names_of("x/T2", "x/t1", "x/T1")[::-1]


def test_a_folder_named_after_a_patient_does_not_name_the_output() -> None:
    marks = patient_marks("Doe^Jane", "4711-0815")
    names = names_of("x/Doe_Jane", "x/doe jane", "x/T1", marks=marks)
    assert not any("oe" in name.lower() or "jane" in name.lower() for name in names)
    assert len(set(names)) == 3
    assert names[2] == "x/T1"
