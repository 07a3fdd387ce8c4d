from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mrssl.data import find_volumes, read_volume
from mrssl.data.checking import check_data
from mrssl.data.nifti import read_nifti_header
from mrssl.errors import MrsslError

AFFINES = {
    "RAS": np.diag([1.0, 2.0, 3.0, 1.0]),
    "LPS": np.diag([-1.0, -2.0, 3.0, 1.0]),
    "PIR": np.array([[0, 0, 1.5, 7], [-2, 0, 0, 8], [0, -0.5, 0, 9], [0, 0, 0, 1.0]]),
}


@pytest.mark.parametrize("codes", AFFINES)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_agrees_with_nibabel(write_nifti: Callable, codes: str, suffix: str) -> None:
    """Reference: nibabel's own canonical image."""
    array = np.random.default_rng(0).integers(-99, 999, (5, 6, 7)).astype(np.int16)
    path = write_nifti(array, f"a{suffix}", AFFINES[codes])
    volume = read_volume(path)
    expected = nib.as_closest_canonical(nib.load(path))
    assert np.array_equal(volume.array, expected.get_fdata())
    assert np.array_equal(volume.affine, expected.affine)
    assert volume.orientation == "RAS"
    header = read_nifti_header(path)
    assert header.shape == volume.shape
    assert np.array_equal(header.affine, volume.affine)


def test_scaling_and_units(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nib.Nifti1Image(array, np.diag([0.001, 0.001, 0.002, 1]))
    image.header.set_xyzt_units("meter")
    image.header.set_slope_inter(2.0, -5.0)
    nib.save(image, tmp_path / "a.nii")
    raw = nib.load(tmp_path / "a.nii").get_fdata()
    volume = read_volume(tmp_path / "a.nii")
    assert np.array_equal(volume.array, raw)
    np.testing.assert_allclose(volume.spacing, (1, 1, 2), rtol=1e-5)


def test_volumes_of_a_4d_file_come_by_index(write_nifti: Callable) -> None:
    array = np.random.default_rng(0).random((3, 4, 5, 6), np.float32)
    path = write_nifti(array, "a.nii.gz")
    sources = find_volumes(path).volumes
    assert [source.series for source in sources] == list("012345")
    for index, source in enumerate(sources):
        volume = read_volume(source.path, series=source.series)
        assert np.array_equal(volume.array, array[..., index])
        assert np.array_equal(volume.array, read_volume(path, index=index).array)
    with pytest.raises(MrsslError, match="holds 6 volumes"):
        read_volume(path)
    with pytest.raises(MrsslError, match="no volume 6"):
        read_volume(path, index=6)


def test_what_is_not_finite_becomes_zero(write_nifti: Callable) -> None:
    array = np.ones((2, 2, 2), np.float32)
    array[0, 0] = np.nan, np.inf
    volume = read_volume(write_nifti(array, "a.nii"))
    assert np.array_equal(volume.array[0, 0], [0, 0])
    assert volume.array.sum() == 6


def test_orientation_that_is_missing_is_a_fault(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), None)
    nib.save(image, tmp_path / "a.nii")
    (source,) = find_volumes(tmp_path / "a.nii").volumes
    assert "left and right" in source.faults[0]


def _truncated(path: Path) -> None:
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[: len(data) // 2]))


def _cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _text(path: Path) -> None:
    path.write_text("this is no volume\n" * 50)


def _zipped_text(path: Path) -> None:
    path.write_bytes(gzip.compress(b"this is no volume\n" * 50))


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-8] ^= 0xFF  # the checksum at the end
    path.write_bytes(data)


def _inflated(path: Path) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[42:48] = np.array([2000, 2000, 2000], "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(data)))


@pytest.mark.parametrize("damage", [_truncated, _cut, _text, _zipped_text, _flipped, _inflated])
def test_damage_is_one_line_that_names_the_file(write_nifti: Callable, damage: Callable) -> None:
    array = np.random.default_rng(0).integers(0, 9999, (16, 16, 16)).astype(np.int16)
    path = write_nifti(array, "a.nii.gz")
    damage(path)
    with pytest.raises(MrsslError, match=r"a\.nii\.gz: ") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("intercept", [np.nan, np.inf])
def test_a_scaling_that_is_none_is_refused_by_the_header(
    write_nifti: Callable, intercept: float
) -> None:
    array = np.ones((4, 4, 4), np.int16)
    path = write_nifti(array, "bad.nii")
    write_nifti(array, "good.nii")
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([1.0, intercept], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(data)
    with pytest.raises(MrsslError, match=r"bad\.nii: damaged NIfTI header \(.*intercept"):
        read_volume(path)  # so that a run may leave its slices out
    report = check_data(path.parent)
    assert [Path(volume["path"]).name for volume in report.volumes] == ["good.nii"]
    (refused,) = report.refused
    assert "intercept" in refused.reason


def test_colour_is_refused(tmp_path: Path) -> None:
    colour = np.zeros((3, 3, 3), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "a.nii")
    found = find_volumes(tmp_path)
    assert not found.volumes
    assert "not MRI" in found.refused[0].reason


def test_a_number_at_the_end_is_a_channel_where_the_first_one_is_there(
    write_nifti: Callable[..., Path],
) -> None:
    values = np.zeros((4, 5, 6), np.int16)
    for name in ("amos_0507", "amos_0508", "case_0000", "case_0001", "sub-7_0000"):
        folder = write_nifti(values, f"{name}.nii.gz").parent
    subjects = [source.subject for source in find_volumes(folder).volumes]
    assert subjects == ["amos_0507", "amos_0508", "case", "case", "sub-7"]
