"""Where classes lie to each other, measured and compared."""

from __future__ import annotations

import numpy as np
import pytest

from mrssl.errors import MrsslError
from mrssl.structures import ClassLayout

EXTENT = np.array([80.0, 200.0, 200.0])


def measured(volumes: int = 4, seed: int = 0) -> ClassLayout:
    rng = np.random.default_rng(seed)
    centers = np.array([[40.0, 50, 100], [40, 80, 100], [40, 110, 100]])
    shifts = rng.normal(0, 20, (volumes, 1, 3)) + rng.normal(0, 2, (volumes, 3, 3))
    return ClassLayout.measure(centers + shifts, np.full((volumes, 3, 3), 6.0))


def test_offsets_are_means_and_do_not_depend_on_where_the_body_lies() -> None:
    layout = measured(volumes=400)
    np.testing.assert_allclose(layout.offsets[0, 2], [0, 60, 0], atol=0.5)
    np.testing.assert_allclose(layout.offsets, -layout.offsets.swapaxes(0, 1))
    # Two centres that vary by 2 mm each; the prior hardly counts any more.
    np.testing.assert_allclose(layout.spreads[0, 1], np.sqrt(8), rtol=0.15)
    np.testing.assert_allclose(layout.spreads[1, 1], np.sqrt(3**2 + 6**2))


def test_spreads_of_one_volume_are_what_is_known_of_people() -> None:
    layout = ClassLayout.measure(np.array([[[0.0, 0, 0], [0, 30, 40]]]), np.ones((1, 2, 3)))
    np.testing.assert_allclose(layout.spreads[0, 1], np.hypot(3.0, 0.1 * 50))


def test_the_right_place_is_likelier_than_chance_and_the_wrong_one_never_below_a_hundredth() -> (
    None
):
    layout = measured()
    first, second = np.array([0, 0]), np.array([1, 1])
    offsets = np.stack([layout.offsets[0, 1], [0, -100, 0]])
    right, wrong = layout.evidence(first, second, offsets, EXTENT)
    assert right > 3
    assert wrong == pytest.approx(np.log(0.01))


def test_a_pair_never_seen_together_says_nothing() -> None:
    centers = np.array(
        [[[0.0, 0, 0], [0, 10, 0], [np.nan] * 3], [[0, 0, 0], [np.nan] * 3, [1, 2, 3]]]
    )
    layout = ClassLayout.measure(centers, np.where(np.isfinite(centers), 1.0, np.nan))
    assert layout.volumes.tolist() == [[2, 1, 1], [1, 1, 0], [1, 0, 1]]
    assert layout.evidence(np.array([1]), np.array([2]), np.zeros((1, 3)), EXTENT) == [0.0]
    assert np.isfinite(layout.spreads).all()


def test_through_a_checkpoint_and_back() -> None:
    layout = measured()
    again = ClassLayout.from_dict(layout.to_dict())
    for name in ("offsets", "spreads", "volumes"):
        np.testing.assert_array_equal(getattr(again, name), getattr(layout, name))


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": None},
        {"offsets": [[1.0]]},
        {"spreads": np.zeros((3, 3, 3)).tolist()},
        {"spreads": np.full((3, 3, 3), np.nan).tolist()},
        {"volumes": "many"},
        {"volumes": [[1, 2], [3, 4]]},
    ],
)
def test_a_damaged_one_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(MrsslError, match="layout of classes"):
        ClassLayout.from_dict(measured().to_dict() | change)
    with pytest.raises(MrsslError, match="layout of classes"):
        ClassLayout.from_dict({})
