"""One series, several volumes at the same places: time points, phases, dynamics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mrssl.data import find_volumes, read_volume
from mrssl.data.sources import VolumeSource


def of(number: int) -> np.ndarray:
    """Volume ``number``: its slices are 100, 101, ... times it."""
    values = 100 * number + np.arange(10)
    return np.repeat(values, 56).reshape(10, 7, 8).astype(np.int16)


def write_repeats(write_series: Callable, *, move: float = 0.0) -> Path:
    """Three acquisitions of ten slices 2.5 mm apart, each ``move`` mm beside the one before."""
    for number in (1, 2, 3):
        folder = write_series(of(number), prefix=f"{number}-", AcquisitionNumber=number)
        for path in folder.glob(f"{number}-*"):
            dataset = pydicom.dcmread(path)
            dataset.ImagePositionPatient[2] += move * number
            dataset.InstanceNumber += 10 * number
            dataset.save_as(path)
    return folder


def slices_of(source: VolumeSource) -> list[int]:
    """The value of each slice."""
    array = read_volume(source.path, series=source.series).array
    return np.rint(array[:, 0, 0]).astype(int).tolist()


@pytest.mark.parametrize("move", [0.0, 0.004, 0.3])
def test_repeats_at_places_that_moved_a_little_are_told_apart(
    write_series: Callable, move: float
) -> None:
    """By correction for motion while scanning, or numbers that were rounded again."""
    volumes = find_volumes(write_repeats(write_series, move=move)).volumes
    assert sorted(map(slices_of, volumes)) == [of(n)[:, 0, 0].tolist() for n in (1, 2, 3)]
    for source in volumes:
        assert source.faults == ()
        assert source.spacing == pytest.approx((2.5, 0.5, 0.8))


@pytest.mark.parametrize("lost", [[4], [9], [0, 1]])
def test_a_lost_slice_costs_no_other_repeat(write_series: Callable, lost: list[int]) -> None:
    folder = write_repeats(write_series)
    for index in lost:
        (folder / f"1-{10 - index:04d}.dcm").unlink()
    found = sorted(slices_of(source) for source in find_volumes(folder).volumes)
    first = [100 + index for index in range(10) if index not in lost]
    assert found == [first, of(2)[:, 0, 0].tolist(), of(3)[:, 0, 0].tolist()]


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_share_of_a_volume_is_no_repeat_of_it(write_series: Callable, repeats: int) -> None:
    """Two packages: one acquisition has the even slices, another the odd ones."""
    for number in range(1, repeats + 1):
        folder = write_series(of(number), prefix=f"{number}-")
        for path in folder.glob(f"{number}-*"):
            dataset = pydicom.dcmread(path)
            dataset.AcquisitionNumber = 1 + dataset.InstanceNumber % 2
            dataset.InstanceNumber += 10 * number
            dataset.save_as(path)
    found = sorted(slices_of(source) for source in find_volumes(folder).volumes)
    assert found == [of(n)[:, 0, 0].tolist() for n in range(1, repeats + 1)]


def test_files_of_one_frame_keep_their_number(write_series: Callable) -> None:
    """Enhanced objects of a slice each; nothing but the number says which repeat one is of."""
    for number in (1, 2):
        folder = write_series(of(number), prefix=f"{number}-")
        for path in folder.glob(f"{number}-*"):
            dataset = pydicom.dcmread(path)
            item = pydicom.Dataset()
            item.PlanePositionSequence = [pydicom.Dataset()]
            item.PlanePositionSequence[0].ImagePositionPatient = dataset.ImagePositionPatient
            dataset.PerFrameFunctionalGroupsSequence = [item]
            dataset.NumberOfFrames = 1
            dataset.InstanceNumber += 10 * number
            dataset.save_as(folder / f"IM{dataset.InstanceNumber * 7 % 31}.dcm")
            path.unlink()
    found = sorted(slices_of(source) for source in find_volumes(folder).volumes)
    assert found == [of(n)[:, 0, 0].tolist() for n in (1, 2)]


def write_cine(write_series: Callable, times: Callable[[int, int], float]) -> Path:
    """Five phases of ten slices; ``times`` gives the trigger time of (phase, slice)."""
    for phase in range(5):
        folder = write_series(of(phase + 1), prefix=f"{phase}-", AcquisitionNumber=1)
        for path in folder.glob(f"{phase}-*"):
            dataset = pydicom.dcmread(path)
            place = dataset.InstanceNumber - 1
            dataset.TriggerTime = times(phase, place)
            dataset.InstanceNumber = 5 * place + phase + 1
            dataset.save_as(path)
    return folder


@pytest.mark.parametrize("same", [True, False])
def test_phases_whose_times_differ_by_slice_are_volumes_all_the_same(
    write_series: Callable, same: bool
) -> None:
    """The heart beats otherwise while another slice is scanned; the first phase is at 0."""
    folder = write_cine(write_series, lambda phase, place: phase * (40 + (0 if same else place)))
    found = sorted(slices_of(source) for source in find_volumes(folder).volumes)
    assert found == [of(phase + 1)[:, 0, 0].tolist() for phase in range(5)]


def test_repeats_of_which_some_moved_are_told_apart(write_series: Callable) -> None:
    folder = write_repeats(write_series)
    for path in folder.glob("3-*"):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient[2] += 0.3
        dataset.save_as(path)
    found = sorted(slices_of(source) for source in find_volumes(folder).volumes)
    assert found == [of(n)[:, 0, 0].tolist() for n in (1, 2, 3)]


def test_a_slice_that_was_scanned_again_is_no_volume(write_series: Callable) -> None:
    folder = write_series(of(1), prefix="1-", AcquisitionNumber=1)
    dataset = pydicom.dcmread(folder / "1-0004.dcm")
    dataset.AcquisitionNumber, dataset.InstanceNumber = 2, 11
    dataset.save_as(folder / "again.dcm")
    (source,) = find_volumes(folder).volumes
    assert slices_of(source) == of(1)[:, 0, 0].tolist()
    assert "1 slices at the place of another" in source.faults[0]


def test_packages_at_rounded_places_are_one_volume(write_series: Callable) -> None:
    """1.25 mm apart, written to a tenth of a millimetre."""
    folder = write_series(of(1))
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        place = dataset.InstanceNumber - 1
        dataset.ImagePositionPatient[2] = float(np.floor(12.5 * place + 0.5)) / 10
        dataset.AcquisitionNumber = 1 + place % 2
        dataset.save_as(path)
    (source,) = find_volumes(folder).volumes
    assert slices_of(source) == of(1)[:, 0, 0].tolist()


@pytest.mark.filterwarnings("error")
def test_repeats_without_a_place_are_no_matter_of_places(write_series: Callable) -> None:
    for number in (1, 2):
        folder = write_series(
            of(number), prefix=f"{number}-", AcquisitionNumber=number, ImagePositionPatient=None
        )
    (source,) = find_volumes(folder).volumes
    assert source.shape == (20, 7, 8)
