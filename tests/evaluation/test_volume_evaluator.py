"""Dice, HD95 and ASSD of volumes built slice by slice."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mrssl.evaluation import EvaluationError, VolumeEvaluator
from mrssl.structures import ClassLayout

Make = Callable[..., dict[str, Any]]
A, HALF_A, B = [4, 4, 20, 20], [4, 4, 20, 12], [30, 30, 50, 60]


def run(truths: list, predictions: list, **options: Any) -> tuple[dict, list]:
    evaluator = VolumeEvaluator(["one", "two"], **options)
    evaluator.process(truths, predictions)
    return evaluator.evaluate(), evaluator.per_subject


def test_half_of_a_box_is_missing(make_truth: Make, make_prediction: Make) -> None:
    truths = [make_truth(d, [A], num_slices=3, spacing=[3, 2, 1]) for d in range(3)]
    predictions = [make_prediction([HALF_A], [0.9]) for _ in range(3)]
    results, _ = run(truths, predictions)
    assert results["dice"]["dice"] == pytest.approx(2 * 128 / (128 + 256))
    assert results["dice"]["foreground"] == results["dice"]["instances"] == results["dice"]["dice"]
    assert np.isnan(results["dice"]["dice-two"])
    # The far rows of the truth are 8 rows of 2 mm away, and many enough to be in 5 %.
    assert results["hd95"]["hd95-one"] == pytest.approx(16.0)
    assert 0 < results["assd"]["assd"] < 16.0
    assert results["hd95"]["missed"] == 0


def test_distances_run_across_slices(make_truth: Make, make_prediction: Make) -> None:
    truths = [make_truth(d, [A] if d == 0 else [], num_slices=4, spacing=[5, 1, 1]) for d in (0, 2)]
    predictions = [make_prediction(), make_prediction([A], [0.9])]
    results, _ = run(truths, predictions)
    assert results["hd95"]["hd95"] == results["assd"]["assd"] == pytest.approx(10.0)
    assert results["dice"]["dice"] == 0.0
    assert results["hd95"]["missed"] == 0


def test_present_in_one_only_is_the_diagonal(make_truth: Make, make_prediction: Make) -> None:
    truth = make_truth(0, [A, B], [0, 1], num_slices=1, spacing=[2, 1, 1])
    results, _ = run([truth], [make_prediction([A], [0.9])])
    diagonal = np.sqrt(2**2 + 64**2 + 64**2)
    assert results["dice"]["dice-one"] == 1.0
    assert results["dice"]["dice-two"] == 0.0
    assert results["dice"]["dice"] == 0.5
    assert results["hd95"]["hd95-two"] == results["assd"]["assd-two"] == pytest.approx(diagonal)
    assert results["hd95"]["missed"] == 1


def test_right_outline_with_the_wrong_name(make_truth: Make, make_prediction: Make) -> None:
    truth = make_truth(0, [A, B], [0, 1])
    results, _ = run([truth], [make_prediction([A, B], [0.9, 0.8], [1, 0])])
    assert results["dice"]["dice"] == 0.0
    assert results["dice"]["instances"] == results["dice"]["foreground"] == 1.0


def test_what_a_layout_names_is_what_instances_forgive(
    make_truth: Make, make_prediction: Make
) -> None:
    """No score of its own reaches the threshold, but those of all names together."""
    centers = np.array([[[0.0, 12, 12], [0.0, 45, 40]]] * 4)
    centers += np.random.default_rng(0).normal(0, 0.3, centers.shape)
    layout = ClassLayout.measure(centers, np.full((4, 2, 3), 2.0), np.array([[1.0, 64, 64]] * 4))
    truth = make_truth(0, [A, B], [0, 1], num_slices=1)
    unsure = make_prediction([A, A, B, B], [0.4, 0.3, 0.3, 0.4], [0, 1, 0, 1])
    dice = run([truth], [unsure], layout=layout)[0]["dice"]
    assert dice["dice"] == dice["instances"] == 1.0
    assert dice["slicewise"] == 0.0


def test_merged_instances_count_once(make_truth: Make, make_prediction: Make) -> None:
    left, right, both = [0, 0, 10, 10], [10, 0, 20, 10], [0, 0, 20, 10]
    truth = make_truth(0, [left, right], [0, 0])
    results, _ = run([truth], [make_prediction([both], [0.9])])
    assert results["dice"]["dice"] == 1.0
    assert results["dice"]["instances"] == pytest.approx(2 * 100 / (200 + 200))


def test_the_surer_instance_takes_the_pixel(make_truth: Make, make_prediction: Make) -> None:
    truth = make_truth(0, [A], [1])
    surer = make_prediction([A, A], [0.6, 0.9], [0, 1])
    assert run([truth], [surer])[0]["dice"]["dice-two"] == 1.0
    weaker = make_prediction([A, A], [0.9, 0.6], [0, 1])
    assert run([truth], [weaker])[0]["dice"]["dice-two"] == 0.0


def test_the_threshold_is_inclusive(make_truth: Make, make_prediction: Make) -> None:
    truth, prediction = make_truth(0, [A]), make_prediction([A], [0.5])
    assert run([truth], [prediction])[0]["dice"]["dice"] == 1.0
    assert run([truth], [prediction], score_threshold=0.51)[0]["dice"]["dice"] == 0.0


def test_means_over_volumes_then_subjects_then_classes(
    make_truth: Make, make_prediction: Make
) -> None:
    def volume(i: int, subject: str, **fields: Any) -> dict[str, Any]:
        return make_truth(i, [A], slice_index=0, subject_id=subject, **fields)

    truths = [
        volume(0, "x", file_name="x", series="1"),
        volume(1, "x", file_name="x", series="2"),
        volume(2, "y", file_name="y"),
    ]
    predictions = [
        make_prediction([A], [0.9]),
        make_prediction([HALF_A], [0.9]),
        make_prediction([HALF_A, B], [0.9, 0.9], [0, 1]),
    ]
    results, rows = run(truths, predictions)
    half = 2 / 3
    assert [row["subject_id"] for row in rows] == ["x", "y"]
    assert [row["volumes"] for row in rows] == [2, 1]
    assert rows[0]["dice"]["dice"] == pytest.approx((1 + half) / 2)
    assert rows[1]["dice"]["dice"] == pytest.approx((half + 0) / 2)
    one = ((1 + half) / 2 + half) / 2
    assert results["dice"]["dice-one"] == pytest.approx(one)
    assert results["dice"]["dice"] == pytest.approx((one + 0) / 2)
    assert results["hd95"]["missed"] == 1


@pytest.mark.filterwarnings("error")
def test_nothing_there_and_nothing_found(make_truth: Make, make_prediction: Make) -> None:
    results, _ = run([make_truth(0)], [make_prediction()])
    assert np.isnan(results["dice"]["dice"])
    assert np.isnan(results["dice"]["instances"])
    assert np.isnan(results["hd95"]["hd95"])


def test_slices_left_out_are_said(
    make_truth: Make, make_prediction: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        run([make_truth(0, [A], num_slices=5)], [make_prediction([A], [0.9])])
    assert "1 of 5 slices" in caplog.text


def test_a_slice_beyond_its_volume_is_refused(make_truth: Make, make_prediction: Make) -> None:
    with pytest.raises(EvaluationError, match=r"a\.nii\.gz: slice 3"):
        run([make_truth(3, [A], num_slices=3)], [make_prediction([A], [0.9])])


def test_the_surface_in_a_volume_of_one_slice_is_the_outline(
    make_truth: Make, make_prediction: Make
) -> None:
    inner, outer = [20, 20, 44, 44], [16, 16, 48, 48]

    def assd(num_slices: int) -> float:
        truth = make_truth(0, [inner], num_slices=num_slices, spacing=[4, 1, 1])
        return run([truth], [make_prediction([outer], [0.9])])[0]["assd"]["assd"]

    assert assd(1) > 4  # every pixel of one outline is 4 or more from the other
    # In a slice of two, all pixels are surface, and those that both have at distance zero.
    ring = 4 * 24 * (1 + 2 + 3 + 4) + 4 * sum(np.hypot(*np.mgrid[1:5, 1:5]).flat)
    assert assd(2) == pytest.approx(ring / (32**2 + 24**2))


def test_a_volume_is_scored_as_soon_as_it_is_whole(make_truth: Make, make_prediction: Make) -> None:
    """Masks of thousands of volumes are never held at once, nor sent between processes."""
    truths = [
        make_truth(d, [A, B], [0, 1], num_slices=3, file_name=name, subject_id=name)
        | {"image_id": 3 * number + d}
        for number, name in enumerate(("p", "q", "r"))
        for d in range(3)
    ]
    rng = np.random.default_rng(0)
    predictions = [
        make_prediction([HALF_A if rng.random() < 0.5 else A, B], rng.uniform(0.4, 1, 2), [0, 1])
        for _ in truths
    ]
    whole, rows = run(truths, predictions)
    parts = [VolumeEvaluator(["one", "two"], overlapping=()) for _ in range(2)]
    for place in range(len(truths)):  # the second volume is cut by the border
        parts[place > 3].process(truths[place : place + 1], predictions[place : place + 1])
    parts[1].process(truths[:1], predictions[:1])  # as samplers do that fill up the last batch
    states = [part.state() for part in parts]
    assert [len(records) for records, _ in states] == [1, 3]
    assert [list(scored) for _, scored in states] == [[("p", "")], [("r", "")]]
    parts[0].merge(states)
    results = parts[0].evaluate()
    np.testing.assert_equal(results, whole)
    np.testing.assert_equal(parts[0].per_subject, rows)
    parts[0].reset()
    with pytest.raises(EvaluationError, match="no slice"):
        parts[0].evaluate()
