"""Classes of which a pixel may be several, as nnU-Net's regions: scored as they are."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mrssl.data.labels import overlapping_classes
from mrssl.evaluation import VolumeEvaluator
from mrssl.evaluation.coco_scoring import encode_masks
from mrssl.evaluation.naming import class_volumes
from mrssl.evaluation.pairing import flatten_instances, paired_counts
from mrssl.structures import ClassLayout

Make = Callable[..., dict[str, Any]]
NAMES = ["whole", "core", "enhancing"]
NESTED = [(0, 1), (0, 2), (1, 2)]
BOXES = [[8, 8, 56, 56], [16, 16, 48, 48], [24, 24, 40, 40]]
AREAS = [48**2, 32**2, 16**2]


def evaluate(truths: list, predictions: list, **options: Any) -> dict[str, dict[str, float]]:
    evaluator = VolumeEvaluator(NAMES, **options)
    evaluator.process(truths, predictions)
    return evaluator.evaluate()


def instance(category: int, score: float, row: slice) -> tuple[int, float, dict[str, Any]]:
    mask = np.zeros((1, 8, 4), bool)
    mask[0, row] = True
    return category, score, encode_masks(mask)[0]


@pytest.mark.parametrize("overlapping", [None, NESTED])
@pytest.mark.parametrize("scores", [[0.99, 0.95, 0.9], [0.9, 0.95, 0.99]])
def test_perfect_predictions_score_perfectly_whichever_is_surest(
    make_truth: Make, make_prediction: Make, scores: list[float], overlapping: Any
) -> None:
    truths = [make_truth(d, BOXES, [0, 1, 2], num_slices=3) for d in range(3)]
    predictions = [make_prediction(BOXES, scores, [0, 1, 2])] * 3
    results = evaluate(truths, predictions, overlapping=overlapping)
    assert set(results["dice"].values()) == {1.0}
    assert set(results["hd95"].values()) == set(results["assd"].values()) == {0.0}


def test_inner_classes_that_were_not_found_are_missed(
    make_truth: Make, make_prediction: Make
) -> None:
    truths = [make_truth(d, BOXES, [0, 1, 2], num_slices=3) for d in range(3)]
    results = evaluate(truths, [make_prediction(BOXES[:1], [0.9])] * 3)
    assert [results["dice"][f"dice-{name}"] for name in NAMES] == [1.0, 0.0, 0.0]
    assert results["hd95"]["missed"] == 2
    assert results["hd95"]["hd95-core"] == pytest.approx(np.linalg.norm([3, 64, 64]))
    assert results["dice"]["foreground"] == 1.0
    assert results["dice"]["instances"] == pytest.approx(2 * AREAS[0] / (AREAS[0] + sum(AREAS)))


def test_wrong_names_of_overlapping_instances_are_forgiven(
    make_truth: Make, make_prediction: Make
) -> None:
    truth = make_truth(0, BOXES, [0, 1, 2])
    results = evaluate([truth], [make_prediction(BOXES, [0.9, 0.8, 0.7], [1, 2, 0])])
    assert results["dice"]["instances"] == 1.0
    assert results["dice"]["dice"] < 0.7


def test_what_overlaps_in_one_slice_overlaps_in_all_and_in_any_shard(
    make_truth: Make, make_prediction: Make
) -> None:
    truths = [
        make_truth(0, BOXES[:2], [0, 1], file_name="a", slice_index=0),
        make_truth(1, BOXES[:1], [0], file_name="b", slice_index=0),
    ]
    predictions = [make_prediction(BOXES[:2], [0.8, 0.9], [0, 1])] * 2
    shards = [VolumeEvaluator(NAMES) for _ in truths]
    for shard, truth, prediction in zip(shards, truths, predictions, strict=True):
        shard.process([truth], [prediction])
    merged = VolumeEvaluator(NAMES)
    merged.merge([shard.state() for shard in shards])
    results = merged.evaluate()
    assert results["dice"]["dice-whole"] == 1.0
    assert results["dice"] == pytest.approx(evaluate(truths, predictions)["dice"], nan_ok=True)
    # By itself the second volume does not show that they overlap; its label values may.
    alone = evaluate(truths[1:], predictions[1:])["dice"]["dice-whole"]
    told = evaluate(truths[1:], predictions[1:], overlapping=NESTED)["dice"]["dice-whole"]
    assert alone < told == 1.0


def test_classes_that_exclude_each_other_contest_pixels_beside_those_that_do_not() -> None:
    # 1 and 2 exclude each other and lie in 0.
    found = {0: [
        instance(0, 0.5, slice(0, 8)), instance(1, 0.9, slice(0, 5)), instance(2, 0.8, slice(3, 8)),
    ]}  # fmt: skip
    volumes = class_volumes(
        found, (1, 8, 4), (1, 1, 1), num_classes=3, overlapping=[(0, 1), (0, 2)]
    )
    assert [volume[0, :, 0].tolist().count(True) for volume in volumes] == [8, 5, 3]
    rows = flatten_instances(found[0], [(0, 1), (0, 2)])[:, :, 0]
    assert rows.sum(1).tolist() == [5, 3, 8]  # by score
    assert flatten_instances(found[0])[:, :, 0].sum(1).tolist() == [5, 3, 0]
    assert paired_counts(found[0], found[0], [(0, 1), (0, 2)]) == (64, 64, 64)
    assert paired_counts(found[0], []) == (0, 32, 0)


def test_names_are_not_given_together_and_that_is_said(
    make_truth: Make, make_prediction: Make, caplog: pytest.LogCaptureFixture
) -> None:
    centers = np.full((1, 3, 3), 32.0)
    layout = ClassLayout.measure(centers, np.ones((1, 3, 3)), np.full((1, 3), 64.0))
    truth = make_truth(0, BOXES, [0, 1, 2])
    with caplog.at_level(logging.WARNING):
        results = evaluate(
            [truth], [make_prediction(BOXES, [0.7, 0.8, 0.9], [0, 1, 2])], layout=layout
        )
    assert results["dice"]["dice"] == 1.0
    assert "slicewise" not in results["dice"]
    assert "classes overlap (whole, core, enhancing)" in caplog.text


def test_classes_overlap_where_they_share_a_label_value() -> None:
    assert overlapping_classes([(1, 2, 3), (2, 3), 3]) == NESTED
    assert overlapping_classes([1, 2, (1, 2)]) == [(0, 2), (1, 2)]
    assert overlapping_classes([1, 2, (3, 4)]) == overlapping_classes([]) == []
