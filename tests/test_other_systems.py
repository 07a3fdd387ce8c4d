"""What other systems do not have, or do otherwise, taken away here or done so."""

from __future__ import annotations

import multiprocessing
import ntpath
import os
import shutil
import signal
import time
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from mrssl import files
from mrssl.config import ConfigError, load_cfg
from mrssl.data import descriptions, loader
from mrssl.data.loader import _prepare_worker
from mrssl.data.store import forget_arrays, map_array, open_array, save_array
from mrssl.engines import launching
from mrssl.engines.datasets import RunData
from mrssl.engines.device import told_device, with_device
from mrssl.errors import MrsslError
from mrssl.files import relative_path, reserve, write_text
from mrssl.modeling import crop_rois


def test_a_file_is_flushed_by_a_handle_that_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows refuses others, and lets no folder be opened at all."""
    opened, flush = {}, os.fsync
    real = os.open

    def note(path: Any, flags: int, *more: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        descriptor = real(path, flags, *more)
        opened[descriptor] = flags
        return descriptor

    def flushed(descriptor: int) -> None:
        if not opened[descriptor] & (os.O_RDWR | os.O_WRONLY):
            raise OSError(9, "Bad file descriptor")
        flush(descriptor)

    monkeypatch.setattr(os, "open", note)
    monkeypatch.setattr(os, "fsync", flushed)
    write_text(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}"


@pytest.mark.parametrize("patience", [2, 4])
def test_a_file_that_a_scanner_holds_open_is_replaced_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    monkeypatch.setattr(files, "_WAITS", (0.0,) * patience)
    attempts, real = [], os.replace

    def replace(source: Any, target: Any) -> None:
        attempts.append(target)
        if len(attempts) < 4:
            raise PermissionError(13, "The process cannot access the file")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    if patience < 3:
        with pytest.raises(MrsslError, match=r"a\.md: cannot be written \(The process cannot"):
            write_text(tmp_path / "a.md", "x")
        assert not list(tmp_path.iterdir())
    else:
        write_text(tmp_path / "a.md", "x")
        assert [path.name for path in tmp_path.iterdir()] == ["a.md"]


def test_room_is_what_is_free_where_none_can_be_reserved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    reserve(tmp_path, 1 << 10, 2)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(MrsslError, match=r"2 x .* MiB cannot be written"):
        reserve(tmp_path, free, 2)
    assert not list(tmp_path.iterdir())


def test_a_path_on_another_drive_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "Path", PureWindowsPath)
    monkeypatch.setattr(os, "path", ntpath)
    assert relative_path(r"C:\scans\a\b.nii", r"C:\scans") == "a/b.nii"
    assert relative_path(r"D:\b.nii", r"C:\scans") == "D:/b.nii"


@pytest.mark.parametrize(
    ("name", "led_out"),
    [
        (r"C:..\secret\x.nii", True), ("D:x.nii", True), (r"\scans\x.nii", True),
        (r"\\srv\share\x.nii", True), (r"a\..\..\x.nii", True), ("/scans/x.nii", True),
        (r"imagesTr\x.nii", False), ("imagesTr/x.nii", False), (r"a\..\x.nii", False),
    ],
)  # fmt: skip
def test_a_description_leads_out_of_its_folder_by_no_windows_path(
    monkeypatch: pytest.MonkeyPatch, name: str, led_out: bool
) -> None:
    monkeypatch.delenv("MRSSL_TRUST_PATHS", raising=False)
    monkeypatch.setattr(descriptions, "Path", PureWindowsPath)
    monkeypatch.setattr(os, "path", ntpath)
    path = PureWindowsPath(r"C:\data\dataset.json")
    if led_out:
        with pytest.raises(MrsslError, match="lies outside its folder"):
            descriptions._beside(path, name)  # type: ignore[arg-type]
    else:
        assert descriptions._beside(path, name).parts[:2] == ("C:\\", "data")  # type: ignore[arg-type]


def test_backslashes_that_became_other_characters_are_told() -> None:
    cfg = load_cfg(
        None,
        ["DATASETS.TRAIN", r"('D:\data\new\test',)", "MODEL.ROI_HEADS.NAME", "DistortionROIHeads"],
    )
    with pytest.raises(ConfigError, match=r"DATASETS\.TRAIN .*: in a path write / or double the"):
        RunData(cfg)
    with pytest.raises(ConfigError, match=r"a list of one has a comma: .* a path has /"):
        load_cfg(None, ["DATASETS.TRAIN", r"('C:\Users\anna\scans',)"])


def test_a_device_that_is_not_there_is_told() -> None:
    absent = "mps" if not torch.backends.mps.is_available() else "xpu"
    with pytest.raises(ConfigError, match=f"^MODEL.DEVICE '{absent}': is not there"):
        with_device(load_cfg(None, ["MODEL.DEVICE", absent]))


def test_why_a_run_is_on_the_cpu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cuda, why in ((None, "is built without CUDA"), ("13.0", "finds no GPU")):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        assert why in told_device(with_device(load_cfg(None)))
    assert told_device(load_cfg(None, ["MODEL.DEVICE", "cuda:1"])) == "device: cuda:1"


class Elsewhere(torch.Tensor):
    """Says that it lies on Apple's GPU."""

    @property
    def device(self) -> Any:
        return type("Device", (), {"type": "mps"})()


