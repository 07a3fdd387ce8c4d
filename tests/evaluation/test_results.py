"""Printing, writing and comparing results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mrssl.errors import MrsslError
from mrssl.evaluation import format_results, get_metric, is_better, print_table, write_results

NAN = float("nan")
RESULTS = {
    "bbox": {"AP": 0.5, "AP50": 0.75, "AP-L1": 0.25, "AP-S-L1": 0.125},
    "dice": {"dice": 0.8, "dice-L1": NAN, "dice-S-L1": 0.9},
}


def test_get_metric_splits_at_the_first_slash() -> None:
    assert get_metric(RESULTS, "dice/dice") == 0.8
    assert get_metric({"dice": {"dice-T1/T2": 0.3}}, "dice/dice-T1/T2") == 0.3


@pytest.mark.parametrize("name", ["dice/AP", "segm/AP", "dice", ""])
def test_an_unknown_metric_names_those_that_exist(name: str) -> None:
    with pytest.raises(MrsslError, match=r"bbox/AP, bbox/AP50, .*dice/dice"):
        get_metric(RESULTS, name)


def test_higher_is_better_but_not_for_distances() -> None:
    assert is_better("dice/dice", 0.9, 0.8)
    assert not is_better("dice/dice", 0.8, 0.8)
    assert is_better("hd95/hd95-L1", 3.0, 4.0)
    assert not is_better("assd/assd", 4.0, 3.0)
    assert is_better("restoration/false-change", 0.01, 0.02)
    assert is_better("validation/total_loss", 0.5, 1.0)
    assert not is_better("validation/loss_mask", 1.0, 0.5)
    assert is_better("dice/dice", 0.0, None)
    assert is_better("dice/dice", 0.0, NAN)
    assert not is_better("dice/dice", NAN, None)
    assert not is_better("hd95/hd95", NAN, 3.0)


def test_table_without_names_holds_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(RESULTS)
    words = capsys.readouterr().out.split()
    assert words[:5] == ["bbox", "AP", "0.500", "AP50", "0.750"]
    assert words[-6:] == ["dice", "0.800", "dice-L1", "-", "dice-S-L1", "0.900"]


def test_table_with_names_has_a_row_a_name() -> None:
    lines = format_results(RESULTS, ["L1", "S-L1"]).splitlines()
    assert [line.split() for line in lines[-2:]] == [
        ["L1", "0.250", "-"],
        ["S-L1", "0.125", "0.900"],
    ]
    assert "AP-L1" not in "".join(lines)


def test_nothing_to_print() -> None:
    assert format_results({}) == ""


def test_results_are_written_as_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "inference" / "results.json"
    values = {
        "dice": {"dice": np.float32(0.5), "dice-a": NAN, "n": np.int64(3), "inf": np.inf},
        "subjects": [{"id": "x", "row": np.array([1.0, NAN])}, (True, None)],
    }
    write_results(values, path)
    written = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert written == {
        "dice": {"dice": 0.5, "dice-a": None, "n": 3, "inf": None},
        "subjects": [{"id": "x", "row": [1.0, None]}, [True, None]],
    }
    assert [file.name for file in path.parent.iterdir()] == ["results.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write_results({"a": {"b": 1.0}}, path)
    before = path.read_text()
    with pytest.raises(TypeError):
        write_results({"a": {"b": object()}}, path)
    assert path.read_text() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unwritable_place_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MrsslError, match=r"results\.json: cannot be written"):
        write_results(RESULTS, tmp_path / "file" / "results.json")
    (tmp_path / "folder").mkdir()
    with pytest.raises(MrsslError, match="folder: cannot be written"):
        write_results(RESULTS, tmp_path / "folder")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_distortion_types_have_a_row_each_without_being_named() -> None:
    results = {
        "localization": {"AP50": 0.5, "AP50-blur": 0.25, "recall-noise": 0.75},
        "type": {"mAP": 0.5, "AP-blur": 0.125, "AP-noise": 0.625},
    }
    rows = [line.split() for line in format_results(results).splitlines()]
    assert ["blur", "0.250", "0.125", "-"] in rows
    assert ["noise", "-", "0.625", "0.750"] in rows
