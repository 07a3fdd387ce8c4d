"""Real files, and other people's readers of them."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mrssl.data import VolumeSource, find_volumes, read_volume
from mrssl.data.dicom_scan import scan_path
from mrssl.errors import MrsslError


@pytest.fixture(scope="module")
def dicom_folder(shared_data: Path) -> Path:
    return shared_data / "dicom"


@pytest.fixture(scope="module")
def sources(dicom_folder: Path) -> list[VolumeSource]:
    return find_volumes(dicom_folder).volumes


def files_of(source: VolumeSource) -> list[str]:
    scan = scan_path(source.path)
    (volume,) = [v for v in scan.volumes[source.path] if source.series in ("", v.key)]
    return sorted({item.path for item in volume.slices})


def test_every_file_is_read_or_refused(dicom_folder: Path, sources: list[VolumeSource]) -> None:
    found = find_volumes(dicom_folder)
    refused = {r.path for r in found.refused}
    used = {path for source in sources for path in files_of(source)}
    every = {str(path) for path in dicom_folder.rglob("*") if path.is_file()}
    assert used | refused == every
    assert not used & refused
    assert {Path(path).name for path in refused} == {"LICENSE", "PROVENANCE.md"}
    for source in sources:
        volume = read_volume(source.path, series=source.series)
        assert volume.shape == source.shape
        assert np.allclose(volume.affine, source.affine)


def test_one_folder_of_eight_echoes_is_eight_volumes(sources: list[VolumeSource]) -> None:
    knee = [source for source in sources if "knee_t2_multiecho" in source.path]
    assert [source.shape for source in knee] == [(24, 256, 256)] * 8
    assert len({source.tags["EchoTime"] for source in knee}) == 8
    assert len({source.subject for source in knee}) == 1
    assert [[fault.partition(":")[0] for fault in s.faults] for s in knee] == [["no PatientID"]] * 8


def test_volumes_of_each_set(sources: list[VolumeSource], dicom_folder: Path) -> None:
    counts = Counter(Path(s.path).relative_to(dicom_folder).parts[0] for s in sources)
    assert counts == {
        "brain_study": 5,
        "dcm_qa_enh": 6,
        "dcm_qa_ts": 9,
        "ge_dwi": 7,
        "knee_t2_multiecho": 8,
        "philips_fmri": 3,
    }


def test_all_transfer_syntaxes_give_the_same_pixels(dicom_folder: Path) -> None:
    """Files 1 to 8 are coded without loss; the JPEG 2000 of 9 is, too."""
    folder = dicom_folder / "dcm_qa_ts" / "In"
    volumes = [read_volume(path).array for path in sorted(folder.glob("*.dcm"))]
    assert len(volumes) == 9
    for volume in volumes[1:]:
        assert np.array_equal(volume, volumes[0])


@pytest.mark.parametrize("number", range(1, 10))
def test_mosaics_agree_with_nibabel_and_simpleitk(dicom_folder: Path, number: int) -> None:
    """Nibabel knows Siemens mosaics, (rows, columns, slices) in LPS; SimpleITK the one picture."""
    path = dicom_folder / "dcm_qa_ts" / "In" / f"{number}.dcm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its DICOM readers experimental
        from nibabel.nicom import dicomwrappers

        wrapper = dicomwrappers.wrapper_from_file(path)
    volume = read_volume(path)
    assert np.array_equal(volume.array, np.transpose(wrapper.get_data(), (2, 0, 1)))
    expected = np.diag([-1.0, -1, 1, 1]) @ wrapper.affine[:, [2, 0, 1, 3]]
    np.testing.assert_allclose(volume.affine, expected, atol=1e-3)
    sitk = pytest.importorskip("SimpleITK")
    (picture,) = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    depth, rows, columns = volume.shape
    for index in range(depth):
        row, column = np.array(divmod(index, picture.shape[1] // columns)) * (rows, columns)
        tile = picture[row : row + rows, column : column + columns]
        assert np.array_equal(tile, volume.array[index])


def sitk_read(files: list[str], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """SimpleITK's array, and its affine in this package's terms; ITK finds and orders the files."""
    sitk = pytest.importorskip("SimpleITK")
    for file in files:
        (folder / Path(file).name).symlink_to(Path(file).resolve())
    reader = sitk.ImageSeriesReader()
    assert len(reader.GetGDCMSeriesIDs(str(folder))) == 1
    names = reader.GetGDCMSeriesFileNames(str(folder))
    reader.SetFileNames(names)
    image = reader.Execute()
    affine = np.eye(4)
    directions = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, :3] = directions[:, ::-1]  # x, y, z -> slice, row, column
    affine[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def test_classic_series_agree_with_simpleitk(sources: list[VolumeSource], tmp_path: Path) -> None:
    pytest.importorskip("SimpleITK")
    compared = 0
    for number, source in enumerate(sources):
        files = files_of(source)
        if len(files) < 2:
            continue
        folder = tmp_path / str(number)
        folder.mkdir()
        array, affine = sitk_read(files, folder)
        volume = read_volume(source.path, series=source.series)
        assert array.shape == volume.shape, source
        np.testing.assert_allclose(volume.affine, affine, atol=1e-3)
        np.testing.assert_allclose(volume.array, array, rtol=1e-6)
        compared += 1
    assert compared == 23


def test_enhanced_geometry_agrees_with_simpleitk(sources: list[VolumeSource]) -> None:
    sitk = pytest.importorskip("SimpleITK")
    compared = 0
    for source in sources:
        if "XA10" not in source.path:
            continue
        image = sitk.ReadImage(source.path)
        volume = read_volume(source.path)
        np.testing.assert_allclose(volume.array, sitk.GetArrayFromImage(image), rtol=1e-6)
        first = image.TransformIndexToPhysicalPoint((0, 0, 0))
        last = image.TransformIndexToPhysicalPoint([n - 1 for n in image.GetSize()])
        for place, index in ((first, (0, 0, 0)), (last, [n - 1 for n in volume.shape])):
            ours = (volume.affine @ [*index, 1])[:3] * [-1, -1, 1]
            np.testing.assert_allclose(ours, place, atol=1e-3)
        compared += 1
    assert compared == 4


def test_a_philips_field_map_agrees_with_simpleitk(sources: list[VolumeSource]) -> None:
    """One file, magnitude and field map; SimpleITK rescales every frame as it does the first."""
    sitk = pytest.importorskip("SimpleITK")
    volumes = [source for source in sources if "Philips" in source.path]
    image = sitk.ReadImage(volumes[0].path)
    slope, _ = volumes[0].slices[0].rescale
    stored = sitk.GetArrayFromImage(image) / slope
    assert len(stored) == sum(source.shape[0] for source in volumes)
    for source in volumes:
        volume = read_volume(source.path, series=source.series)
        slope, intercept = source.slices[0].rescale
        frames = [item.frame for item in source.slices]
        np.testing.assert_allclose((volume.array - intercept) / slope, stored[frames], atol=1e-2)
        np.testing.assert_allclose(volume.spacing, image.GetSpacing()[::-1], atol=1e-3)
        origin = volume.affine[:3, 3] * [-1, -1, 1]
        np.testing.assert_allclose(origin, image.GetOrigin(), atol=1e-3)


def test_every_volume_is_compared(sources: list[VolumeSource]) -> None:
    """23 of several files, 4 Enhanced, 9 mosaics and 2 of the field map: the tests above."""
    assert len(sources) == 23 + 4 + 9 + 2


def test_the_files_of_pydicom_are_read_or_refused() -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    files = sorted(folder.glob("MR_small*.dcm")) + sorted(folder.glob("MR_trunc*.dcm"))
    assert files
    expected = read_volume(folder / "MR_small.dcm").array
    for path in files:
        if path.name == "MR_truncated.dcm":
            with pytest.raises(MrsslError, match=r"MR_truncated\.dcm: "):
                read_volume(path)
        else:
            assert np.array_equal(read_volume(path).array, expected), path.name
