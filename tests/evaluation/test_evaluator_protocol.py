"""What all evaluators promise: merging, resetting, and clear errors."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from mrssl.evaluation import (
    CocoEvaluator,
    DistortionEvaluator,
    EvaluationError,
    Evaluator,
    Evaluators,
    RestorationEvaluator,
    VolumeEvaluator,
    pretext_evaluator,
    rehearse,
    segmentation_evaluator,
)

NAMES = ("a", "b", "c")
FACTORIES = (
    CocoEvaluator,
    DistortionEvaluator,
    RestorationEvaluator,
    VolumeEvaluator,
    pretext_evaluator,
    segmentation_evaluator,
)


@pytest.fixture(params=FACTORIES, ids=lambda factory: factory.__name__)
def factory(request: pytest.FixtureRequest) -> Callable[..., Evaluator]:
    return request.param


def test_shards_in_any_order_equal_the_whole(
    factory: Callable[..., Evaluator], random_slices: Callable
) -> None:
    truths, predictions = random_slices()
    whole = factory(NAMES)
    whole.process(truths, predictions)
    expected = whole.evaluate()

    # Uneven shares, out of order, one slice handed out twice as a padding sampler does.
    shards = [factory(NAMES) for _ in range(2)]
    for shard, share in zip(shards, ([7, 0, 3], [6, 5, 4, 2, 1, 7]), strict=True):
        for index in share:
            shard.process([truths[index]], [predictions[index]])
    states = [pickle.loads(pickle.dumps(shard.state())) for shard in reversed(shards)]
    shards[0].merge(states)
    np.testing.assert_equal(shards[0].evaluate(), expected)


def test_a_rehearsal_tells_the_names_of_all_metrics(
    factory: Callable[..., Evaluator], random_slices: Callable
) -> None:
    truths, predictions = random_slices()
    evaluator = factory(NAMES)
    told = rehearse(evaluator, len(NAMES))
    with pytest.raises(EvaluationError):
        evaluator.evaluate()  # nothing of it is left
    evaluator.process(truths, predictions)
    results = evaluator.evaluate()
    assert {t: set(m) for t, m in told.items()} == {t: set(m) for t, m in results.items()}


def test_a_rehearsal_without_a_type_branch_promises_none() -> None:
    assert "type" not in rehearse(DistortionEvaluator(NAMES), len(NAMES), names_types=False)


def test_an_empty_shard_changes_nothing(
    factory: Callable[..., Evaluator], random_slices: Callable
) -> None:
    evaluator = factory(NAMES)
    evaluator.process(*random_slices())
    expected = evaluator.evaluate()
    evaluator.merge([evaluator.state(), factory(NAMES).state()])
    np.testing.assert_equal(evaluator.evaluate(), expected)


def test_merging_replaces_what_was_held(
    factory: Callable[..., Evaluator], random_slices: Callable
) -> None:
    truths, predictions = random_slices()
    evaluator, other = factory(NAMES), factory(NAMES)
    evaluator.process(truths, predictions)
    other.process(truths[:4], predictions[:4])
    evaluator.merge([other.state()])
    np.testing.assert_equal(evaluator.evaluate(), other.evaluate())


def test_two_slices_of_one_image_id_are_refused(
    factory: Callable[..., Evaluator], random_slices: Callable
) -> None:
    truths, predictions = random_slices()
    others = [{**truth, "file_name": "other.nii.gz"} for truth in truths]
    message = r"image_id 0 is both slice 0 of (0|other).nii.gz and slice 0 of (0|other).nii.gz"
    evaluator, elsewhere = factory(NAMES), factory(NAMES)
    evaluator.process(truths, predictions)
    elsewhere.process(others, predictions)
    with pytest.raises(EvaluationError, match=message):
        evaluator.merge([evaluator.state(), elsewhere.state()])
    with pytest.raises(EvaluationError, match=message):
        evaluator.process(others, predictions)


def test_an_empty_data_set_is_one_clear_error(factory: Callable[..., Evaluator]) -> None:
    evaluator = factory(NAMES)
    evaluator.process([], [])
    with pytest.raises(EvaluationError, match=r"DATASETS\.TEST"):
        evaluator.evaluate()


def test_reset_forgets(factory: Callable[..., Evaluator], random_slices: Callable) -> None:
    evaluator = factory(NAMES)
    evaluator.process(*random_slices())
    evaluator.reset()
    with pytest.raises(EvaluationError):
        evaluator.evaluate()


def test_what_is_processed_is_not_changed_nor_kept(
    factory: Callable[..., Evaluator], random_slices: Callable
) -> None:
    truths, predictions = random_slices()
    evaluator = factory(NAMES)
    evaluator.process(truths, predictions)
    expected = evaluator.evaluate()
    for truth, prediction, original in zip(truths, predictions, random_slices()[1], strict=True):
        np.testing.assert_equal(prediction, original)
        for array in (*truth.values(), *prediction.values()):
            if isinstance(array, np.ndarray):
                array[...] = 0
    np.testing.assert_equal(evaluator.evaluate(), expected)


@pytest.mark.parametrize("field", ["boxes", "scores", "type_scores", "restored"])
def test_predictions_that_are_not_finite_are_named(random_slices: Callable, field: str) -> None:
    truths, predictions = random_slices()
    index = next(i for i, prediction in enumerate(predictions) if len(prediction["boxes"]))
    predictions[index][field].reshape(-1)[0] = np.nan
    message = f"image_id {index}: the predicted {field} are not finite"
    with pytest.raises(EvaluationError, match=message):
        pretext_evaluator(NAMES).process(truths, predictions)


def test_inputs_and_outputs_must_pair(
    factory: Callable[..., Evaluator], random_slices: Callable
) -> None:
    truths, predictions = random_slices()
    with pytest.raises(ValueError, match="shorter"):
        factory(NAMES).process(truths, predictions[:-1])


def test_two_evaluators_of_one_task_are_refused(random_slices: Callable) -> None:
    evaluator = Evaluators([CocoEvaluator(NAMES), CocoEvaluator(NAMES)])
    evaluator.process(*random_slices())
    with pytest.raises(ValueError, match="bbox"):
        evaluator.evaluate()


def test_tasks_of_the_two_trainings(random_slices: Callable) -> None:
    slices = random_slices()
    pretext, segmentation = pretext_evaluator(NAMES), segmentation_evaluator(NAMES)
    pretext.process(*slices)
    segmentation.process(*slices)
    assert list(pretext.evaluate()) == ["localization", "type", "restoration"]
    assert list(segmentation.evaluate()) == ["bbox", "segm", "dice", "hd95", "assd"]
