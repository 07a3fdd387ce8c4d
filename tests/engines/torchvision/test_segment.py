"""``tools/segment.py``: label volumes of scans, from a fine-tuned checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pytest
import torch

import segment
from mrssl.checkpoint import load_checkpoint, save_checkpoint
from mrssl.config import load_cfg
from mrssl.data import read_volume
from mrssl.engines.torchvision import Trainer
from mrssl.errors import MrsslError

FINETUNE = "configs/quick_schedules/finetune_R_18_FPN.yaml"
#: A model of one iteration is sure of nothing.
LENIENT = ("MRSSL.EVALUATION.SCORE_THRESHOLD", "0.0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0")


@pytest.fixture(scope="module")
def checkpoint(
    repository_root: Path, phantom: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    output = tmp_path_factory.mktemp("finetuned")
    overrides = [
        "MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{phantom}:train',)", "OUTPUT_DIR", str(output),
        "SOLVER.MAX_ITER", 1,
    ]  # fmt: skip
    Trainer(load_cfg(repository_root / FINETUNE, overrides)).train()
    path = output / "model_final.pth"
    content = load_checkpoint(path)
    content["model"]["roi_heads.box_predictor.cls_score.bias"][-1] -= 5  # structures are there
    save_checkpoint(path, content)
    return path


@pytest.fixture
def scans(phantom: Path, tmp_path: Path) -> Path:
    """Two unlabelled scans; the axes of one are stored in another order."""
    folder = tmp_path / "scans"
    folder.mkdir()
    sources = sorted((phantom.parent / "images").iterdir())
    shutil.copy(sources[0], folder / "a.nii.gz")
    turned = nib.load(sources[1]).as_reoriented(np.array([[1, -1], [2, 1], [0, 1]]))
    nib.save(turned, folder / "b.nii.gz")
    return folder


def run(root: Path, weights: Path, scans: Path, output: Path, *opts: Any) -> None:
    segment.main(
        [
            "--config-file", str(root / FINETUNE), "--weights", str(weights),
            "--dataset", str(scans), "--output", str(output), *LENIENT, *map(str, opts),
        ]
    )  # fmt: skip


def test_labels_lie_on_the_grid_of_their_source(
    repository_root: Path, checkpoint: Path, scans: Path, tmp_path: Path
) -> None:
    output = tmp_path / "labels"
    run(repository_root, checkpoint, scans, output)
    assert {p.name for p in output.iterdir()} == {
        "a.nii.gz", "a.png", "b.nii.gz", "b.png", "labels.json", "volumes.json",
    }  # fmt: skip
    assert list(json.loads((output / "labels.json").read_text()).values()) == [0, 1, 2]
    for name in ("a", "b"):
        found, source = (nib.load(f / f"{name}.nii.gz") for f in (output, scans))
        assert found.shape == source.shape
        np.testing.assert_allclose(found.affine, source.affine, atol=1e-5)
        labels = np.asarray(found.dataobj)
        assert labels.dtype == np.uint8
        assert 0 < labels.max() <= 2
        assert cv2.imread(str(output / f"{name}.png")).ndim == 3


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_labels_of_a_scan_tilted_by_45_degrees_lie_on_its_grid(kind: type, tmp_path: Path) -> None:
    """Two axes are equally close to one of the patient's."""
    tilt = np.array([[1, 0, 0], [0, 0.5**0.5, 0.5**0.5], [0, 0.5**0.5, -(0.5**0.5)]])
    values = np.random.default_rng(0).integers(0, 9, (12, 10, 4)).astype(np.uint8)
    source = kind(values, nib.affines.from_matvec(tilt * [1, 1, 3]))
    nib.save(source, tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz").take_slices()
    segment.write_labels(
        tmp_path / "out.nii.gz",
        volume.array.astype(np.uint16),
        volume.affine,
        str(tmp_path / "scan.nii.gz"),
    )
    found = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), values)
    np.testing.assert_allclose(found.affine, source.affine, atol=1e-5)


