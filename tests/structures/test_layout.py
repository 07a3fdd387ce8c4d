"""Where classes lie to each other, measured and compared."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from mrssl.errors import MrsslError
from mrssl.structures import ClassLayout

EXTENT = np.array([80.0, 200.0, 200.0])


def measured(volumes: int = 4, seed: int = 0) -> ClassLayout:
    rng = np.random.default_rng(seed)
    centers = np.array([[40.0, 50, 100], [40, 80, 100], [40, 110, 100]])
    shifts = rng.normal(0, 20, (volumes, 1, 3)) + rng.normal(0, 2, (volumes, 3, 3))
    return of(centers + shifts, np.full((volumes, 3, 3), 6.0))


def of(centers: np.ndarray, sizes: np.ndarray) -> ClassLayout:
    return ClassLayout.measure(centers, sizes, np.tile(EXTENT, (len(centers), 1)))


def test_offsets_are_means_and_do_not_depend_on_where_the_body_lies() -> None:
    layout = measured(volumes=400)
    np.testing.assert_allclose(layout.offsets[0, 2], [0, 60, 0], atol=0.5)
    np.testing.assert_allclose(layout.offsets, -layout.offsets.swapaxes(0, 1))
    # Two centres that vary by 2 mm each; the prior hardly counts any more.
    np.testing.assert_allclose(layout.spreads[0, 1], np.sqrt(8), rtol=0.15)
    np.testing.assert_allclose(layout.spreads[1, 1], np.sqrt(3**2 + 6**2))


def test_spreads_of_one_volume_are_what_is_known_of_people() -> None:
    layout = of(np.array([[[0.0, 0, 0], [0, 30, 40]]]), np.ones((1, 2, 3)))
    np.testing.assert_allclose(layout.spreads[0, 1], np.hypot(3.0, 0.1 * 50))


def evidence(layout: ClassLayout, first: int, second: int, *offsets: np.ndarray) -> np.ndarray:
    places = np.stack(offsets)
    pair = np.full(len(places), first), np.full(len(places), second)
    return layout.evidence(*pair, places, layout.best_log_density(places, EXTENT))


def test_the_right_place_costs_nothing_and_the_wrong_one_never_more_than_a_hundredth() -> None:
    layout = measured()
    right, wrong = evidence(layout, 0, 1, layout.offsets[0, 1], np.array([0.0, -100, 0]))
    assert right == pytest.approx(0, abs=0.02)
    assert wrong == pytest.approx(np.log(0.01))
    other = evidence(layout, 0, 2, layout.offsets[0, 1])
    assert other == pytest.approx(np.log(0.01), rel=0.01)  # there lies class 1


def test_places_are_from_the_middle_of_the_field_of_view() -> None:
    layout = measured(volumes=400)
    np.testing.assert_allclose(layout.places, [[0, -50, 0], [0, -20, 0], [0, 10, 0]], atol=4)
    np.testing.assert_allclose(layout.place_spreads, np.hypot(20, 2), rtol=0.15)
    np.testing.assert_allclose(layout.extent, EXTENT)
    alone = measured(volumes=1)
    np.testing.assert_allclose(alone.place_spreads, 15)  # what is known of people in general


def test_the_nearest_class_explains_a_place_best() -> None:
    layout = measured(volumes=1)
    at_last = layout.places[2] + EXTENT / 2
    evidence = layout.place_evidence(at_last, EXTENT)
    assert evidence[2] == pytest.approx(0, abs=0.02)
    far = np.linalg.norm(layout.places - layout.places[2], axis=-1) / 15
    np.testing.assert_allclose(evidence, np.log(0.99 * np.exp(-0.5 * far**2) + 0.01))
    assert layout.place_evidence(np.stack([at_last, at_last]), EXTENT).shape == (2, 3)


def test_a_field_of_another_size_makes_places_less_sure() -> None:
    layout = measured(volumes=1)
    at_last = layout.places[2] + EXTENT / 2
    cut = EXTENT - [0, 80, 0]
    for middle_moved in (-40, 0, 40):  # cut at the one end, at both, at the other
        evidence = layout.place_evidence(at_last - [0, 40 + middle_moved, 0], cut)
        assert evidence[2] > -0.1


def test_a_class_never_seen_has_no_place() -> None:
    layout = of(np.array([[[40.0, 50, 100], [np.nan] * 3]]), np.ones((1, 2, 3)))
    evidence = layout.place_evidence(np.array([40.0, 150, 100]), EXTENT)
    assert evidence[1] == 0
    assert evidence[0] < -3


def test_alike_neighbours_are_explained_alike() -> None:
    # 0 to 1 is as far as 1 to 2, so that a pair of neighbours says little about which they are.
    layout = measured(volumes=400)
    offset = layout.offsets[0, 1]
    assert evidence(layout, 0, 1, offset) == pytest.approx(0, abs=0.3)
    assert evidence(layout, 1, 2, offset) == pytest.approx(0, abs=0.3)


def test_nothing_explains_a_place_worse_than_chance() -> None:
    layout = measured()
    far = np.array([[70.0, -150, 150]])
    assert layout.best_log_density(far, EXTENT) == pytest.approx(-np.log(EXTENT).sum())
    assert layout.best_log_density(layout.offsets[0, 2], EXTENT) > -np.log(EXTENT).sum()


def test_a_pair_never_seen_together_says_nothing() -> None:
    centers = np.array(
        [[[0.0, 0, 0], [0, 10, 0], [np.nan] * 3], [[0, 0, 0], [np.nan] * 3, [1, 2, 3]]]
    )
    layout = of(centers, np.where(np.isfinite(centers), 1.0, np.nan))
    assert layout.volumes.tolist() == [[2, 1, 1], [1, 1, 0], [1, 0, 1]]
    assert evidence(layout, 1, 2, np.array([5.0, 5, 5])) == [0.0]
    assert np.isfinite(layout.spreads).all()


def test_through_a_checkpoint_and_back() -> None:
    layout = measured()
    again = ClassLayout.from_dict(layout.to_dict())
    for entry in fields(ClassLayout):
        np.testing.assert_array_equal(getattr(again, entry.name), getattr(layout, entry.name))


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": None},
        {"offsets": [[1.0]]},
        {"spreads": np.zeros((3, 3, 3)).tolist()},
        {"spreads": np.full((3, 3, 3), np.nan).tolist()},
        {"places": [[1.0, 2.0]]},
        {"place_spreads": np.zeros((3, 3)).tolist()},
        {"extent": [1.0, np.inf, 1.0]},
        {"volumes": "many"},
        {"volumes": [[1, 2], [3, 4]]},
    ],
)
def test_a_damaged_one_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(MrsslError, match="layout of classes"):
        ClassLayout.from_dict(measured().to_dict() | change)
    with pytest.raises(MrsslError, match="layout of classes"):
        ClassLayout.from_dict({})


def test_a_layout_serves_slices_of_every_plane() -> None:
    """Along the patient's axes: measured on sagittal and axial volumes, as if all were of one."""
    rng = np.random.default_rng(0)
    sizes, extents = rng.uniform(2, 9, (4, 3, 3)), np.tile(EXTENT, (4, 1))
    centers = rng.uniform(0, 80, (4, 3, 3))
    alike = ClassLayout.measure(centers, sizes, extents, axes=["LIP"] * 4)
    # The sagittal (L, I, P) as axial (S, P, L).
    turned = centers[1:3], sizes[1:3], extents[1:3]
    flipped = turned[0].copy()
    flipped[..., 1] = EXTENT[1] - flipped[..., 1]
    axial = [table[..., [1, 2, 0]] for table in (flipped, *turned[1:])]
    both = [
        np.concatenate([own[:1], other, own[3:]])
        for own, other in zip((centers, sizes, extents), axial, strict=True)
    ]
    mixed = ClassLayout.measure(*both, axes=["LIP", "SPL", "SPL", "LIP"])
    unturned = ClassLayout.measure(centers, sizes, extents)
    for field in fields(ClassLayout):
        if field.name == "axes":
            continue
        expected = getattr(alike, field.name)
        np.testing.assert_allclose(getattr(mixed, field.name), expected, atol=1e-9)
        back = getattr(mixed.along("LIP"), field.name)
        np.testing.assert_allclose(back, getattr(unturned, field.name), atol=1e-9)
    assert mixed.axes == "RAS"
    assert unturned.along("LIP") is unturned
    assert ClassLayout.from_dict(mixed.to_dict()).axes == "RAS"
    with pytest.raises(MrsslError, match="axes"):
        ClassLayout.from_dict({**mixed.to_dict(), "axes": "LIP"})
