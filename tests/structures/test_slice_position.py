from __future__ import annotations

import pytest
import torch

from mrssl.structures import SlicePosition

#: 2 mm a column, 3 mm a row, a slice 10 mm from the middle; the corner is at (-20, -30).
MATRIX = torch.tensor([[2.0, 0.0, -20.0], [0.0, 3.0, -30.0], [0.0, 0.0, 10.0]])


@pytest.mark.parametrize(
    ("item", "count"),
    [
        (2, 1), (-1, 1), (slice(1, 3), 2), (torch.tensor([0, 0, 3, 1, 2]), 5),
        (torch.tensor([True, False, True, False]), 2), (torch.zeros(0, dtype=torch.int64), 0),
    ],
)  # fmt: skip
def test_the_position_is_the_same_whatever_is_picked(item: object, count: int) -> None:
    picked = SlicePosition(MATRIX, 4)[item]  # type: ignore[index]
    assert len(picked) == count and picked.matrix is MATRIX


def test_no_instances_have_a_position_too() -> None:
    none = SlicePosition(MATRIX, 0).to("cpu")
    assert len(none) == 0 and torch.equal(none.matrix, MATRIX)


def test_where_boxes_lie() -> None:
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [10.0, 4.0, 12.0, 8.0]])
    expected = torch.tensor([[0.0, 0.0, 10.0], [2.0, -12.0, 10.0]])
    torch.testing.assert_close(SlicePosition(MATRIX, 2).of_boxes(boxes), expected)
    with torch.autocast("cpu", torch.bfloat16):
        exact = SlicePosition(MATRIX, 2).of_boxes(boxes)
    torch.testing.assert_close(exact, expected)
    assert SlicePosition(MATRIX, 2).of_boxes(boxes[:0]).shape == (0, 3)