def test_a_scan_with_the_intent_of_another_format_has_labels(tmp_path: Path) -> None:
    """Nibabel would read it as CIFTI, which has no such header."""
    source = nib.Nifti2Image(np.ones((6, 5, 4), np.int16), np.diag([1.0, 2.0, 3.0, 1.0]))
    source.header["intent_code"] = 3006
    scan = tmp_path / "scan.nii"
    scan.write_bytes(source.to_bytes())
    volume = read_volume(scan)
    segment.write_labels(
        tmp_path / "out.nii.gz", volume.array.astype(np.uint16), volume.affine, str(scan)
    )
    found = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_allclose(found.affine, source.affine)
    assert np.asarray(found.dataobj).all()


@pytest.mark.parametrize(
    ("unit", "codes"), [("mm", (1, 1)), ("micron", (2, 0)), ("mm", (0, 1)), ("mm", (0, 0))]
)
def test_labels_have_the_unit_and_the_codes_of_their_source(
    unit: str, codes: tuple[int, int], tmp_path: Path
) -> None:
    image = nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), np.diag([-500.0, 500.0, 3000.0, 1.0]))
    image.header.set_xyzt_units(unit)
    image.set_sform(image.affine, codes[0])
    image.set_qform(image.affine, codes[1])
    nib.save(image, tmp_path / "scan.nii.gz")
    volume = read_volume(tmp_path / "scan.nii.gz")
    labels = volume.array.astype(np.uint16)
    scan = str(tmp_path / "scan.nii.gz")
    segment.write_labels(tmp_path / "out.nii.gz", labels, volume.affine, scan)
    found, source = nib.load(tmp_path / "out.nii.gz"), nib.load(scan)
    np.testing.assert_allclose(found.affine, source.affine)
    assert found.header.get_xyzt_units()[0] == unit
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == codes


@pytest.mark.parametrize(("code", "length"), [(1, 0.6), (0, 0.6), (1, 1.2)])
def test_labels_have_the_qform_of_their_source(code: int, length: float, tmp_path: Path) -> None:
    """Which may say another place than the sform, or none: of the length 1.2 is no quaternion."""
    image = nib.Nifti1Image(np.ones((6, 5, 4), np.uint8), np.diag([1.0, 2.0, 3.0, 1.0]))
    image.set_sform(image.affine, 2)
    image.set_qform(nib.affines.from_matvec(np.diag([1.0, 2.0, 3.0]), [5.0, 6.0, 7.0]), code)
    image.header["quatern_c"] = length
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = str(tmp_path / "scan.nii.gz")
    volume = read_volume(scan)
    labels = volume.array.astype(np.uint16)
    segment.write_labels(tmp_path / "out.nii.gz", labels, volume.affine, scan)
    found, source = nib.load(tmp_path / "out.nii.gz"), nib.load(scan)
    np.testing.assert_allclose(found.affine, source.affine)
    assert (int(found.header["sform_code"]), int(found.header["qform_code"])) == (2, code)
    if code:
        for name in segment.QFORM:
            assert found.header[name] == source.header[name]
        assert found.header["pixdim"][:4].tolist() == source.header["pixdim"][:4].tolist()
    if code and length < 1:
        np.testing.assert_array_equal(found.get_qform(), source.get_qform())


