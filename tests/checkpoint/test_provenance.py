"""What a checkpoint says about itself, and what of it differs from a configuration."""

from __future__ import annotations

import json
import os

import pytest

from mrssl.checkpoint import Provenance, input_differences
from mrssl.config import ConfigError, get_cfg
from mrssl.data import Dataset
from mrssl.engines.classes import check_same_classes
from mrssl.errors import MrsslError
from mrssl.privacy import patient_marks


def make(cfg, **changes):
    return Provenance.from_config(
        cfg, task="pretrain", class_names=["distorted"], type_names=("blur", "noise"), **changes
    )


def test_from_config_and_round_trip():
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("/scans/someone/spine/dataset.json:train", "/data/mri", "registered")
    cfg.MODEL.WEIGHTS = "/scans/someone/model.pth"
    provenance = make(cfg, iteration=5, class_values=[(1, 2)])
    assert provenance.data == ("spine/dataset.json:train", "mri", "registered")
    assert provenance.pixel_mean == (103.53, 116.28, 123.675)
    assert provenance.normalization_range == (0.5, 99.5)
    assert provenance.backbone_depth == 50 and provenance.backbone_norm == "FrozenBN"
    assert "WEIGHTS" not in provenance.model_config["MODEL"]
    entries = provenance.to_dict()
    assert Provenance.from_dict(entries) == provenance
    assert Provenance.from_dict(json.loads(json.dumps(entries))) == provenance
    assert "someone" not in json.dumps(entries)


def test_a_data_set_may_be_many_subjects_by_name():
    subjects = ",".join(f"subject_{number:03}" for number in range(400))
    for name in (f"/scans/brain/dataset.json:train[{subjects}]", f"/scans/mine.json:a[{subjects}]"):
        cfg = get_cfg()
        cfg.DATASETS.TRAIN = (name,)
        (found,) = make(cfg).data
        assert found in name and found.endswith(f"[{subjects}]") and "/scans" not in found


def test_a_folder_in_another_coding_leaves_a_readable_checkpoint():
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = (os.fsdecode(b"/scans/M\xfcller/dataset.json"), "/a\u00a0b/dataset.json")
    provenance = make(cfg)
    assert provenance.data == ("M?ller/dataset.json", "a?b/dataset.json")
    assert Provenance.from_dict(provenance.to_dict()) == provenance


def test_what_nobody_could_read_is_not_written():
    with pytest.raises(MrsslError, match="provenance field type_names"):
        Provenance.from_config(
            get_cfg(), task="pretrain", class_names=["distorted"], type_names=["soft\u00adblur"]
        )


@pytest.mark.parametrize(
    "name", ["Meniscus\u00a0medial", "soft\u00adhyphen", "M\udcfcller", "L1\n"]
)
def test_a_class_that_cannot_be_printed_is_refused_before_training(name):
    with pytest.raises(
        ConfigError, match=r"DATASETS.TRAIN x: the name of its class '\w+.*cannot be printed"
    ):
        check_same_classes(
            "DATASETS.TRAIN x", Dataset([], ["M\u00e9nisque", name], "x", [1, 2]), [], []
        )
    check_same_classes("DATASETS.TRAIN x", Dataset([], ["M\u00e9nisque"], "x", [1]), [], [])


def test_unknown_and_absent_fields_are_tolerated():
    assert Provenance.from_dict({"of_the_future": object(), "task": "pretrain"}).task == "pretrain"
    assert Provenance.from_dict({}) == Provenance()


def nested(depth):
    value = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "field, value",
    [
        ("version", 3),
        ("task", "a\nb"),
        ("pixel_mean", [1.0, float("nan")]),
        ("pixel_std", "1"),
        ("pixel_std", [True]),
        ("type_names", "blur"),
        ("class_names", [1]),
        ("class_values", 1),
        ("class_values", ["1"]),
        ("class_values", [[1, 2.0]]),
        ("class_values", [1]),  # of a class without a name
        ("neighbor_step", 1.5),
        ("iteration", True),
        ("model_config", [1]),
        ("model_config", {1: 2}),
        ("model_config", {"a": object()}),
        ("model_config", nested(3000)),
    ],
)
def test_wrong_types_are_named(field, value):
    with pytest.raises(MrsslError, match=f"provenance field {field}: ") as caught:
        Provenance.from_dict({field: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key, value",
    [
        ("MODEL.PIXEL_MEAN", [1.0, 2.0, 3.0]),
        ("MODEL.PIXEL_STD", [2.0, 2.0, 2.0]),
        ("INPUT.FORMAT", "RGB"),
        ("MRSSL.DATA.NORMALIZATION", "zscore"),
        ("MRSSL.DATA.PERCENTILES", (1.0, 99.0)),
        ("MRSSL.DATA.NEIGHBOR_STEP", 2),
        ("MRSSL.DATA.SLICE_AXIS", "W"),
        ("INPUT.MIN_SIZE_TEST", 384),
    ],
)
def test_differences_are_named(key, value):
    provenance = make(get_cfg())
    assert input_differences(provenance, get_cfg()) == []
    cfg = get_cfg()
    cfg.merge_from_list([key, value])
    lines = input_differences(provenance, cfg)
    assert lines[0].startswith(f"{key}: the checkpoint was trained with ")
    assert str(value) in lines[0] or str(tuple(value)) in lines[0]
    assert len(lines) == (2 if value == "zscore" else 1)  # another method has another range
    # what is not known is not compared
    assert input_differences(Provenance(), cfg) == []


def test_stock_configuration_is_compared_as_far_as_it_goes():
    cfg = get_cfg()
    del cfg["MRSSL"]
    cfg.INPUT.FORMAT = "RGB"
    assert input_differences(make(get_cfg()), cfg) == [
        "INPUT.FORMAT: the checkpoint was trained with BGR, now it is RGB"
    ]


def test_what_a_stock_program_needs_to_show_slices_alike_travels():
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (224,), "INPUT.MIN_SIZE_TEST", 224])
    config = make(cfg).model_config
    assert config["INPUT"]["MIN_SIZE_TRAIN"] == [224]
    assert config["INPUT"]["MIN_SIZE_TEST"] == 224
    assert config["INPUT"].keys() == {
        "FORMAT", "MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST",
    }  # fmt: skip
    assert config["TEST"] == {"DETECTIONS_PER_IMAGE": 100}


def test_patients_are_covered_in_the_names_of_data_sets():
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("scans/Doe_Jane/dataset.json:train[Doe_Jane]",)
    found = Provenance.from_config(
        cfg, task="finetune", class_names=["a"], marks=patient_marks("Doe^Jane", "4711")
    )
    assert "Doe" not in found.data[0] and found.data[0].endswith("]")
