"""The pictures of what a model is trained on, through the command line's own main."""

from __future__ import annotations

import json

import cv2
import nibabel as nib
import numpy as np
import pytest

import visualize_data
from fuzz_distortions import phantom_slice
from mrssl.distortions import registered_names
from mrssl.errors import MrsslError

CONFIG = "configs/pretrain/distortion_R_18_FPN_small.yaml"


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("scans")
    rng = np.random.default_rng(0)
    for number in range(2):
        volume = np.stack([phantom_slice(rng, (96, 80)) for _ in range(6)], axis=-1) * 900
        nib.save(
            nib.Nifti1Image(volume, np.diag([1.0, 1.0, 4.0, 1.0])), folder / f"{number}.nii.gz"
        )
    return str(folder)


def run(repository_root, scans, output, *extra: str) -> None:
    arguments = ["--config-file", str(repository_root / CONFIG), "--output", str(output)]
    overrides = ["DATASETS.TRAIN", f"({scans!r},)", "MRSSL.PRETEXT.CLEAN_SHARE", "0.0", *extra]
    visualize_data.main([*arguments, "--num", "3", *overrides])


def test_grid_samples_and_records(repository_root, scans, tmp_path):
    run(repository_root, scans, tmp_path / "out", "MRSSL.PRETEXT.DISTORTIONS", "('all',)")
    grid = cv2.imread(str(tmp_path / "out" / "types.png"))
    rows = (len(registered_names()) + 1) // 2
    assert grid.shape[0] == rows * (visualize_data.GRID_CELL + 2) + visualize_data.TITLE
    assert grid.std() > 10
    notes = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [note["picture"] for note in notes] == [f"sample_{n:03d}.png" for n in range(3)]
    assert all((tmp_path / "out" / note["picture"]).is_file() for note in notes)
    assert sum(len(note["records"]) for note in notes) > 0
    assert not list((tmp_path / "out").glob(".*"))


def test_cells_of_the_grid(repository_root):
    image = np.stack([phantom_slice(np.random.default_rng(0))] * 3)
    region = visualize_data.central_region(image[1])
    from mrssl.distortions import build_distortions

    row = visualize_data.type_row(build_distortions(["inpainting"])[0], image, image, region, 0.02)
    assert len(row) == 6
    clean, weak, middle, strong, changed, _ = (p.astype(int) for p in row)
    plain = clean != 255  # the region's outline is drawn on the clean one
    assert 0.01 < 1 - plain.mean() < 0.1
    shifts = [np.abs(p - clean)[plain].mean() for p in (weak, middle, strong)]
    assert 0 < shifts[0] < shifts[1] < shifts[2]
    assert set(np.unique(changed)) <= {0, 255}


def test_a_type_that_fills_its_box_is_drawn_so(repository_root):
    image = np.stack([phantom_slice(np.random.default_rng(0))] * 3)
    region = visualize_data.central_region(image[1])
    assert region.alpha.min() < 1
    from mrssl.distortions import build_distortions

    distortion = build_distortions(["poisson_blend"])[0]
    row = visualize_data.type_row(distortion, image, image[:, ::-1].copy(), region, 0.0)
    changed = row[4].astype(bool).any(-1)
    rows, columns = np.nonzero(changed)
    box = changed[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    assert box.mean() > 0.95  # of a blob or an ellipse it would be 0.8 at most


def test_same_seed_same_pictures(repository_root, scans, tmp_path):
    for name in ("a", "b"):
        run(repository_root, scans, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_bad_number_is_told(repository_root, scans, tmp_path):
    with pytest.raises(MrsslError, match="--num"):
        visualize_data.main(
            [
                "--config-file",
                str(repository_root / CONFIG),
                "--output",
                str(tmp_path),
                "--num",
                "0",
            ]
        )
