"""Box and mask AP against hand-computed curves and pycocotools run from files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrssl.evaluation import CocoEvaluator
from mrssl.evaluation.coco_scoring import decode_mask, encode_masks

Make = Callable[..., dict[str, Any]]
A, B, FAR = [4, 4, 20, 20], [30, 30, 50, 60], [40, 2, 60, 12]


def evaluate(truths: list, predictions: list, names: tuple[str, ...] = ("one", "two")) -> dict:
    evaluator = CocoEvaluator(names)
    evaluator.process(truths, predictions)
    return evaluator.evaluate()


def test_perfect_detections_score_one(make_truth: Make, make_prediction: Make) -> None:
    results = evaluate([make_truth(0, [A, B])], [make_prediction([A, B], [0.9, 0.8])])
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(1.0)
        assert results[task]["AP-one"] == pytest.approx(1.0)
        assert np.isnan(results[task]["AP-two"]), "a class that does not occur has no AP"


def test_a_false_positive_between_two_hits(make_truth: Make, make_prediction: Make) -> None:
    prediction = make_prediction([A, FAR, B], [0.9, 0.8, 0.7])
    results = evaluate([make_truth(0, [A, B])], [prediction])
    # Precision 1 at the 51 recall thresholds up to 0.5, then 2/3 at the other 50.
    expected = (51 + 50 * 2 / 3) / 101
    assert results["bbox"]["AP50"] == pytest.approx(expected)
    assert results["segm"]["AP50"] == pytest.approx(expected)


def test_false_positives_on_empty_slices_count(make_truth: Make, make_prediction: Make) -> None:
    truths = [make_truth(0, [A]), make_truth(1)]
    predictions = [make_prediction([A], [0.5]), make_prediction([A], [0.9])]
    assert evaluate(truths, predictions)["bbox"]["AP50"] == pytest.approx(0.5)


def test_thresholds_and_areas(make_truth: Make, make_prediction: Make) -> None:
    # 16 x 16 against 16 x 12: IoU 0.75, a hit at 0.5 .. 0.75, six of ten thresholds.
    results = evaluate([make_truth(0, [A])], [make_prediction([[4, 4, 20, 16]], [0.9])])["bbox"]
    assert results["AP50"] == results["AP75"] == pytest.approx(1.0)
    assert results["AP"] == results["APs"] == pytest.approx(0.6)
    assert np.isnan(results["APm"])
    assert np.isnan(results["APl"])


def test_masks_are_scored_apart_from_boxes(make_truth: Make, make_prediction: Make) -> None:
    prediction = make_prediction([A], [0.9])
    prediction["masks"][0, 12:] = False  # half of the mask, the whole box
    results = evaluate([make_truth(0, [A])], [prediction])
    assert results["bbox"]["AP"] == pytest.approx(1.0)
    assert results["segm"]["AP50"] == pytest.approx(1.0)
    assert results["segm"]["AP75"] == 0.0


def test_areas_are_those_of_masks(make_truth: Make, make_prediction: Make) -> None:
    large, thin = [22, 22, 62, 62], np.s_[:, 22:62, 42:62]
    truth = make_truth(0, [large])
    truth["masks"][thin] = False  # 800 of 1600 pixels: small, by COCO's 32 x 32
    results = evaluate([truth], [{**truth, "scores": np.array([0.9])}])
    for task in ("bbox", "segm"):
        assert results[task]["APs"] == pytest.approx(1.0)
        assert np.isnan(results[task]["APm"])

    # A false detection counts in its own range only: by its box medium, by its mask small.
    prediction = make_prediction([large, A], [0.9, 0.8])
    prediction["masks"][0] = truth["masks"][0]
    results = evaluate([make_truth(0, [A])], [prediction])
    assert results["bbox"]["APs"] == pytest.approx(1.0)
    assert results["segm"]["APs"] == pytest.approx(0.5)


def test_no_predictions_score_zero(make_truth: Make, make_prediction: Make) -> None:
    results = evaluate([make_truth(0, [A])], [make_prediction()])
    assert results["bbox"]["AP"] == results["segm"]["AP"] == 0.0


@pytest.mark.filterwarnings("error")
def test_no_truth_is_nan(make_truth: Make, make_prediction: Make) -> None:
    results = evaluate([make_truth(0)], [make_prediction([A], [0.9])])
    assert all(np.isnan(value) for value in results["segm"].values())


def test_it_prints_nothing_and_can_be_asked_twice(
    random_slices: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluator = CocoEvaluator(["a", "b", "c"])
    evaluator.process(*random_slices())
    np.testing.assert_equal(evaluator.evaluate(), evaluator.evaluate())
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_masks_are_not_needed_for_boxes(make_truth: Make, make_prediction: Make) -> None:
    truth, prediction = make_truth(0, [A]), make_prediction([A], [0.9])
    del truth["masks"], prediction["masks"]
    evaluator = CocoEvaluator(["one"], iou_types=["bbox"])
    evaluator.process([truth], [prediction])
    assert list(evaluator.evaluate()) == ["bbox"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("iou_type", ["bbox", "segm"])
def test_against_pycocotools_from_files(
    random_slices: Callable, tmp_path: Path, iou_type: str, seed: int
) -> None:
    truths, predictions = random_slices(seed)
    found = evaluate(truths, predictions, ("a", "b", "c"))[iou_type]
    expected = _stats_from_files(truths, predictions, tmp_path, iou_type)
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    for name, value in zip(names, expected, strict=True):
        assert found[name] == pytest.approx(value if value >= 0 else np.nan, nan_ok=True), name


def _stats_from_files(truths: list, predictions: list, folder: Path, iou_type: str) -> np.ndarray:
    """The way of the COCO web site: annotation file, result file, summarize()."""

    def annotations(slices: list, **extra: Any) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for truth, regions in zip(truths, slices, strict=True):
            for n, (x0, y0, x1, y1) in enumerate(regions["boxes"].tolist()):
                rle = mask_api.encode(np.asfortranarray(regions["masks"][n].astype(np.uint8)))
                row = {
                    "image_id": truth["image_id"],
                    "category_id": int(regions["classes"][n]),
                    "segmentation": {**rle, "counts": rle["counts"].decode()},
                    **extra,
                }
                if "scores" in regions:
                    row["score"] = float(regions["scores"][n])
                    if iou_type == "bbox":
                        del row["segmentation"]
                        row["bbox"] = [x0, y0, x1 - x0, y1 - y0]
                else:
                    row["bbox"] = [x0, y0, x1 - x0, y1 - y0]
                    row["area"] = int(regions["masks"][n].sum())
                    row["id"] = len(rows) + 1
                rows.append(row)
        return rows

    images = [{"id": t["image_id"], "height": 64, "width": 64} for t in truths]
    categories = [{"id": k, "name": str(k)} for k in range(3)]
    data = {
        "images": images,
        "categories": categories,
        "annotations": annotations(truths, iscrowd=0),
    }
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "found.json").write_text(json.dumps(annotations(predictions)))
    coco = COCO(str(folder / "truth.json"))
    run = COCOeval(coco, coco.loadRes(str(folder / "found.json")), iou_type)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats[:6]


def test_run_lengths_come_back() -> None:
    masks = np.random.default_rng(0).random((3, 9, 7)) < 0.5
    for mask, rle in zip(masks, encode_masks(masks), strict=True):
        np.testing.assert_array_equal(decode_mask(rle), mask)
    assert encode_masks(masks[:0]) == []