def test_crops_are_the_same_without_grid_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.rand(2, 3, 16, 20)
    boxes = [torch.tensor([[4.0, 4.0, 40.0, 36.0]]), torch.tensor([[0.0, 0.0, 80.0, 64.0]])]
    usual = crop_rois(maps, boxes, 7, 4, 1)
    monkeypatch.setattr(torch.nn.functional, "grid_sample", None)
    other = crop_rois(maps.as_subclass(Elsewhere), boxes, 7, 4, 1)
    torch.testing.assert_close(other.as_subclass(torch.Tensor), usual, atol=1e-5, rtol=1e-5)


def test_no_map_is_kept_of_what_is_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_array(np.zeros((2, 3, 4), np.uint8), tmp_path / "a.npy")
    monkeypatch.setattr(
        "mrssl.data.store.stored_entry", lambda path: type("Entry", (), {"shape": (2, 3, 4)})
    )
    array = open_array(tmp_path / "a.npy")
    assert open_array(tmp_path / "a.npy") is array
    forget_arrays()
    assert open_array(tmp_path / "a.npy") is not array
    assert type(array) is type(map_array(tmp_path / "a.npy"))


def _worker(ready: Any, system: str) -> None:
    del signal.sigwaitinfo
    if system == "Windows":
        signal.SIGBREAK = signal.SIGUSR2  # type: ignore[attr-defined]
        loader.os = SimpleNamespace(name="nt")  # type: ignore[assignment]
    _prepare_worker(0)
    ready.set()
    time.sleep(60)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="it is so here")
@pytest.mark.parametrize(
    ("system", "names"), [("macOS", ("SIGTERM", "SIGUSR1")), ("Windows", ("SIGUSR2",))]
)
def test_workers_outlive_signals_whose_sender_they_cannot_know(
    system: str, names: tuple[str, ...]
) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    worker = context.Process(target=_worker, args=(ready, system), daemon=True)
    worker.start()
    try:
        assert ready.wait(60)
        for name in names:
            os.kill(worker.pid, getattr(signal, name))
        time.sleep(0.5)
        assert worker.is_alive()
    finally:
        worker.kill()
        worker.join()


@pytest.mark.parametrize("system", ["nt", "posix"])
def test_a_signal_is_passed_on_but_on_windows_where_that_would_end_the_children(
    monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    sent: list[tuple[int, int]] = []
    child = SimpleNamespace(pid=7)
    monkeypatch.setattr(multiprocessing, "active_children", lambda: [child])
    kill = SimpleNamespace(name=system, kill=lambda pid, number: sent.append((pid, number)))
    monkeypatch.setattr(launching, "os", kill)
    launching._pass_on(15, None)
    assert sent == ([] if system == "nt" else [(7, 15)])
