"""The evaluators under Detectron2's ``inference_on_dataset``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mrssl.checkpoint import load_checkpoint, save_checkpoint

from .conftest import MakeConfig, run

pytestmark = pytest.mark.detectron2


class Oracle(nn.Module):
    """Finds the truth, given the inputs of evaluation."""

    def forward(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        from detectron2.structures import Boxes, Instances

        outputs = []
        for x in inputs:
            truth = x["ground_truth"]
            found = Instances((truth["height"], truth["width"]))
            found.pred_boxes = Boxes(torch.from_numpy(truth["boxes"]))
            found.scores = torch.ones(len(truth["boxes"]))
            found.pred_classes = torch.from_numpy(truth["classes"])
            found.pred_masks = torch.from_numpy(truth["masks"])
            if "clean" in truth:
                found.pred_types = torch.from_numpy(truth["types"])
                found.pred_mask_probs = torch.ones(len(found), 28, 28)
                found.pred_residuals = torch.zeros(len(found), 56, 56)
            outputs.append({"instances": found})
        return outputs


def loader(cfg: Any) -> tuple[Any, Any]:
    from detectron2.data import build_detection_test_loader

    from mrssl.engines.datasets import RunData
    from mrssl.engines.detectron2 import MRIDatasetMapper

    data = RunData(cfg, training=False)
    mapper = MRIDatasetMapper(data.test_mapper, is_train=False)
    return data, build_detection_test_loader(data.test, mapper=mapper, batch_size=3)


def test_the_truth_scores_perfectly_in_3d(make_config: MakeConfig, tmp_path: Path) -> None:
    from detectron2.evaluation import inference_on_dataset

    from mrssl.engines.detectron2 import VolumeEvaluator

    data, batches = loader(make_config("finetune", tmp_path))
    evaluator = VolumeEvaluator(data.class_names)
    results = inference_on_dataset(Oracle(), batches, evaluator)
    assert results["dice"]["dice"] == pytest.approx(1.0)
    assert results["hd95"]["hd95"] == results["assd"]["assd"] == 0.0
    assert [row["subject_id"] for row in evaluator.per_subject] == ["subject3"]


def test_evaluators_of_the_pretext_combine_as_detectron2s_do(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    from detectron2.evaluation import inference_on_dataset

    from mrssl.engines.detectron2 import DistortionEvaluator, RestorationEvaluator

    data, batches = loader(make_config("pretrain", tmp_path))
    results = inference_on_dataset(
        Oracle(),
        batches,
        [DistortionEvaluator(data.type_names), RestorationEvaluator(data.type_names)],
    )
    assert results["localization"]["AP"] == pytest.approx(1.0, abs=1e-6)
    assert results["type"]["mAP"] == pytest.approx(1.0, abs=1e-6)
    # Residuals of zero restore nothing.
    assert results["restoration"]["PSNR-gain"] == pytest.approx(0.0, abs=1e-6)


def test_true_residuals_restore_what_was_lost(make_config: MakeConfig, tmp_path: Path) -> None:
    """An oracle for cropping, pasting and blending: residuals cropped from the truth."""
    from detectron2.structures import Boxes, Instances
    from torchvision.ops import roi_align

    from mrssl.engines.detectron2 import restore

    _, batches = loader(make_config("pretrain", tmp_path, "MRSSL.PRETEXT.REGIONS", "(1, 1)"))
    gains = []
    for x in [x for batch in batches for x in batch if len(x["ground_truth"]["boxes"])]:
        truth = x["ground_truth"]
        boxes = torch.from_numpy(truth["boxes"])
        lost = torch.from_numpy(truth["clean"] - truth["distorted"])[None, None]
        found = Instances((truth["height"], truth["width"]))
        found.pred_boxes = Boxes(boxes)
        found.scores = torch.ones(len(boxes))
        found.pred_mask_probs = torch.ones(len(boxes), 28, 28)
        found.pred_residuals = roi_align(lost, [boxes], 56, 1.0, 0, aligned=True)[:, 0]
        restored = restore(x, found).numpy()
        before = np.abs(truth["distorted"] - truth["clean"]).mean()
        gains.append(1 - np.abs(restored - truth["clean"]).mean() / before)
    assert len(gains) >= 4
    assert np.median(gains) > 0.8


def test_the_trainer_tests_a_model_without_training_data(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from mrssl.engines.detectron2 import MRITrainer, VolumeEvaluator

    cfg = make_config("finetune", tmp_path, "SOLVER.MAX_ITER", 1)
    trained = run(cfg)
    caplog.clear()
    results = MRITrainer.test(cfg, Oracle())  # no weights, so nothing tells the layout
    assert results["dice"]["dice"] == pytest.approx(1.0)
    assert "slicewise" not in results["dice"]
    assert caplog.text.count("JOINT_NAMES is left aside: MODEL.WEIGHTS '' does not say") == 1

    caplog.clear()
    weights = tmp_path / "model_final.pth"
    own = make_config("finetune", tmp_path, "MODEL.WEIGHTS", weights)
    assert "slicewise" in trained["dice"]
    assert MRITrainer.test(own, Oracle())["dice"]["slicewise"] == pytest.approx(1.0)
    content = load_checkpoint(weights)
    content["mrssl"]["class_names"] = ["large", "small"]
    save_checkpoint(weights, content)
    assert "slicewise" not in MRITrainer.test(own, Oracle())["dice"]
    assert caplog.text.count("JOINT_NAMES is left aside") == 1

    caplog.clear()
    (tmp_path / "inference" / "per_subject.json").unlink()
    for evaluators in (VolumeEvaluator(["small", "large"]), [VolumeEvaluator(["small", "large"])]):
        assert MRITrainer.test(cfg, Oracle(), evaluators)["dice"]["dice"] == pytest.approx(1.0)
    assert "JOINT_NAMES" not in caplog.text  # of no concern to evaluators of one's own
    assert not (tmp_path / "inference" / "per_subject.json").exists()
