"""Names under fields of view that are cut."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import evaluate_names
from mrssl.config import load_cfg
from mrssl.data import store
from mrssl.data.datasets import load_dataset
from mrssl.data.descriptions import Description, describe
from mrssl.data.label_files import read_label
from mrssl.data.preparing import prepare_store
from mrssl.data.sources import read_volume
from mrssl.engines.torchvision import main
from mrssl.errors import MrsslError

CONFIG = "configs/quick_schedules/finetune_R_18_FPN.yaml"


@pytest.fixture(scope="module")
def weights(repository_root: Path, phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    options = ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{phantom}:train',)"]
    options += ["DATASETS.TEST", "()", "OUTPUT_DIR", str(folder), "SOLVER.MAX_ITER", "1"]
    cfg = load_cfg(repository_root / CONFIG, options)
    main(cfg, Namespace(resume=False, eval_only=False))
    return folder / "model_final.pth"


def test_a_cut_volume_is_what_is_left_at_its_place(phantom: Path, tmp_path: Path) -> None:
    described = describe(f"{phantom}:test")
    axis = evaluate_names.row_axis(described)
    assert axis == 0  # both balls lie along x
    path = evaluate_names.write_cut(described, axis, -20, tmp_path, slice_axis="auto")
    (case, before, _), *_ = evaluate_names.labeled_volumes(described)
    ((_, after, left),) = evaluate_names.labeled_volumes(describe(path))
    whole = before.take_slices()
    assert whole.orientation == "SPL"  # of which x is the last, from the other end
    np.testing.assert_array_equal(after.array, whole.array[..., :-20])
    label = read_label(str(case.label_file), whole.affine, whole.shape)
    np.testing.assert_array_equal(left, label[..., :-20])
    np.testing.assert_allclose(after.affine, whole.affine)
    assert evaluate_names.cut(before, axis, 20) == slice(0, 44)
    with pytest.raises(MrsslError, match="--cut 40: takes more than half"):
        evaluate_names.cut(before, axis, 40)


@pytest.mark.parametrize("millimetres", [-20.0, 20.0])
def test_a_moved_field_keeps_its_size_and_what_it_shows_its_place(
    phantom: Path, tmp_path: Path, millimetres: float
) -> None:
    described = describe(f"{phantom}:test")
    (case, before, _), *_ = evaluate_names.labeled_volumes(described)
    folder = tmp_path / str(millimetres)  # arrays of a path are mapped once a process
    path = evaluate_names.write_cut(
        described, 0, millimetres, folder, slice_axis="D", keep_size=True
    )
    ((_, after, left),) = evaluate_names.labeled_volumes(describe(path))
    whole = before.take_slices("D")
    assert after.shape == whole.shape
    # The axis of the slices may run the other way; a voxel is found by its place.
    step = round(float((np.linalg.inv(after.affine) @ whole.affine)[0, 3]))
    assert abs(step) == 20
    shown = slice(max(step, 0), whole.shape[0] + min(step, 0))
    source = slice(max(-step, 0), whole.shape[0] + min(-step, 0))
    np.testing.assert_array_equal(after.array[shown], whole.array[source])
    truth = read_label(str(case.label_file), whole.affine, whole.shape)
    np.testing.assert_array_equal(left[shown], truth[source])
    empty = np.ones(whole.shape[0], bool)
    empty[shown] = False
    assert (after.array[empty] == before.array.min()).all() and not left[empty].any()


def volumes_shown(path: Path, axis: str) -> dict[str, np.ndarray]:
    """Of each subject, as a run with that slice axis is shown it."""
    records = {record["subject_id"]: record for record in load_dataset(path, slice_axis=axis).dicts}
    return {
        subject: read_volume(record["file_name"]).take_slices(record["slice_axis"]).array
        for subject, record in records.items()
    }


@pytest.mark.parametrize("axis", ["auto", "D", "H", "W"])
@pytest.mark.parametrize("stored", [False, True])
def test_the_slices_of_a_cut_are_those_of_the_whole(
    phantom: Path, tmp_path: Path, axis: str, stored: bool
) -> None:
    """In a store too, where the planes are those of its making."""
    # A process keeps the arrays of a store open, by path; pytest gives the same folder again.
    store, cut = (tmp_path / f"{name}-{stored}-{axis}" for name in ("store", "cut"))
    if stored:
        prepare_store(phantom, store, slice_axis=axis)
        phantom, axis = store / "dataset.json", "auto"
    path = evaluate_names.write_cut(describe(phantom), 0, 0, cut, slice_axis=axis)
    before, after = (volumes_shown(data, axis) for data in (phantom, path))
    assert len(before) == 4 and set(before) == set(after)
    for subject, array in before.items():
        np.testing.assert_array_equal(after[subject], array)


def of_scanner(described: Description, subject: str) -> Description:
    """The same volumes, as if they were the scanner's slices, and of one patient."""
    cases = [
        replace(case, source=replace(case.source, format="dicom", subject=subject))
        for case in described.cases
    ]
    return replace(described, cases=cases)


def test_a_scanners_slices_and_its_patients_volumes_stay_apart(
    phantom: Path, tmp_path: Path
) -> None:
    described = of_scanner(describe(phantom), "site/patient")
    path = evaluate_names.write_cut(described, 2, 3, tmp_path, slice_axis="auto")
    records = load_dataset(path, subject_pattern="no such subject").dicts
    assert {record["subject_id"] for record in records} == {"site/patient"}
    assert len({record["file_name"] for record in records}) == 4
    # Along x, which the coarsest spacing, along z, does not say.
    assert {(r["num_slices"], r["height"], r["width"]) for r in records} == {(64, 7, 60)}


def test_the_command_writes_table_picture_and_figures(
    repository_root: Path, weights: Path, phantom: Path, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    output = tmp_path / "out"
    named = {"--config-file": repository_root / CONFIG, "--weights": weights}
    named |= {"--dataset": f"{phantom}:test", "--output": output}
    given = [str(part) for pair in named.items() for part in pair]
    options = ["--cut", "10", "MODEL.DEVICE", "cpu"]
    options += ["MRSSL.DATA.SUBJECT_PATTERN", r"images/sub(ject\d)"]
    evaluate_names.main([*given, *options])
    assert not store._OPEN  # Windows could not remove the cut volumes
    content = json.loads((output / "names.json").read_text())
    assert [row["cut_mm"] for row in content["rows"]] == [-10, 0, 10]
    assert content["axis"] == "D"
    assert set(content["rows"][0]["per_subject"]) == {"ject3"}
    assert "| +10 " in (output / "names.md").read_text()
    assert cv2.imread(str(output / "names.png")).std() > 5
    figures, picture = ((output / f"names.{kind}").stat() for kind in ("json", "png"))
    assert figures.st_mtime_ns < picture.st_mtime_ns  # which may fail
    with pytest.raises(MrsslError, match="JOINT_NAMES is off"):
        evaluate_names.main([*given, *options, "MRSSL.EVALUATION.JOINT_NAMES", "False"])
    with pytest.raises(SystemExit):
        evaluate_names.main([*given, "--cut", "0"])
