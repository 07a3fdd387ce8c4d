from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from mrssl.errors import MrsslError
from mrssl.structures import Volume
from mrssl.structures.volume import (
    affine_axes,
    matching_transform,
    plane_of_slices,
    resolve_slice_axis,
)

AXES = "DHW"


def random_affine(rng: np.random.Generator, *, oblique: float = 0.0) -> np.ndarray:
    """Axes permuted and flipped at random, tilted by ``oblique`` radians, with odd spacings."""
    permuted = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)
    tilt = nib.eulerangles.euler2mat(oblique, oblique / 2, -oblique)
    return nib.affines.from_matvec(tilt @ permuted * [0.7, 1.3, 2.9], rng.normal(size=3) * 50)


def world(affine: np.ndarray, index: tuple[int, ...]) -> np.ndarray:
    return affine[:3, :3] @ index + affine[:3, 3]


@pytest.mark.parametrize("axis", [*AXES, "auto"])
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("oblique", [0.0, 0.3])
def test_every_voxel_keeps_its_place(seed: int, axis: str, oblique: float) -> None:
    """Oracle: each voxel holds its own number, so it can be found again wherever it went."""
    rng = np.random.default_rng(seed)
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    before = Volume(array, random_affine(rng, oblique=oblique))
    after = before.take_slices(axis)
    for index in itertools.product(range(4), range(5), range(6)):
        (moved,) = np.argwhere(after.array == array[index])
        np.testing.assert_allclose(world(after.affine, moved), world(before.affine, index))


@pytest.mark.parametrize("seed", range(12))
def test_slices_are_shown_as_radiologists_do(seed: int) -> None:
    rng = np.random.default_rng(seed)
    volume = Volume(np.zeros((4, 5, 6)), random_affine(rng, oblique=0.2))
    shown = {volume.take_slices(axis).orientation for axis in AXES}
    assert shown == {"LIP", "PIL", "SPL"}


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("degrees", [(45, 0, 0), (0, 45, 0), (0, 0, 45), (45, 45, 0), (30, 0, 45)])
def test_a_volume_is_turned_back_to_its_grid_at_any_tilt(
    axis: str, degrees: tuple[float, float, float]
) -> None:
    """At 45 degrees two axes are equally close to one of the patient's, to the last bit."""
    tilt = nib.eulerangles.euler2mat(*np.radians(degrees))
    array = np.arange(4 * 5 * 6, dtype=np.float32).reshape(4, 5, 6)
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((-1, 1), repeat=3):
            axes = np.eye(3)[list(order)] * signs
            volume = Volume(array, nib.affines.from_matvec(tilt @ axes * [1.0, 1.2, 3.0]))
            moved = volume.take_slices(axis)
            back = moved.reoriented(matching_transform(moved.affine, volume.affine))
            assert np.array_equal(back.array, array)
            np.testing.assert_allclose(back.affine, volume.affine, atol=1e-12)


def test_spacing_follows_the_axes() -> None:
    volume = Volume(np.zeros((3, 4, 5)), np.diag([1.0, 2.0, 3.0, 1.0]))
    assert volume.spacing == (1, 2, 3)
    assert volume.orientation == "RAS"
    axial = volume.take_slices("W")
    assert axial.spacing == (3, 2, 1)
    assert axial.shape == (5, 4, 3)


def test_taking_slices_twice_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    volume = Volume(rng.random((3, 4, 5)), random_affine(rng)).take_slices("H")
    again = volume.take_slices("D")
    assert np.array_equal(again.array, volume.array)
    assert np.allclose(again.affine, volume.affine)


@pytest.mark.parametrize(
    ("shape", "spacing", "axis"),
    [
        ((9, 9, 9), (1, 1, 3), "W"),
        ((9, 9, 9), (1, 3, 1), "H"),
        ((9, 9, 9), (2, 2, 2), "D"),
        ((9, 9, 9), (0.999, 1.0, 1.0), "D"),
        ((9, 1, 9), (1, 0.5, 1), "H"),
    ],
)
def test_auto_is_the_coarsest_axis(shape: tuple, spacing: tuple, axis: str) -> None:
    assert resolve_slice_axis("auto", shape, np.diag([*spacing, 1.0])) == axis


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SPL", "AIR", "PIL"])
def test_a_plane_is_that_of_the_patient_whatever_the_order_of_axes(codes: str) -> None:
    affine = inv_ornt_aff(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes)), (4, 5, 6))
    assert affine_axes(affine) == codes
    for plane, sides in {"sagittal": "LR", "coronal": "AP", "axial": "IS"}.items():
        axis = resolve_slice_axis(plane, (4, 5, 6), affine)
        assert codes["DHW".index(axis)] in sides
        shown = Volume(np.zeros((4, 5, 6)), affine).take_slices(plane)
        assert plane_of_slices(affine_axes(shown.affine)) == plane
    assert plane_of_slices("") == ""
    with pytest.raises(MrsslError, match="one of auto, sagittal, coronal, axial, D, H, W"):
        resolve_slice_axis("oblique", (4, 5, 6), affine)


def test_array_is_contiguous_float32() -> None:
    volume = Volume(np.zeros((2, 3, 4), np.int16, order="F"), np.eye(4)).take_slices("W")
    assert volume.array.dtype == np.float32
    assert volume.array.flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.zeros((2, 2)), np.eye(4), "three axes"),
        (np.zeros((0, 2, 2)), np.eye(4), "three axes"),
        (np.zeros((2, 2, 2)), np.eye(3), "4 x 4"),
        (np.zeros((2, 2, 2)), np.diag([1, 0, 1, 1]), "spacing"),
        (np.zeros((2, 2, 2)), np.full((4, 4), np.nan), "finite"),
        (np.zeros((2, 2, 2)), np.array([[1, 1, 0, 0]] * 2 + [[0, 0, 1, 0], [0, 0, 0, 1]]), "plane"),
    ],
)
def test_nonsense_is_refused(array: np.ndarray, affine: np.ndarray, message: str) -> None:
    with pytest.raises(MrsslError, match=message):
        Volume(array, affine)


def test_unknown_axis_is_named() -> None:
    with pytest.raises(MrsslError, match="'X'"):
        Volume(np.zeros((2, 2, 2)), np.eye(4)).take_slices("X")
