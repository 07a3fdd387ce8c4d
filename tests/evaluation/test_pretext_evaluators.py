"""Localisation, type and restoration scores of slices whose answers are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mrssl.evaluation import DistortionEvaluator, EvaluationError, RestorationEvaluator

Make = Callable[..., dict[str, Any]]
A, B, FAR = [4, 4, 20, 20], [30, 30, 50, 60], [40, 2, 60, 12]
TYPES = ("blur", "noise")


def name_types(truths: list, predictions: list, types: tuple[str, ...] = TYPES) -> dict:
    evaluator = DistortionEvaluator(types)
    evaluator.process(truths, predictions)
    return evaluator.evaluate()


def restore(truths: list, predictions: list) -> dict[str, float]:
    evaluator = RestorationEvaluator(TYPES)
    evaluator.process(truths, predictions)
    return evaluator.evaluate()["restoration"]


def test_found_and_rightly_named(make_truth: Make, make_prediction: Make) -> None:
    truth = make_truth(0, [A, B], types=[[1, 0], [0, 1]])
    prediction = make_prediction([A, B], [0.9, 0.8], type_scores=[[0.9, 0.1], [0.2, 0.8]])
    results = name_types([truth], [prediction])
    assert results["localization"] == pytest.approx(
        {
            **dict.fromkeys(("AP", "AP50", "AP75", "AP50-blur", "AP50-noise"), 1.0),
            **dict.fromkeys(("recall", "recall-blur", "recall-noise"), 1.0),
            "false-detections": 0.0,
        }
    )
    assert results["type"] == pytest.approx(
        {"mAP": 1.0, "AP-blur": 1.0, "AP-noise": 1.0, "mAP-matched": 1.0, "accuracy": 1.0}
    )


def test_found_and_wrongly_named(make_truth: Make, make_prediction: Make) -> None:
    truth = make_truth(0, [A, B], types=[[1, 0], [0, 1]])
    prediction = make_prediction([A, B], [0.9, 0.8], type_scores=[[0.1, 0.9], [0.8, 0.2]])
    results = name_types([truth], [prediction])
    assert results["localization"]["AP"] == pytest.approx(1.0)
    # For either type the wrong region comes first: the precision is 1/2 at every recall.
    assert results["type"]["mAP"] == pytest.approx(0.5)
    assert results["type"]["mAP-matched"] == pytest.approx(0.5)
    assert results["type"]["accuracy"] == 0.0


def test_a_region_that_is_not_found_costs_map_and_not_the_naming(
    make_truth: Make, make_prediction: Make
) -> None:
    truth = make_truth(0, [A, B], types=[[1, 0], [1, 0]])
    prediction = make_prediction([A, FAR], [0.9, 0.8], type_scores=[[0.7, 0.1], [0.1, 0.1]])
    results = name_types([truth], [prediction])
    assert results["localization"]["AP50"] == pytest.approx(51 / 101)
    assert results["type"]["AP-blur"] == pytest.approx(51 / 101)
    assert results["type"]["mAP"] == pytest.approx(51 / 101)
    assert np.isnan(results["type"]["AP-noise"]), "a type that does not occur is left out"
    assert results["type"]["mAP-matched"] == results["type"]["accuracy"] == 1.0


def test_composed_distortions_count_under_each_type(
    make_truth: Make, make_prediction: Make
) -> None:
    truth = make_truth(0, [A], types=[[1, 1]])
    prediction = make_prediction([A], [0.9], type_scores=[[0.9, 0.001]])
    results = name_types([truth], [prediction])["type"]
    names = ("AP-blur", "AP-noise", "accuracy", "mAP-matched")
    assert [results[name] for name in names] == pytest.approx([1.0] * 4)


def test_detection_and_type_score_are_multiplied(make_truth: Make, make_prediction: Make) -> None:
    # The sure type of an unsure false detection must not outrank the hit: 0.9 * 0.5 > 0.2 * 0.9.
    truth = make_truth(0, [A], types=[[1, 0]])
    prediction = make_prediction([FAR, A], [0.2, 0.9], type_scores=[[0.9, 0], [0.5, 0]])
    assert name_types([truth], [prediction])["type"]["AP-blur"] == pytest.approx(1.0)


def test_an_overlap_of_one_half_is_enough(make_truth: Make, make_prediction: Make) -> None:
    truth = make_truth(0, [A], types=[[1, 0]])
    prediction = make_prediction([[4, 4, 20, 14]], [0.9], type_scores=[[0.9, 0.1]])  # IoU 0.625
    results = name_types([truth], [prediction])
    assert results["localization"]["AP75"] == 0.0
    assert results["type"]["mAP"] == pytest.approx(1.0)
    assert results["type"]["accuracy"] == 1.0


def test_localization_of_a_type_ignores_the_regions_of_others(
    make_truth: Make, make_prediction: Make
) -> None:
    truth = make_truth(0, [A, B], types=[[1, 0], [0, 1]])
    # The other type's region is found first and this one's last; a false detection lies between.
    prediction = make_prediction([B, FAR, A], [0.9, 0.8, 0.7], type_scores=np.full((3, 2), 0.5))
    scores = name_types([truth], [prediction])["localization"]
    assert scores["AP50-noise"] == pytest.approx(1.0)
    assert scores["AP50-blur"] == pytest.approx(0.5), "B is no error there, but FAR is one"


def test_localization_of_a_type_is_over_the_slices_that_have_it(
    make_truth: Make, make_prediction: Make
) -> None:
    truths = [make_truth(0, [A], types=[[1, 0]]), make_truth(1, types=np.zeros((0, 2)))]
    predictions = [
        make_prediction([A], [0.7], type_scores=[[0.5, 0.5]]),
        make_prediction([FAR], [0.9], type_scores=[[0.5, 0.5]]),
    ]
    scores = name_types(truths, predictions)["localization"]
    assert scores["AP50-blur"] == pytest.approx(1.0)
    assert scores["AP50"] == pytest.approx(0.5)
    assert np.isnan(scores["AP50-noise"])


def test_recall_and_false_detections_count_the_sure_ones(
    make_truth: Make, make_prediction: Make
) -> None:
    truths = [
        make_truth(0, [A, B], types=[[1, 0], [0, 1]]),
        make_truth(1, [A], types=[[1, 0]]),
        make_truth(2, types=np.zeros((0, 2))),
    ]
    predictions = [
        make_prediction([A, A, B], [0.9, 0.6, 0.4], type_scores=np.full((3, 2), 0.5)),
        make_prediction([FAR], [0.8], type_scores=np.full((1, 2), 0.5)),
        make_prediction([FAR, B], [0.5, 0.49], type_scores=np.full((2, 2), 0.5)),
    ]
    scores = name_types(truths, predictions)["localization"]
    assert scores["recall"] == pytest.approx(1 / 3)
    assert scores["recall-blur"] == pytest.approx(1 / 2)
    assert scores["recall-noise"] == 0.0
    assert scores["false-detections"] == pytest.approx(3 / 3), "the double, and both FAR"


def test_no_detection_at_all(make_truth: Make, make_prediction: Make) -> None:
    truth = make_truth(0, [A], types=[[1, 0]])
    results = name_types([truth], [make_prediction(type_scores=np.zeros((0, 2)))])
    assert results["localization"]["AP"] == results["type"]["mAP"] == 0.0
    assert np.isnan(results["type"]["mAP-matched"])
    assert np.isnan(results["type"]["accuracy"])


def test_types_that_do_not_fit_the_regions_are_refused(
    make_truth: Make, make_prediction: Make
) -> None:
    prediction = make_prediction([A], [0.9], type_scores=[[0.5, 0.5]])
    with pytest.raises(ValueError, match="types"):
        name_types([make_truth(0, [A, B], types=[[1, 0]])], [prediction])


def test_restoration_by_hand(make_truth: Make) -> None:
    clean = np.full((64, 64), 0.5, np.float32)
    truth = make_truth(0, [A, B], types=[[1, 0], [0, 1]], clean=clean)
    distorted, restored = clean.copy(), clean.copy()
    for region, before, after in zip(truth["masks"], (0.1, 0.01), (0.01, 0.1), strict=True):
        distorted[region] += before
        restored[region] += after
    results = restore([{**truth, "distorted": distorted}], [{"restored": restored}])
    assert results["PSNR"] == results["PSNR-distorted"] == pytest.approx(30.0, abs=1e-3)
    assert results["PSNR-gain"] == pytest.approx(0.0, abs=1e-3)
    assert results["PSNR-gain-blur"] == pytest.approx(20.0, abs=1e-3)
    assert results["PSNR-gain-noise"] == pytest.approx(-20.0, abs=1e-3)
    assert results["PSNR-blur"] == pytest.approx(40.0, abs=1e-3)
    assert results["SSIM-gain-blur"] > 0 > results["SSIM-gain-noise"]
    assert results["SSIM-gain"] == pytest.approx(results["SSIM"] - results["SSIM-distorted"])
    assert np.isnan(results["false-change"]), "no slice was clean"


def test_the_mean_is_over_regions_not_slices(make_truth: Make) -> None:
    clean = np.full((64, 64), 0.5, np.float32)
    one = make_truth(0, [A], types=[[1, 0]], clean=clean, distorted=clean + 0.1)
    two = make_truth(1, [A, B], types=[[1, 0], [1, 0]], clean=clean, distorted=clean + 0.01)
    results = restore([one, two], [{"restored": clean}] * 2)
    assert results["PSNR-distorted"] == pytest.approx((20 + 40 + 40) / 3, abs=1e-3)
    assert results["PSNR"] == 60.0
    assert np.isnan(results["PSNR-gain-noise"])


@pytest.mark.filterwarnings("error")
def test_change_of_clean_slices(make_truth: Make) -> None:
    clean = np.full((64, 64), 0.5, np.float32)
    restored = clean.copy()
    restored[:32] += 0.1
    truth = make_truth(0, types=np.zeros((0, 2)), clean=clean, distorted=clean)
    results = restore([truth], [{"restored": restored}])
    assert results["false-change"] == pytest.approx(0.05)
    assert np.isnan(results["PSNR"])


def test_a_restored_slice_of_another_size_is_one_clear_error(make_truth: Make) -> None:
    clean = np.zeros((64, 64), np.float32)
    truth = make_truth(7, [A], types=[[1, 0]], clean=clean, distorted=clean)
    with pytest.raises(EvaluationError, match="image_id 7"):
        restore([truth], [{"restored": clean[:32]}])
