"""Names given to all structures of a volume together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mrssl.evaluation import EvaluationError, VolumeEvaluator, naming
from mrssl.evaluation.coco_scoring import encode_masks
from mrssl.evaluation.joining import (
    Structure,
    Thing,
    cut_by_names,
    join_slices,
    things_of_slice,
)
from mrssl.evaluation.naming import named_volume
from mrssl.structures import ClassLayout

Make = Callable[..., dict[str, Any]]
SHAPE, SPACING = (5, 64, 64), (3.0, 1.0, 1.0)
EXTENT = np.multiply(SHAPE, SPACING)
#: Four alike structures in a row; the classes 0 to 2 are the lower three.
ROWS = (4, 16, 28, 40)


def box(row: int, column: int = 20, height: int = 8) -> dict[str, Any]:
    mask = np.zeros((1, *SHAPE[1:]), bool)
    mask[0, row : row + height, column : column + 10] = True
    return encode_masks(mask)[0]


def measured(centers: np.ndarray) -> ClassLayout:
    return ClassLayout.measure(centers, np.full(centers.shape, 4.0), EXTENT[None])


@pytest.fixture
def layout() -> ClassLayout:
    centers = np.array([[[6.0, row, 25.0] for row in ROWS[1:]]])
    return measured(centers)


def every_slice(*instances: tuple[int, float, dict[str, Any]]) -> dict[int, list[Any]]:
    return {index: list(instances) for index in range(SHAPE[0])}


def classes_at(labels: np.ndarray) -> list[int]:
    return [int(labels[2, row + 4, 25]) for row in ROWS]


def test_one_beyond_the_last_is_not_the_last(layout: ClassLayout) -> None:
    # The nameless one looks more like class 0 than class 0 itself does.
    found = every_slice(
        (0, 0.9, box(ROWS[0])), (0, 0.6, box(ROWS[1])), (1, 0.3, box(ROWS[1])),
        (1, 0.8, box(ROWS[2])), (2, 0.8, box(ROWS[3])),
    )  # fmt: skip
    labels = named_volume(found, SHAPE, SPACING, layout)
    assert classes_at(labels) == [0, 1, 2, 3]
    assert labels.dtype == np.uint16


def test_a_look_alike_beyond_the_row_does_not_shift_the_names_where_the_last_is_missing() -> None:
    # As where the field of view stands too high: a thoracic vertebra in it, L5 out of it. Their
    # places do not agree with the shifted names, since the lowest class lies farther off.
    rows = (4, 16, 28, 46)
    centers = np.array([[[6.0, row, 25.0] for row in rows]])
    layout = measured(centers)
    seen = (4, 16, 28)  # of the classes 0 to 2; and a look-alike above
    found = every_slice(
        *[(c, 0.55, box(row + 12)) for c, row in enumerate(seen)],
        *[(c + 1, 0.4, box(row + 12)) for c, row in enumerate(seen)],
        (0, 0.6, box(4)),
    )
    labels = named_volume(found, SHAPE, SPACING, layout)
    assert [int(labels[2, row + 4, 25]) for row in (4, 16, 28, 40)] == [0, 1, 2, 3]


def test_what_is_surely_there_keeps_its_name_where_the_patient_is_built_otherwise(
    layout: ClassLayout,
) -> None:
    columns = (20, 50, 20)  # the middle one lies where nothing should
    found = every_slice(*[(c, 0.8, box(row, column=columns[c])) for c, row in enumerate(ROWS[1:])])
    labels = named_volume(found, SHAPE, SPACING, layout)
    assert [int(labels[2, ROWS[c + 1] + 4, columns[c] + 5]) for c in range(3)] == [1, 2, 3]


def test_what_is_surely_there_may_have_a_name_that_the_detector_did_not_think_of(
    layout: ClassLayout,
) -> None:
    found = every_slice((0, 0.9, box(ROWS[1])), (0, 0.9, box(ROWS[2])), (2, 0.9, box(ROWS[3])))
    labels = named_volume(found, SHAPE, SPACING, layout)
    assert classes_at(labels) == [0, 1, 2, 3]


def test_a_nameless_thing_takes_no_name_that_is_taken(layout: ClassLayout) -> None:
    found = every_slice(
        *[(c, 0.8, box(row)) for c, row in enumerate(ROWS[1:])], (1, 0.9, box(52, column=48))
    )
    labels = named_volume(found, SHAPE, SPACING, layout)
    assert classes_at(labels) == [0, 1, 2, 3]
    assert not labels[:, 56, 50].any()


def test_a_name_follows_from_those_of_the_others(layout: ClassLayout) -> None:
    found = every_slice(
        (0, 0.9, box(ROWS[1])), (0, 0.5, box(ROWS[2])), (1, 0.4, box(ROWS[2])),
        (2, 0.8, box(ROWS[3])),
    )  # fmt: skip
    assert classes_at(named_volume(found, SHAPE, SPACING, layout)) == [0, 1, 2, 3]


def test_the_whole_body_lying_elsewhere_changes_nothing(layout: ClassLayout) -> None:
    found = every_slice(*[(c, 0.8, box(row + 9, column=45)) for c, row in enumerate(ROWS[1:])])
    labels = named_volume(found, SHAPE, SPACING, layout)
    assert [int(labels[0, row + 13, 50]) for row in ROWS[1:]] == [1, 2, 3]


def test_the_place_in_the_field_of_view_tells_look_alikes_that_all_else_leaves_open() -> None:
    shape = (5, 160, 64)
    rows = [20 + 30 * k for k in range(4)]
    centers = np.array([[[6.0, row + 4, 25.0] for row in rows[1:]]])
    extent = np.multiply(shape, SPACING)
    layout = ClassLayout.measure(centers, np.full((1, 3, 3), 4.0), extent[None])

    def tall_box(row: int) -> dict[str, Any]:
        mask = np.zeros((1, *shape[1:]), bool)
        mask[0, row : row + 8, 20:30] = True
        return encode_masks(mask)[0]

    for shift in (-8, 0, 8):
        found = {
            index: [(c, 0.3, tall_box(row + shift)) for row in rows for c in range(3)]
            for index in range(shape[0])
        }
        labels = named_volume(found, shape, SPACING, layout)
        assert [int(labels[2, row + shift + 4, 25]) for row in rows] == [0, 1, 2, 3]


def test_two_places_weigh_more_than_the_names_that_a_detector_is_sure_of() -> None:
    shape = (5, 160, 64)
    rows = [20 + 30 * k for k in range(3)]
    extent = np.multiply(shape, SPACING)
    centers = np.array([[[6.0, row + 3.5, 24.5] for row in rows]])
    layout = ClassLayout.measure(centers, np.full((1, 3, 3), 4.0), extent[None])
    # The upper two of the places, under the names of the lower two: each a level off.
    masks = np.zeros((2, *shape[1:]), bool)
    for mask, row in zip(masks, rows, strict=False):
        mask[row : row + 8, 20:30] = True
    upper, middle = encode_masks(masks)
    found = {index: [(1, 0.8, upper), (2, 0.8, middle)] for index in range(shape[0])}
    labels = named_volume(found, shape, SPACING, layout)
    assert [int(labels[2, row + 4, 25]) for row in rows] == [1, 2, 0]


def test_a_slice_without_it_does_not_cost_the_rest_of_a_structure(layout: ClassLayout) -> None:
    found = every_slice(*[(c, 0.8, box(row)) for c, row in enumerate(ROWS[1:])])
    found[2] = found[2][1:]
    labels = named_volume(found, SHAPE, SPACING, layout)
    assert labels[:, ROWS[1] + 4, 25].tolist() == [1, 1, 0, 1, 1]


def test_a_fragment_does_not_take_the_name_of_a_whole(layout: ClassLayout) -> None:
    found = every_slice(*[(c, 0.7, box(row)) for c, row in enumerate(ROWS[1:])])
    found[2].append((1, 0.99, box(ROWS[2] - 2, column=40)))
    labels = named_volume(found, SHAPE, SPACING, layout)
    assert classes_at(labels) == [0, 1, 2, 3]
    assert not labels[2, ROWS[2] + 2, 40:].any()


def test_what_the_detector_is_not_sure_of_is_left_out(layout: ClassLayout) -> None:
    found = every_slice((0, 0.3, box(ROWS[1])), (1, 0.3, box(ROWS[1])), (2, 0.4, box(ROWS[3])))
    labels = named_volume(found, SHAPE, SPACING, layout, threshold=0.5)
    assert classes_at(labels)[1] > 0  # 0.3 + 0.3: sure of it, not of its name
    assert classes_at(labels)[3] == 0


def test_a_detector_that_sees_structures_everywhere_is_bounded(
    layout: ClassLayout, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = every_slice(*[(c, 0.8, box(row)) for c, row in enumerate(ROWS[1:])])
    for index, instances in found.items():
        instances += [(0, 0.1, box(4 * k, column=(40, 50)[index % 2], height=3)) for k in range(15)]
    monkeypatch.setattr(naming, "_MOST_NAMES", 10)
    structures = join_slices({i: things_of_slice(x, 3) for i, x in found.items()})
    assert len(structures) > 50
    assert len(naming._hypotheses(structures)[0]) == 10
    assert classes_at(named_volume(found, SHAPE, SPACING, layout)) == [0, 1, 2, 3]


def test_nothing_found_is_nothing_named(layout: ClassLayout) -> None:
    assert not named_volume({}, SHAPE, SPACING, layout).any()
    assert not named_volume({0: [], 3: []}, SHAPE, SPACING, layout).any()


def test_several_names_of_one_place_are_one_thing() -> None:
    things = things_of_slice([(0, 0.3, box(4)), (2, 0.6, box(5)), (1, 0.5, box(30))], 3)
    assert [thing.scores.tolist() for thing in things] == [[0.3, 0, 0.6], [0, 0.5, 0]]
    assert things[0].mask == box(5)  # of the surer


def test_structures_run_through_slices_one_to_one() -> None:
    above, below = things_of_slice([(0, 0.9, box(4))], 1), things_of_slice([(0, 0.9, box(6))], 1)
    both = things_of_slice([(0, 0.9, box(4)), (0, 0.8, box(30))], 1)
    structures = join_slices({0: above, 1: below, 2: both, 4: above})
    assert sorted(sorted(s.things) for s in structures) == [[0, 1, 2], [2], [4]]


def test_structures_that_follow_each_other_along_the_slices_keep_their_names() -> None:
    """Vertebrae and discs of axial slices overlap as the parts of one structure do."""
    thickness = (7, 2, 7, 1, 7)
    names = np.repeat(np.arange(5), thickness)
    shape = (len(names), *SHAPE[1:])
    middles = np.array([np.flatnonzero(names == c).mean() * SPACING[0] for c in range(5)])
    centers = np.stack([middles, np.full(5, 7.5), np.full(5, 24.5)], axis=1)[None]
    sizes = np.full(centers.shape, 4.0)
    layout = ClassLayout.measure(centers, sizes, np.multiply(shape, SPACING)[None])
    found: dict[int, list[Any]] = {d: [(int(c), 0.95, box(4))] for d, c in enumerate(names)}
    assert np.array_equal(named_volume(found, shape, SPACING, layout)[:, 8, 25], names + 1)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        ("aaabbb", [3, 3]),
        ("aab", [2, 1]),
        ("aaabaaa", [7]),  # an error of the detector's
        ("aaabbbccc", [3, 3, 3]),
        ("a", [1]),
    ],
)
def test_a_structure_is_cut_where_its_name_changes_for_good(names: str, parts: list[int]) -> None:
    def things(score: float) -> Structure:
        scores = {d: score * np.eye(3)["abc".index(name)] for d, name in enumerate(names)}
        return Structure({3 + d: Thing(box(4), row) for d, row in scores.items()})

    def lengths(structure: Structure, layout: ClassLayout) -> list[int]:
        return [len(part.things) for part in cut_by_names(structure, layout, SPACING)]

    above = np.array([[[3.0 * len(names) / len(parts) * c, 7.5, 24.5] for c in range(3)]])
    behind = above[..., [1, 0, 2]]  # the classes stand side by side in each slice
    assert lengths(things(0.9), measured(above)) == parts
    assert lengths(things(0.9), measured(behind)) == [len(names)]
    assert lengths(things(0.04), measured(above)) == [len(names)]
    unknown = ClassLayout.measure(np.full((1, 3, 3), np.nan), np.full((1, 3, 3), 4.0), EXTENT[None])
    assert lengths(things(0.9), unknown) == parts


def test_evaluator_reports_both_ways(
    layout: ClassLayout, make_truth: Make, make_prediction: Make
) -> None:
    boxes = [[20, row, 30, row + 8] for row in ROWS]
    fields = {"num_slices": 5, "spacing": list(SPACING)}
    truths = [make_truth(d, boxes[1:], [0, 1, 2], **fields) for d in range(5)]
    predictions = [make_prediction(boxes, [0.9, 0.8, 0.8, 0.8], [0, 0, 1, 2]) for _ in range(5)]
    evaluator = VolumeEvaluator(["a", "b", "c"], layout=layout)
    evaluator.process(truths, predictions)
    dice = evaluator.evaluate()["dice"]
    assert dice["dice"] == 1.0
    assert dice["slicewise"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    with pytest.raises(EvaluationError, match="3 classes for 2 classes"):
        VolumeEvaluator(["a", "b"], layout=layout)


def test_both_ways_are_averaged_alike(
    layout: ClassLayout, make_truth: Make, make_prediction: Make
) -> None:
    """Where a subject lacks a class, a mean over classes first would be another."""
    evaluator = VolumeEvaluator(["a", "b", "c"], layout=layout)
    fields: dict[str, Any] = {"spacing": list(SPACING), "num_slices": 5}
    for first, classes, columns in ((0, [0, 1, 2], 0), (5, [0, 1], 4)):
        boxes = np.array([[20, ROWS[c + 1], 30, ROWS[c + 1] + 8] for c in classes])
        fields |= {"file_name": f"{first}.nii", "subject_id": str(first)}
        truths = [make_truth(first + d, boxes, classes, slice_index=d, **fields) for d in range(5)]
        moved = boxes + np.array([columns, 0, columns, 0])
        found = make_prediction(moved, [0.99] * len(classes), classes)
        evaluator.process(truths, [found] * 5)
    dice = evaluator.evaluate()["dice"]
    assert dice["slicewise"] == dice["dice"] == pytest.approx((0.8 + 0.8 + 1) / 3)
    for row in evaluator.per_subject:
        assert row["dice"]["slicewise"] == row["dice"]["dice"]
        assert set(row) == {"subject_id", "volumes", "dice", "hd95", "assd"}


def test_centres_are_in_millimetres() -> None:
    structure = Structure({1: Thing(box(4), np.zeros(1)), 2: Thing(box(6), np.zeros(1))})
    # Rows 4 to 11 and 6 to 13, columns 20 to 29, of 8 x 10 pixels each.
    assert structure.center((3.0, 0.5, 2.0)).tolist() == [1.5 * 3.0, 8.5 * 0.5, 24.5 * 2.0]


@pytest.mark.parametrize(("shift", "joined"), [(4, True), (5, False)])
def test_structures_go_on_where_enough_of_them_overlaps(shift: int, joined: bool) -> None:
    """IoU 4/12 or 3/13, of 8 rows: 0.3 is asked for."""
    slices = {i: things_of_slice([(0, 0.9, box(4 + shift * i))], 1) for i in range(2)}
    assert len(join_slices(slices)) == (1 if joined else 2)


def test_a_field_that_lies_elsewhere_moves_all_places_alike() -> None:
    """Their places tell no more than one would: what the detector says of each counts for more."""
    moves = np.random.default_rng(0).normal(0, 3, (10, 1, 1)) * [0, 1, 0]
    centers = np.array([[[6.0, row + 4, 25.0] for row in ROWS[1:]]]) + moves
    layout = measured(np.broadcast_to(centers, (10, 3, 3)))
    found = every_slice(
        *((c, 0.7, box(ROWS[c])) for c in range(3)),
        *((c - 1, 0.2, box(ROWS[c])) for c in (1, 2)),
    )
    labels = named_volume(found, SHAPE, SPACING, layout)
    assert classes_at(labels) == [1, 2, 3, 0]
    # Where the detector cannot tell, the place does.
    unsure = every_slice(*((c, 0.3, box(row)) for row in ROWS[1:] for c in range(3)))
    assert classes_at(named_volume(unsure, SHAPE, SPACING, layout)) == [0, 1, 2, 3]


@pytest.mark.parametrize(("volumes", "names"), [(2, [0, 1, 2, 3]), (10, [1, 2, 3, 0])])
def test_the_names_of_a_detector_that_saw_few_volumes_yield_to_places(
    volumes: int, names: list[int]
) -> None:
    """It names all of them one off, and is surer of that than it can be."""
    layout = measured(np.array([[[6.0, row + 4, 25.0] for row in ROWS[1:]]]))
    layout = replace(layout, volumes=np.full((3, 3), volumes), place_spreads=np.full((3, 3), 10.0))
    found = every_slice(
        *((c, 0.6, box(ROWS[c])) for c in range(3)),
        *((c - 1, 0.3, box(ROWS[c])) for c in (1, 2)),
        (2, 0.5, box(ROWS[3])),
    )
    assert classes_at(named_volume(found, SHAPE, SPACING, layout)) == names
