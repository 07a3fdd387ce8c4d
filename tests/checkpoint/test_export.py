"""Exports: what is kept, what is dropped, and that the file is what it says."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import yaml
from torch import nn

import export_checkpoint as export_checkpoint_tool
from mrssl.checkpoint import (
    CheckpointError,
    Provenance,
    export_checkpoint,
    load_checkpoint,
    save_checkpoint,
    stock_config,
    to_detectron2,
)
from mrssl.errors import run_main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, torchvision_model, detectron2_config, random_state):
    """A pretraining checkpoint with everything in it that an export leaves out."""
    model = torchvision_model(norm="BN", classes=1)
    model.roi_heads.distortion_branch = nn.ModuleDict(
        {"type_head": nn.Linear(2, 4), "restoration_head": nn.Linear(2, 1)}
    )
    state = random_state(model)
    config = detectron2_config(norm="BN", classes=1)
    config["MODEL"]["ROI_HEADS"]["NAME"] = "DistortionROIHeads"
    path = tmp_path_factory.mktemp("run") / "model_final.pth"
    provenance = Provenance(task="pretrain", class_names=("distorted",), model_config=config)
    save_checkpoint(
        path,
        {
            "model": to_detectron2(state),
            "mrssl": provenance.to_dict(),
            "optimizer": {"state": {0: torch.ones(3)}},
            "iteration": 9,
        },
    )
    return path, state


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_whole_detector_to_torchvision(checkpoint, torchvision_model, tmp_path, norm):
    path, state = checkpoint
    output = tmp_path / "detector.pth"
    report = export_checkpoint(path, output, to="torchvision")
    exported = torch.load(output, weights_only=True)
    assert exported.keys() == {"model", "mrssl"}
    model = torchvision_model(norm=norm, classes=1)  # the stock model, as its own loader reads it
    model.load_state_dict(exported["model"])
    for name, tensor in exported["model"].items():
        assert torch.equal(tensor, state[name]), name
    assert report.config is None and not output.with_suffix(".yaml").exists()
    assert set(report.dropped) == {"type_head", "restoration_head"}


def test_whole_detector_to_detectron2(checkpoint, tmp_path):
    path, _ = checkpoint
    output = tmp_path / "detector.pth"
    report = export_checkpoint(path, output, to="detectron2")
    source, exported = load_checkpoint(path), torch.load(output, weights_only=True)
    assert exported["mrssl"] == source["mrssl"]
    kept = [n for n in source["model"] if "branch" not in n and "num_batches" not in n]
    assert list(exported["model"]) == kept
    assert all(torch.equal(exported["model"][n], source["model"][n]) for n in kept)
    assert sum(len(names) for names in report.kept.values()) == len(kept)
    text = str(report)
    assert "restoration_head" in text and f"wrote {output}" in text

    config = yaml.safe_load(output.with_suffix(".yaml").read_text())
    assert config["VERSION"] == 2
    assert config["MODEL"]["ROI_HEADS"]["NAME"] == "StandardROIHeads"
    assert config["MODEL"]["RESNETS"]["DEPTH"] == 18


@pytest.mark.parametrize("to, prefix", [("torchvision", "body"), ("detectron2", "bottom_up")])
def test_backbone_alone(checkpoint, tmp_path, to, prefix):
    output = tmp_path / "backbone.pt"
    report = export_checkpoint(checkpoint[0], output, to=to, scope="backbone")
    state = torch.load(output, weights_only=True)["model"]
    assert state and all(name.startswith(f"backbone.{prefix}.") for name in state)
    assert list(report.kept) == ["backbone"] and "fpn" in report.dropped
    if to == "torchvision":
        from torchvision.models import resnet18

        bare = {name.removeprefix("backbone.body."): tensor for name, tensor in state.items()}
        missing, unexpected = resnet18(weights=None).load_state_dict(bare, strict=False)
        assert missing == ["fc.weight", "fc.bias"] and not unexpected


def test_without_predictors(checkpoint, tmp_path):
    output = tmp_path / "a.pth"
    report = export_checkpoint(checkpoint[0], output, to="detectron2", predictors=False)
    assert {"box_predictor", "mask_predictor"} <= report.dropped.keys()
    assert "mask_head" in report.kept


def test_what_torchvision_has_no_name_for_goes_to_detectron2(checkpoint, tmp_path):
    loaded = load_checkpoint(checkpoint[0])
    extra = {"roi_heads.box_head.conv1.weight", "backbone.bottom_up.res4.0.conv2_offset.weight"}
    loaded["model"] |= {name: torch.ones(2) for name in extra}
    save_checkpoint(tmp_path / "conv.pth", loaded)
    for to, kept in (("detectron2", extra), ("torchvision", set())):
        output = tmp_path / f"{to}.pth"
        report = export_checkpoint(tmp_path / "conv.pth", output, to=to)
        names = {name for members in report.kept.values() for name in members}
        assert names & extra == kept
        assert set(report.dropped) >= {"type_head", "restoration_head"}


def test_mask_head_of_another_design_is_dropped_whole(checkpoint, tmp_path):
    loaded = load_checkpoint(checkpoint[0])
    loaded["model"]["roi_heads.mask_head.fuse.0.weight"] = torch.ones(2)
    loaded["model"]["roi_heads.mask_head.logits.weight"] = torch.ones(2)
    mask_head = loaded["mrssl"]["model_config"]["MODEL"]["ROI_MASK_HEAD"]
    mask_head |= {"NAME": "OtherMaskHead", "POOLER_TYPE": ""}  # it pools by itself
    save_checkpoint(tmp_path / "other.pth", loaded)
    output = tmp_path / "out.pth"
    report = export_checkpoint(tmp_path / "other.pth", output, to="detectron2")
    assert not any("mask_head" in name for name in torch.load(output)["model"])
    assert "the mask head is not the stock one" in str(report)
    config = yaml.safe_load(output.with_suffix(".yaml").read_text())
    assert config["MODEL"]["ROI_MASK_HEAD"]["NAME"] == "MaskRCNNConvUpsampleHead"
    assert config["MODEL"]["ROI_MASK_HEAD"]["POOLER_TYPE"] == "ROIAlignV2"


@pytest.mark.parametrize("name", ["CascadeROIHeads", "Res5ROIHeads"])
def test_roi_heads_of_another_design_are_refused(checkpoint, tmp_path, name):
    loaded = load_checkpoint(checkpoint[0])
    loaded["mrssl"]["model_config"]["MODEL"]["ROI_HEADS"]["NAME"] = name
    save_checkpoint(tmp_path / "other.pth", loaded)
    message = rf"other\.pth: MODEL\.ROI_HEADS\.NAME '{name}': only 'StandardROIHeads' and "
    with pytest.raises(CheckpointError, match=message):
        export_checkpoint(tmp_path / "other.pth", tmp_path / "out.pth", to="detectron2")
    assert [file.name for file in tmp_path.iterdir()] == ["other.pth"]


def test_strides_that_torchvision_has_not_are_noted(tmp_path):
    config = {"MODEL": {"RESNETS": {"STRIDE_IN_1X1": True}}}
    provenance = Provenance(backbone_depth=50, model_config=config).to_dict()
    state = {"backbone.bottom_up.res2.0.conv1.weight": torch.ones(1)}
    save_checkpoint(tmp_path / "a.pth", {"model": state, "mrssl": provenance})
    report = export_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth", to="torchvision")
    assert "stride" in str(report)


def test_stock_checkpoint_without_provenance(tmp_path, torchvision_model, random_state):
    model = torchvision_model()
    state = random_state(model)
    torch.save(state, tmp_path / "stock.pth")
    output = tmp_path / "out.pth"
    report = export_checkpoint(tmp_path / "stock.pth", output, to="detectron2")
    assert torch.load(output).keys() == {"model"} and report.config is None
    assert not report.dropped


@pytest.mark.parametrize(
    "output, options, message",
    [
        ("out.pkl", {}, r"out\.pkl: the name must end in \.pth or \.pt"),
        ("out.pth", {"to": "jax"}, "to 'jax'"),
        ("out.pth", {"scope": "neck"}, "scope 'neck'"),
        ("a.pth", {}, r"a\.pth: is the checkpoint itself"),
        ("out.pth", {"scope": "backbone"}, r"a\.pth: nothing in it belongs to scope"),
    ],
)
def test_errors(tmp_path, output, options, message):
    save_checkpoint(tmp_path / "a.pth", {"model": {"backbone.fpn_lateral2.bias": torch.ones(1)}})
    with pytest.raises(Exception, match=message) as caught:
        export_checkpoint(tmp_path / "a.pth", tmp_path / output, **{"to": "detectron2", **options})
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


def test_command_line(checkpoint, tmp_path, repository_root):
    output, tool = tmp_path / "out.pth", repository_root / "tools" / "export_checkpoint.py"
    done = subprocess.run(
        [sys.executable, tool, checkpoint[0], "--to", "detectron2", "--output", output],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(repository_root)},
    )
    assert done.returncode == 0, done.stderr
    assert output.is_file() and output.with_suffix(".yaml").is_file()
    assert "kept" in done.stdout and "dropped" in done.stdout and "type_head" in done.stdout


@pytest.mark.parametrize(
    "checkpoint_name, to, status, message",
    [("no.pth", "torchvision", 1, "no.pth: no such file\n"), ("a.pth", "caffe", 2, "'caffe'")],
)
def test_command_line_errors(tmp_path, capsys, checkpoint_name, to, status, message):
    arguments = [str(tmp_path / checkpoint_name), "--to", to, "--output", str(tmp_path / "b.pth")]
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: export_checkpoint_tool.main(arguments))
    assert caught.value.code == status
    assert message in capsys.readouterr().err
    assert not os.listdir(tmp_path)


def test_a_foreign_checkpoint_adds_no_key_to_the_configuration():
    """Whoever reads the exported configuration would follow its ``_BASE_``."""
    config = {"MODEL": {"MASK_ON": True}, "INPUT": {"FORMAT": "RGB"}, "_BASE_": "elsewhere.yaml"}
    exported = stock_config(Provenance(task="finetune", class_names=("a",), model_config=config))
    assert exported == {"VERSION": 2, "MODEL": {"MASK_ON": True}, "INPUT": {"FORMAT": "RGB"}}