def test_a_damaged_scan_does_not_stop_the_others(
    repository_root: Path,
    checkpoint: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = (scans / "a.nii.gz").read_bytes()
    (scans / "a1.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MrsslError, match=r"1 volumes could not be read"):
        run(repository_root, checkpoint, scans, tmp_path / "labels")
    told = capsys.readouterr()
    assert "a1.nii.gz: the voxels can't be read" in told.out + told.err
    assert {p.name for p in (tmp_path / "labels").glob("*.nii.gz")} == {"a.nii.gz", "b.nii.gz"}


def test_labels_among_the_scans_are_no_scans_and_those_of_other_data_stay(
    repository_root: Path,
    checkpoint: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(repository_root, checkpoint, scans, scans / "labels")
    run(repository_root, checkpoint, scans, scans / "labels")
    assert "0 volumes segmented, 2 were there already" in capsys.readouterr().out
    assert not (scans / "labels" / "labels").exists()
    shutil.copytree(scans, tmp_path / "other", ignore=shutil.ignore_patterns("labels"))
    before = (scans / "labels" / "a.nii.gz").read_bytes()
    with pytest.raises(MrsslError, match=r"a is there, of another data set"):
        run(repository_root, checkpoint, tmp_path / "other", scans / "labels")
    assert (scans / "labels" / "a.nii.gz").read_bytes() == before


@pytest.mark.parametrize("output", ["scans", "."])
def test_a_folder_of_labels_that_holds_all_scans_is_refused(
    repository_root: Path, checkpoint: Path, scans: Path, tmp_path: Path, output: str
) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MrsslError, match=r"--output .*: all scans lie in it"):
        run(repository_root, checkpoint, scans, tmp_path / output)
    assert sorted(tmp_path.rglob("*")) == before


def test_inner_regions_lie_on_outer_ones_and_are_counted_in_both() -> None:
    volumes = np.zeros((3, 1, 1, 6), bool)
    volumes[0, ..., 2:4] = volumes[1, ..., 1:5] = volumes[2, ..., 0:2] = True
    labels, voxels = segment.paint(volumes, [3, (2, 3), 4])
    assert labels.dtype == np.uint16
    assert labels.ravel().tolist() == [3, 3, 1, 1, 2, 0]
    assert voxels == [2, 4, 2]


def test_regions_are_painted_by_the_values_in_the_checkpoint(
    repository_root: Path, checkpoint: Path, scans: Path, tmp_path: Path, capsys: Any
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    assert content["mrssl"]["class_values"] == [1, 2]
    content["mrssl"] |= {"class_values": [[1], [1, 2]], "class_layout": {}}
    torch.save(content, tmp_path / "regions.pth")
    run(repository_root, tmp_path / "regions.pth", scans, tmp_path / "out")
    labels = np.asarray(nib.load(tmp_path / "out" / "a.nii.gz").dataobj)
    printed = next(line for line in capsys.readouterr().out.splitlines() if "a.nii.gz" in line)
    sizes = [float(part.split()[-2]) for part in printed.split(": ", 1)[1].split(",")]
    shown = np.bincount(labels.ravel(), minlength=3)[1:] * 3 / 1000
    assert sizes[0] == pytest.approx(shown[0], abs=0.05)
    assert sizes[1] >= shown[1] - 0.05


def test_the_same_body_in_another_order_of_axes_is_segmented_alike(
    repository_root: Path, checkpoint: Path, phantom: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    source = nib.load(phantom.parent / "images" / "subject3.nii.gz")
    nib.save(source, folder / "as_it_is.nii.gz")
    turned = source.as_reoriented(np.array([[1, -1], [2, 1], [0, 1]]))
    nib.save(turned, folder / "turned.nii.gz")
    run(repository_root, checkpoint, folder, tmp_path / "out")
    one, other = (
        nib.as_closest_canonical(nib.load(tmp_path / "out" / f"{name}.nii.gz"))
        for name in ("as_it_is", "turned")
    )
    np.testing.assert_array_equal(np.asarray(one.dataobj), np.asarray(other.dataobj))


def test_slices_that_show_little_of_a_body_are_segmented_too(
    repository_root: Path, checkpoint: Path, scans: Path
) -> None:
    cfg = load_cfg(
        repository_root / FINETUNE,
        [
            "MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(checkpoint),
            "DATASETS.TEST", f"('{scans}',)", "MRSSL.DATA.MIN_FOREGROUND", "0.9",
        ],
    )  # fmt: skip
    _, data = segment.fine_tuned(cfg)
    slices = {record["file_name"]: record["num_slices"] for record in data.test}
    assert len(slices) == 2
    assert len(data.test) == sum(slices.values())


def test_what_is_there_already_is_left_alone(
    repository_root: Path,
    checkpoint: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "labels"
    run(repository_root, checkpoint, scans, output)
    (output / "b.nii.gz").unlink()
    before = (output / "a.nii.gz").stat().st_mtime_ns
    run(repository_root, checkpoint, scans, output)
    assert "1 volumes segmented, 1 were there already" in capsys.readouterr().out
    assert (output / "a.nii.gz").stat().st_mtime_ns == before
    assert (output / "b.nii.gz").is_file()


def test_labels_of_another_checkpoint_are_made_anew(
    repository_root: Path,
    checkpoint: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "labels"
    run(repository_root, checkpoint, scans, output)
    capsys.readouterr()
    content = torch.load(checkpoint, weights_only=True)
    content["mrssl"]["iteration"] = 2
    torch.save(content, tmp_path / "other.pth")
    run(repository_root, tmp_path / "other.pth", scans, output)
    assert "2 volumes segmented, 0 were there already" in capsys.readouterr().out


def test_labels_of_other_settings_or_another_picture_are_made_anew(
    repository_root: Path,
    checkpoint: Path,
    scans: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ("TEST.DETECTIONS_PER_IMAGE", 5)
    for _ in range(2):
        run(repository_root, checkpoint, scans, tmp_path / "out", *few)
    assert "0 volumes segmented, 2 were there already" in capsys.readouterr().out
    run(repository_root, checkpoint, scans, tmp_path / "out")
    assert "2 volumes segmented, 0 were there already" in capsys.readouterr().out
    threshold = ("MRSSL.EVALUATION.SCORE_THRESHOLD", 0.1)
    run(repository_root, checkpoint, scans, tmp_path / "out", *threshold)
    assert "2 volumes segmented, 0 were there already" in capsys.readouterr().out
    shutil.copy(scans / "b.nii.gz", scans / "a.nii.gz")
    run(repository_root, checkpoint, scans, tmp_path / "out", *threshold)
    assert "1 volumes segmented, 1 were there already" in capsys.readouterr().out


def test_labels_stay_with_their_patient_when_others_come(
    repository_root: Path,
    checkpoint: Path,
    phantom: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Scans that are all named alike, the later one before the others."""
    sources = sorted((phantom.parent / "images").iterdir())
    output = tmp_path / "labels"

    def segment_first(count: int) -> str:
        for number in range(count):
            scan = tmp_path / f"scans/patient_{2 - number}/anat/T1w.nii.gz"
            scan.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(sources[number], scan)  # with its time: the same file
        run(repository_root, checkpoint, tmp_path / "scans", output)
        return capsys.readouterr().out

    assert "1 volumes segmented, 0 were there already" in segment_first(1)
    first = (output / "patient_2/anat/T1w.nii.gz").read_bytes()
    assert "1 volumes segmented, 1 were there already" in segment_first(2)
    assert (output / "patient_2/anat/T1w.nii.gz").read_bytes() == first
    volumes = json.loads((output / "volumes.json").read_text())
    assert set(volumes) == {"patient_1/anat/T1w", "patient_2/anat/T1w"}
    assert volumes["patient_1/anat/T1w"]["path"] == "patient_1/anat/T1w.nii.gz"


def test_what_cannot_segment_is_refused(
    repository_root: Path, checkpoint: Path, scans: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["mrssl"]["task"] = "pretrain"
    torch.save(content, tmp_path / "pretext.pth")
    with pytest.raises(MrsslError, match=r"pretext.pth: not of a fine-tuned model"):
        run(repository_root, tmp_path / "pretext.pth", scans, tmp_path / "out")
    assert not (tmp_path / "out").exists()
