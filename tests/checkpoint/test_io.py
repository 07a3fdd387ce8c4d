"""Files: whole or not at all, plain types only, and nothing in a file is ever executed."""

from __future__ import annotations

import os
import pickle
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch

from mrssl.checkpoint import CheckpointError, io, load_checkpoint, save_checkpoint
from mrssl.files import replacing

STATE = {"backbone.bottom_up.stem.conv1.weight": torch.arange(6.0).reshape(2, 3)}


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_round_trip(tmp_path):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=np.float64(0.1))
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    path = tmp_path / "new" / "model.pth"
    saved = {
        "model": {**STATE, "backbone.fpn_lateral2.bias": torch.nn.Parameter(torch.ones(1))},
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "iteration": np.int64(7),
        "mixed": [None, True, "x", b"y", (1, 2.5), torch.Size([1]), OrderedDict(a=Counter("aab"))],
    }
    save_checkpoint(path, saved, verify=True)
    loaded = load_checkpoint(path)
    assert loaded["model"].keys() == saved["model"].keys()
    for name, tensor in loaded["model"].items():
        assert type(tensor) is torch.Tensor and torch.equal(tensor, saved["model"][name])
    assert type(loaded["iteration"]) is int and loaded["iteration"] == 7
    assert loaded["scheduler"]["milestones"] == Counter([3, 5])
    assert loaded["mixed"] == [None, True, "x", b"y", (1, 2.5), (1,), {"a": {"a": 2, "b": 1}}]
    assert os.listdir(path.parent) == ["model.pth"]


@pytest.mark.parametrize("value", [object(), np.ones(2), {1, 2}, torch.nn.Linear(1, 1), min])
def test_other_types_are_named_and_nothing_is_written(tmp_path, value):
    with pytest.raises(TypeError, match=r"entry extra\.deep\[0\] is a"):
        save_checkpoint(tmp_path / "a.pth", {"model": STATE, "extra": {"deep": [value]}})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("within", [False, True])
def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch, within):
    path = tmp_path / "model.pth"
    save_checkpoint(path, {"model": STATE})
    before = path.read_bytes()

    def half(_, file):
        file.write(b"half")
        try:
            raise OSError(28, "No space left")
        except OSError:
            if within:
                raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904  (as torch's writer)
            raise

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(CheckpointError, match=r"model\.pth: cannot be written \(No space left\)"):
        save_checkpoint(path, {"model": STATE, "iteration": 2})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["model.pth"]


def test_a_fault_from_elsewhere_is_not_taken_for_the_disks(tmp_path, monkeypatch):
    def die(*_):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(RuntimeError, match="DataLoader"):
        save_checkpoint(tmp_path / "model.pth", {"model": STATE})
    assert not os.listdir(tmp_path)


def test_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["report.txt"]


def test_file_that_reads_back_differently_never_takes_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: {"model": {}})
    with pytest.raises(CheckpointError, match="does not read back"):
        save_checkpoint(tmp_path / "a.pth", {"model": STATE}, verify=True)
    assert not os.listdir(tmp_path)


def test_verification_is_bitwise_and_takes_nan():
    nan = torch.tensor([float("nan"), -0.0])
    assert io.same_content({"a": [nan, 1, float("nan")]}, {"a": (nan.clone(), 1, float("nan"))})
    assert not io.same_content(nan, torch.tensor([float("nan"), 0.0]))  # equal, not in every bit
    assert not io.same_content(nan, nan.double())
    assert not io.same_content({"a": 1}, {"a": 1, "b": 1})
    assert not io.same_content(1, 1.0)


def test_folder_in_the_way(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_checkpoint(tmp_path / "file" / "model.pth", {"model": STATE})


# -- reading --------------------------------------------------------------------------------------


def assert_refused(path, reason, **options):
    with pytest.raises(CheckpointError, match=reason) as caught:
        load_checkpoint(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message


def test_code_is_refused_and_not_executed(tmp_path):
    attack, target = tmp_path / "attack.pth", tmp_path / "made"
    torch.save({"model": STATE, "x": Attack(target)}, attack)
    assert_refused(attack, "would run code")
    torch.save({"model": STATE, "x": Attack(target)}, attack, _use_new_zipfile_serialization=False)
    assert_refused(attack, "would run code")
    attack.write_bytes(pickle.dumps({"model": Attack(target)}, protocol=2))
    assert_refused(attack, "would run code|not a PyTorch checkpoint")
    assert not target.exists()
    pickle.loads(attack.read_bytes())  # the attack is real
    assert target.is_dir()


def test_pickle_needs_permission(tmp_path):
    path, target = tmp_path / "model.pkl", tmp_path / "made"
    arrays = {name: tensor.numpy() for name, tensor in STATE.items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}))
    assert_refused(path, "can run code when it is read")
    loaded = load_checkpoint(path, allow_pickle=True)
    assert torch.equal(*loaded["model"].values(), *STATE.values())
    path.write_bytes(path.read_bytes()[:-20])
    assert_refused(path, "not a readable pickle", allow_pickle=True)
    path.write_bytes(pickle.dumps(Attack(target)))
    assert_refused(path, "can run code")
    assert not target.exists()


