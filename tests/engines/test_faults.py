"""A batch that breaks a run is named, dumped, and can be made again bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mrssl.config import load_cfg
from mrssl.engines.datasets import RunData
from mrssl.engines.faults import NonFiniteError, SkippedSlices, check_finite, replay_batch
from mrssl.engines.torchvision.batches import collate
from mrssl.errors import MrsslError

PRETRAIN = "configs/quick_schedules/pretrain_R_18_FPN.yaml"


def config(root: Path, phantom: Path, output: Path) -> Any:
    return load_cfg(
        root / PRETRAIN,
        ["MODEL.DEVICE", "cpu", "DATASETS.TRAIN", f"('{phantom}:train',)",
         "OUTPUT_DIR", str(output), "MRSSL.PRETEXT.CLEAN_SHARE", "0.0"],
    )  # fmt: skip


def broken(cfg: Any) -> tuple[list[dict[str, Any]], str]:
    """The samples of a batch, and what was said when its loss was not finite."""
    stream = RunData(cfg).train_stream()
    samples = [stream[position] for position in (10, 11)]
    with pytest.raises(NonFiniteError) as caught:
        check_finite(
            {"loss_mask": float("inf"), "loss_cls": 0.5}, collate(samples), iteration=5, cfg=cfg
        )
    return samples, str(caught.value)


def test_the_batch_is_named_with_its_distortions(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    samples, text = broken(config(repository_root, phantom, tmp_path))
    assert text.startswith("iteration 5: loss_mask is not finite on ")
    assert "loss_cls" not in text
    for sample in samples:
        assert f"{sample['file_name']}[{sample['slice_index']}] (" in text
        for record in sample["records"]:
            assert all(step["name"] in text for step in record["distortions"])


def test_the_dump_is_small_strict_json_and_replays(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    samples, text = broken(config(repository_root, phantom, tmp_path))
    dump = tmp_path / "nonfinite_0000005_rank0.json"
    assert str(dump) in text
    assert dump.stat().st_size < 100_000
    content = json.loads(dump.read_text(), parse_constant=pytest.fail)
    assert content["losses"] == {"loss_mask": None, "loss_cls": 0.5}
    assert all(entry["image_is_finite"] for entry in content["slices"])
    again = replay_batch(dump)
    assert len(again) == 2
    for sample, other in zip(samples, again, strict=True):
        for key in ("image", "clean", "masks", "boxes", "types"):
            assert np.array_equal(sample[key], other[key]), key


def test_a_dump_of_an_earlier_version_lacks_the_keys_that_are_new(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    samples, _ = broken(config(repository_root, phantom, tmp_path))
    dump = tmp_path / "nonfinite_0000005_rank0.json"
    content = json.loads(dump.read_text())
    assert "  ELASTIC: 0.0\n" in f"{content['config']}"
    content["config"] = content["config"].replace("ELASTIC: 0.0", "GAMMA_OF_BEFORE: 0.0")
    dump.write_text(json.dumps(content))
    for sample, other in zip(samples, replay_batch(dump), strict=True):
        assert np.array_equal(sample["image"], other["image"])


def test_other_data_are_not_taken_for_the_same(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    broken(config(repository_root, phantom, tmp_path))
    dump = tmp_path / "nonfinite_0000005_rank0.json"
    content = json.loads(dump.read_text())
    content["slices"][0]["file_name"] = "another.nii.gz"
    dump.write_text(json.dumps(content))
    with pytest.raises(MrsslError, match=r"data have changed.*another\.nii\.gz"):
        replay_batch(dump)
    dump.write_text("{}")
    with pytest.raises(MrsslError, match="not a dump"):
        replay_batch(dump)


def test_a_full_disk_does_not_hide_the_fault(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    cfg = config(repository_root, phantom, tmp_path / "file")
    _, text = broken(cfg)
    assert text.startswith("iteration 5: loss_mask is not finite on ")
    assert "no dump" in text


def test_a_damaged_volume_is_skipped_while_slices_of_air_are_left_out(
    repository_root: Path, phantom: Path, tmp_path: Path
) -> None:
    scans = shutil.copytree(phantom.parent, tmp_path / "scans")
    image = scans / "images" / "subject1.nii.gz"
    image.write_bytes(image.read_bytes()[:9000])
    cfg = config(repository_root, scans / phantom.name, tmp_path).clone()
    assert cfg.MRSSL.DATA.MIN_FOREGROUND > 0
    cfg.merge_from_list(["MRSSL.DATA.MAX_UNREADABLE", 0.5])
    stream = RunData(cfg).train_stream()
    skipped = SkippedSlices(len(stream), 0.5)
    skipped.note([stream[position] for position in range(len(stream))])
    assert len(skipped.lines()) == 8
    assert all("subject1.nii.gz[" in line for line in skipped.lines())
    # Beyond the share at the first such slice; where none is allowed, and of test data, at once.
    cfg.merge_from_list(["MRSSL.DATA.MAX_UNREADABLE", 0.02])
    stream = RunData(cfg).train_stream()
    with pytest.raises(MrsslError, match=r"subject1\.nii\.gz: the voxels can't be read"):
        list(map(stream.__getitem__, range(len(stream))))
    for key, value in (
        ("MRSSL.DATA.MAX_UNREADABLE", 0.0),
        ("DATASETS.TEST", cfg.DATASETS.TRAIN),
    ):
        other = cfg.clone()
        other.merge_from_list([key, value])
        with pytest.raises(MrsslError, match=r"subject1\.nii\.gz: the voxels can't be read"):
            RunData(other)


def test_skipped_slices_are_counted_once_and_bounded() -> None:
    skipped = SkippedSlices(total=100, share=0.02)
    skipped.note([{"skipped": [("a.nii[1]", "damaged")]}, {"skipped": []}, {}])
    skipped.note([{"skipped": [("a.nii[1]", "damaged"), ("b.nii[2]", "gone")]}])
    assert skipped.lines() == ["skipped a.nii[1]: damaged", "skipped b.nii[2]: gone"]
    with pytest.raises(MrsslError, match=r"3 slices.*MAX_UNREADABLE allows 2.*c\.nii\[3\]: torn"):
        skipped.note([{"skipped": [("c.nii[3]", "torn")]}])
