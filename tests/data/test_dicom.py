from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mrssl.data import find_volumes, read_volume
from mrssl.errors import MrsslError


def voxels(seed: int = 0, shape: tuple[int, int, int] = (6, 8, 10)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4000, shape).astype(np.int16)


def test_position_orders_slices_and_file_names_do_not(write_series: Callable) -> None:
    array = voxels()
    volume = read_volume(write_series(array))
    assert np.array_equal(volume.array, array)
    np.testing.assert_allclose(volume.spacing, (2.5, 0.5, 0.8))
    assert volume.orientation == "SPL"


def test_affine_puts_voxels_where_the_standard_does(write_series: Callable) -> None:
    """Oracle: PS3.3 C.7.6.2.1.1, P = S + X di i + Y dj j, written out for one voxel."""
    folder = write_series(
        voxels(), ImageOrientationPatient=[0.0, 0.8, 0.6, 0.0, 0.6, -0.8], ImagePositionPatient=None
    )
    normal = np.cross([0.0, 0.8, 0.6], [0.0, 0.6, -0.8])
    for index, path in enumerate(sorted(folder.iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.ImagePositionPatient = (np.array([5.0, 6.0, 7.0]) + 1.7 * index * normal).tolist()
        dataset.save_as(path)
    volume = read_volume(folder)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        place = (
            np.array(dataset.ImagePositionPatient)
            + np.array([0.0, 0.8, 0.6]) * 0.8 * 4  # column 4
            + np.array([0.0, 0.6, -0.8]) * 0.5 * 3  # row 3
        )
        index = np.linalg.inv(volume.affine) @ [-place[0], -place[1], place[2], 1]
        d, h, w = np.round(index[:3]).astype(int)
        np.testing.assert_allclose(index[:3], (d, h, w), atol=1e-6)
        assert volume.array[d, h, w] == dataset.pixel_array[3, 4]


def test_rescale_and_monochrome1(write_series: Callable) -> None:
    array = voxels().astype(np.uint16)
    folder = write_series(array, RescaleSlope=2.0, RescaleIntercept=-7.0)
    assert np.array_equal(read_volume(folder).array, array * 2.0 - 7.0)
    folder = write_series(array, "falling", RescaleSlope=-1.0, RescaleIntercept=4095.0)
    assert np.array_equal(read_volume(folder).array, 4095.0 - array)
    folder = write_series(
        array, "inverted", PhotometricInterpretation="MONOCHROME1", BitsStored=12, HighBit=11
    )
    assert np.array_equal(read_volume(folder).array, 4095.0 - array)


def test_padding_is_background(write_series: Callable) -> None:
    array = voxels() + 100
    array[:, 0] = -2000
    volume = read_volume(write_series(array, PixelPaddingValue=-2000))
    assert volume.array.min() == array[:, 1:].min()
    assert np.array_equal(volume.array[:, 1:], array[:, 1:])


def test_padding_may_be_a_range(write_series: Callable) -> None:
    array = np.random.default_rng(0).integers(100, 1000, (3, 8, 8)).astype(np.int16)
    array[:, 0], array[:, 1] = -2000, -1998
    series = write_series(array, PixelPaddingValue=-1998, PixelPaddingRangeLimit=-2000)
    volume = read_volume(series)
    assert volume.array.min() == array[:, 2:].min()
    assert np.array_equal(volume.array[:, 2:], array[:, 2:])


@pytest.mark.parametrize("padding", [0, 4095])
def test_padding_is_background_where_low_values_are_bright(
    write_series: Callable, padding: int
) -> None:
    array = (voxels() % 3000 + 100).astype(np.uint16)
    array[:, 0] = padding
    volume = read_volume(
        write_series(
            array,
            PhotometricInterpretation="MONOCHROME1",
            BitsStored=12,
            HighBit=11,
            PixelPaddingValue=padding,
        )
    )
    assert np.array_equal(volume.array[:, 1:], 4095.0 - array[:, 1:])
    for plane in volume.array:
        assert (plane[0] == plane[1:].min()).all()


@pytest.mark.parametrize(
    "tags",
    [
        [{"EchoTime": 10.0}, {"EchoTime": 20.0}, {"EchoTime": 30.0}],
        [{"TemporalPositionIdentifier": 1}, {"TemporalPositionIdentifier": 2}],
        [{"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}],
        [{"TriggerTime": 0.0}, {"TriggerTime": 40.0}],
        [{"ImageType": ["ORIGINAL", "PRIMARY", t]} for t in "MP"],
        [{"SeriesInstanceUID": "1.2.3"}, {"SeriesInstanceUID": "1.2.4"}],
        [{"DiffusionBValue": 0.0}, {"DiffusionBValue": 800.0}],
        [{"ImageOrientationPatient": [1, 0, 0, 0, 0, -1], "step": (0, 2.5, 0)}, {}],
        [{}, {}],
    ],
)
def test_one_folder_may_hold_several_volumes(write_series: Callable, tags: list[dict]) -> None:
    arrays = [voxels(seed) for seed in range(len(tags))]
    for index, (array, own) in enumerate(zip(arrays, tags, strict=True)):
        own = {"InstanceNumber": None, **own} if own else own
        folder = write_series(array, prefix=f"{index}-", **own)
    found = find_volumes(folder)
    assert not found.refused
    assert len(found.volumes) == len(arrays)
    assert len({source.series for source in found.volumes}) == len(arrays)
    read = [read_volume(v.path, series=v.series).array for v in found.volumes]
    for array in arrays:
        assert any(np.array_equal(array, other) for other in read)


def test_a_series_that_is_not_there_is_named(write_series: Callable) -> None:
    for echo in (10.0, 20.0):
        folder = write_series(voxels(), prefix=f"{echo}-", EchoTime=echo)
    with pytest.raises(MrsslError, match="2 volumes; say which"):
        read_volume(folder)
    with pytest.raises(MrsslError, match="no series 'x'"):
        read_volume(folder, series="x")


def test_keys_do_not_depend_on_other_files(write_series: Callable) -> None:
    folder = write_series(voxels(), prefix="a-", EchoTime=10.0)
    write_series(voxels(), prefix="b-", EchoTime=20.0)
    before = {v.series for v in find_volumes(folder).volumes}
    write_series(voxels(), prefix="c-", EchoTime=30.0)
    assert before < {v.series for v in find_volumes(folder).volumes}


def _faults(folder: Path) -> str:
    (source,) = find_volumes(folder).volumes
    return "; ".join(source.faults)


def test_geometry_faults_are_reported(write_series: Callable) -> None:
    folder = write_series(voxels(), "gap")
    assert _faults(folder) == ""
    (folder / "0003.dcm").unlink()
    assert "1 slices missing" in _faults(folder)
    assert find_volumes(folder).volumes[0].spacing[0] == pytest.approx(2.5)  # and no mean

    folder = write_series(voxels(), "duplicate")
    (folder / "copy.dcm").write_bytes((folder / "0003.dcm").read_bytes())
    assert "1 slices at the place of another" in _faults(folder)
    assert np.array_equal(read_volume(folder).array, voxels())

    folder = write_series(voxels(), "shifted")
    dataset = pydicom.dcmread(folder / "0003.dcm")
    dataset.ImagePositionPatient = [-7.0, -20.0, 2.5 * 3]
    dataset.save_as(folder / "0003.dcm")
    assert "not stacked straight" in _faults(folder)

    folder = write_series(voxels(), "uneven")
    dataset = pydicom.dcmread(folder / "0001.dcm")
    dataset.ImagePositionPatient = [-10.0, -20.0, 2.5 * 5 + 0.9]
    dataset.save_as(folder / "0001.dcm")
    assert "slice distance varies, 2.5 to 3.4 mm" in _faults(folder)


def test_without_positions_numbers_order_slices(write_series: Callable) -> None:
    array = voxels()
    folder = write_series(array, ImagePositionPatient=None)
    assert "InstanceNumber" in _faults(folder)
    assert np.array_equal(read_volume(folder).array, array)


def test_no_name_leaves_the_reader(write_series: Callable) -> None:
    (source,) = find_volumes(write_series(voxels())).volumes
    assert "Secret" not in repr(source) + repr(source.tags)
    assert "id-1" not in repr(source) + repr(source.tags)
    assert len(source.subject) == 12


def test_what_is_no_image_is_refused(tmp_path: Path, dicom_slice: Callable) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    dataset = dicom_slice(voxels()[0])
    for name in ("Rows", "Columns", "PixelData"):
        delattr(dataset, name)
    dataset.save_as(tmp_path / "report.dcm")
    found = find_volumes(tmp_path)
    assert not found.volumes
    assert {Path(r.path).name for r in found.refused} == {"notes.txt", "report.dcm"}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.6, 0.95])
def test_a_truncated_file_is_one_line_that_names_it(
    tmp_path: Path, share: float, dicom_slice: Callable
) -> None:
    path = tmp_path / "a.dcm"
    dicom_slice(voxels(shape=(1, 64, 64))[0]).save_as(path, enforce_file_format=True)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(MrsslError, match=r"a\.dcm") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def test_a_huge_header_allocates_nothing(tmp_path: Path, dicom_slice: Callable) -> None:
    dataset = dicom_slice(voxels()[0], Rows=65535, Columns=65535)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(MrsslError, match="truncated"):
        read_volume(tmp_path / "a.dcm")


def test_enhanced_frames_are_read_by_their_groups(tmp_path: Path, write_enhanced: Callable) -> None:
    array = np.stack([voxels(0), voxels(1)])
    write_enhanced(array, "a.dcm")
    sources = find_volumes(tmp_path).volumes
    assert [s.tags["EchoTime"] for s in sources] == ["10.0", "20.0"]
    for echo, source in enumerate(sources):
        volume = read_volume(source.path, series=source.series)
        offset = np.arange(len(array[echo]))[:, None, None]
        assert np.array_equal(volume.array, array[echo] * (echo + 1.0) + offset)
        np.testing.assert_allclose(volume.spacing, (2.5, 0.5, 0.8))


def test_keys_of_enhanced_files_stay_wherever_these_lie(
    tmp_path: Path, write_enhanced: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_enhanced(np.stack([voxels(0), voxels(1)]), "here/a.dcm")
    keys = [source.series for source in find_volumes(path).volumes]
    assert len(set(keys)) == 2
    monkeypatch.chdir(tmp_path)
    assert [source.series for source in find_volumes("here").volumes] == keys
    path.parent.rename("there")
    assert [source.series for source in find_volumes("there").volumes] == keys


@pytest.mark.parametrize("echoes", [1, 2])
def test_enhanced_files_of_one_series_have_keys_of_their_own(
    tmp_path: Path, write_enhanced: Callable, echoes: int
) -> None:
    arrays = [np.stack([voxels(10 * n + e) for e in range(echoes)]) for n in (1, 2)]
    for number, array in enumerate(arrays):
        write_enhanced(array, f"{number}.dcm")
    with pytest.raises(MrsslError, match=f"{2 * echoes} volumes; say which: ") as caught:
        read_volume(tmp_path)
    keys = str(caught.value).rpartition(": ")[2].split(", ")
    assert len({read_volume(tmp_path, series=key).array.sum() for key in keys}) == 2 * echoes


@pytest.mark.parametrize("syntax", [pydicom.uid.ExplicitVRLittleEndian, pydicom.uid.RLELossless])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.uint32])
def test_stored_values_are_those_of_pydicom(
    tmp_path: Path, dicom_slice: Callable, dtype: type, syntax: str
) -> None:
    """Reference: pydicom's own decoding; 12 or 20 bits used, anything in the others."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (9, 11), dtype=dtype)
    used = {1: 8, 2: 12, 4: 20}[pixels.dtype.itemsize]
    dataset = dicom_slice(pixels, BitsStored=used, HighBit=used - 1)
    if syntax == pydicom.uid.RLELossless and pixels.dtype.itemsize < 4:
        dataset.compress(syntax, encoding_plugin="pydicom")
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    expected = pydicom.dcmread(tmp_path / "a.dcm").pixel_array
    assert np.array_equal(read_volume(tmp_path / "a.dcm").array[0], expected.astype(np.float32))


def test_philips_factors_that_vary_make_slices_comparable(write_series: Callable) -> None:
    """Real value = (stored x slope + intercept) / (slope x scale slope), the same throughout."""
    real = voxels().clip(1, 900).astype(np.float64)
    folder = write_series(voxels())
    for index, path in enumerate(sorted(folder.iterdir(), reverse=True)):
        dataset = pydicom.dcmread(path)
        slope, scale = 0.5 + index, 2.0 / (index + 1)
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, 0.0
        dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True).add_new(
            0x0E, "FL", scale
        )
        stored = np.round(real[index] * scale).astype(np.int16)
        dataset.PixelData = stored.tobytes()
        dataset.save_as(path)
    array = read_volume(folder).array
    rounding = 0.5 / (2.0 / 6)
    assert np.abs(array - real).max() <= rounding + 1e-3