def test_damaged_files(tmp_path):
    path = tmp_path / "model.pth"
    assert_refused(path, "no such file")
    assert_refused(tmp_path, "is not a file")
    save_checkpoint(path, {"model": {"backbone.fpn_lateral2.weight": torch.rand(50, 50)}})
    whole = path.read_bytes()
    for size in (10, 300, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert_refused(path, "truncated")
    # bits turned inside of the pickled structure
    start = whole.index(b"backbone")
    path.write_bytes(whole[: start - 8] + bytes(8) + whole[start:])
    assert_refused(path, "damaged|not a PyTorch")
    path.write_text("hello, I am a text\n" * 20)
    assert_refused(path, "not a PyTorch checkpoint")
    path.write_bytes(b"")
    assert_refused(path, "not a PyTorch checkpoint")


def huge():
    return torch.ones(1).expand(10**7, 10**7)


def quantized():
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
@pytest.mark.parametrize(
    "content, reason",
    [
        ([1, 2], "holds a list"),
        ({"model": {}}, "no tensors"),
        ({}, "no tensors"),
        ({"model": {"backbone.fpn_lateral2.bias": "text"}}, "is a str, not a tensor"),
        ({"model": {3: torch.ones(1)}}, "not a name: 3"),
        ({"model": {"a\x1b[2J": torch.ones(1)}}, "not a name"),
        ({"model": {"backbone.fpn_lateral2.bias": huge()}}, "not an ordinary dense tensor"),
        ({"model": {"backbone.fpn_lateral2.bias": torch.ones(2).to_sparse()}}, "not an ordinary"),
        (
            {"model": {"backbone.fpn_lateral2.bias": quantized()}},
            "lateral2.bias is not an ordinary",
        ),
        ({"model": {"backbone.fpn_lateral2.bias": torch.ones(2) * 1j}}, "not an ordinary"),
        ({"model": {"blocks.0.attn.weight": torch.ones(1)}}, "neither.*blocks.0.attn"),
        ({"model": {**STATE, "backbone.body.conv1.weight": torch.ones(1)}}, "both"),
        ({"model": STATE, "mrssl": [1]}, "provenance is a list"),
        ({"model": STATE, "mrssl": {"pixel_mean": "0"}}, "provenance field pixel_mean"),
    ],
)
def test_hostile_content(tmp_path, content, reason):
    path = tmp_path / "model.pth"
    torch.save(content, path)
    assert_refused(path, reason)


@pytest.mark.parametrize(
    "name",
    [
        "backbone.bottom_up.res2.0.conv1.weight",
        "backbone.body.layer1.0.conv1.weight",
        "layer1.0.conv1.weight",
        "res2.0.conv1.weight",
        "module.backbone.body.layer1.0.conv1.weight",
    ],
)
@pytest.mark.parametrize("bare", [False, True])
def test_namings_are_told_apart(tmp_path, name, bare):
    path = tmp_path / "model.pth"
    torch.save({name: torch.ones(3)} if bare else {"model": {name: torch.ones(3)}}, path)
    assert list(load_checkpoint(path)["model"]) == ["backbone.bottom_up.res2.0.conv1.weight"]


def test_imagenet_resnet_becomes_a_backbone(tmp_path):
    from torchvision.models import resnet18

    path = tmp_path / "resnet18.pth"
    torch.save(resnet18(weights=None).state_dict(), path)
    state = load_checkpoint(path)["model"]
    assert all(name.startswith("backbone.bottom_up.") for name in state)
    assert len(state) == len(resnet18(weights=None).state_dict()) - 2  # the classifier


def test_obsolete_buffers_are_left_out(tmp_path):
    path = tmp_path / "model.pth"
    old = {
        "pixel_mean": torch.ones(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.ones(3, 4),
    }
    torch.save({"model": {**old, **STATE}}, path)
    assert list(load_checkpoint(path)["model"]) == list(STATE)
