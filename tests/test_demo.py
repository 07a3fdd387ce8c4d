"""The demonstration: nothing leaks between training and scoring, and the report says it all."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import demo_data
from mrssl.errors import MrsslError

pytest.importorskip("nilearn", reason="the demonstration needs the extra 'demo'")
demo_report = pytest.importorskip("demo_report", reason="matplotlib comes with the extra 'demo'")
demo = pytest.importorskip("demo", reason="torchvision comes with the extra 'demo'")


def test_slabs_are_apart() -> None:
    train, scored = demo_data.slabs()
    assert len(train) == 5
    assert len(scored) == 4
    rows = sorted([*train, *scored], key=lambda s: s.start)
    assert all(b.start - a.stop >= demo_data.GAP_SLICES for a, b in itertools.pairwise(rows))
    assert rows[0].start == demo_data.FIRST_SLICE
    assert rows[-1].stop == demo_data.LAST_SLICE


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> demo_data.DemoData:
    return demo_data.write_demo_data(tmp_path_factory.mktemp("demo") / "data")


def test_volumes_lie_where_the_template_has_them(written: demo_data.DemoData) -> None:
    template = demo_data.load_template()[0]
    files = sorted(Path(written.unlabeled).glob("*.nii.gz"))
    assert len(files) == 5
    volume = nib.load(files[1])
    assert nib.aff2axcodes(volume.affine) == ("R", "A", "S")
    start = demo_data.slabs()[0][1].start
    assert volume.affine[2, 3] == -72 + start
    data = np.asanyarray(volume.dataobj)
    assert data.dtype == np.uint8
    np.testing.assert_array_equal(data, np.round(template[:, :, start : start + 12] * 255))


def test_split_and_labels(written: demo_data.DemoData) -> None:
    folder = Path(written.labeled.rpartition(":")[0]).parent
    split = json.loads((folder / "split.json").read_text())
    assert (len(split["train"]), len(split["test"])) == (5, 4)
    for name in (*split["train"], *split["test"]):
        image = nib.load(folder / "imagesTr" / f"{name}.nii.gz")
        label = nib.load(folder / "labelsTr" / f"{name}.nii.gz")
        assert image.shape == label.shape
        values, counts = np.unique(np.asanyarray(label.dataobj), return_counts=True)
        assert values.tolist() == [0, 1]
        assert counts.min() > 1000
        # The brighter tissue of a T1 image is white matter.
        means = [
            np.asanyarray(image.dataobj)[np.asanyarray(label.dataobj) == v].mean() for v in (0, 1)
        ]
        assert means == sorted(means)
    assert written.slices == {"unlabeled": 60, "labeled": 5, "scored": 24}


def test_report_is_one_file_that_says_it_all(tmp_path: Path) -> None:
    lines = [{"iteration": i, "total_loss": 2.0 / (i + 1), "loss_mask": 1.0} for i in range(3)]
    (tmp_path / "metrics.json").write_text("\n".join(map(json.dumps, lines)))
    run = demo_report.Run("from <scratch>", tmp_path, {"dice": {"dice": 0.5}}, 1.0)
    assert demo_report.loss_names(run) == ["total_loss", "loss_mask"]
    rows = demo_report.metric_rows([run], {"Dice": ("dice", "dice"), "HD95": ("hd95", "hd95")})
    assert rows[0][:2] == ["from <scratch>", 0.5]

    report = demo_report.Report("Title & co")
    report.text(demo_report.CAVEAT, "caveat")
    report.table(["run", "Dice", "HD95"], rows)
    report.figure(demo_report.curves([run], demo_report.loss_names(run), "loss"), "losses")
    report.write(tmp_path / "report.html")

    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no evidence" in page
    assert "from &lt;scratch&gt;</td><td>0.500</td><td>–</td>" in page
    assert 'src="data:image/png;base64,' in page
    assert '="http' not in page
    assert [f.name for f in tmp_path.iterdir() if f.name.startswith(".")] == []


def test_tint_changes_the_masked_pixels_only() -> None:
    image = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    mask = image > 0.5
    tinted = demo_report.tint(image, [mask])
    np.testing.assert_array_equal(tinted[~mask], np.repeat(image[~mask][:, None], 3, axis=1))
    assert np.ptp(tinted[mask], axis=1).min() > 0.2
    np.testing.assert_array_equal(image, np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "thesis.txt").write_text("years of work")
    with pytest.raises(MrsslError, match="not empty"):
        demo.prepare_folder(tmp_path)
    assert (tmp_path / "scratch" / "thesis.txt").is_file()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MrsslError, match="file: cannot be written"):
        demo.prepare_folder(tmp_path / "file")


@pytest.mark.slow
def test_the_whole_chain(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    demo.main(["--output", str(folder), "--pretrain-iterations", "1", "--finetune-iterations", "1"])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert demo_report.CAVEAT[:60] in page
    assert page.count("<img") == 6
    for column in (*demo.PRETEXT_METRICS, *demo.TASK_METRICS):
        assert f"<th>{column}</th>" in page
    exported = torch.load(folder / "detectron2_detector.pth", weights_only=True)
    assert "roi_heads.mask_head.predictor.weight" in exported.get("model", exported)
    demo.prepare_folder(folder)  # what a demonstration made, the next one may replace
    assert not (folder / "pretrain").exists()
