from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fuzz_readers import main
from mrssl.data import find_volumes, read_volume
from mrssl.data.preparing import prepare_store
from mrssl.errors import MrsslError

sitk = pytest.importorskip("SimpleITK")

AFFINES = [
    np.diag([1.0, 2.0, 3.0, 1.0]),
    np.array([[0, 0, 1.5, 7], [-2, 0, 0, 8], [0, -0.5, 0, 9], [0, 0, 0, 1.0]]),
]


@pytest.mark.parametrize("affine", AFFINES)
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_the_same_volume_as_nifti(write_nifti: Callable, suffix: str, affine: np.ndarray) -> None:
    """Reference: SimpleITK wrote the file, nibabel reads the same volume as NIfTI."""
    array = np.random.default_rng(0).integers(-99, 999, (5, 6, 7)).astype(np.int16)
    nifti = write_nifti(array, "a.nii", affine)
    path = nifti.with_suffix(suffix)
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    volume = read_volume(path)
    expected = nib.as_closest_canonical(nib.load(nifti))
    assert np.array_equal(volume.array, expected.get_fdata())
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5)
    (source,) = [s for s in find_volumes(path.parent).volumes if s.path == str(path)]
    assert source.shape == volume.shape
    assert source.subject == "a"
    np.testing.assert_allclose(source.affine, volume.affine)


@pytest.mark.parametrize(
    ("suffix", "field"), [(".nhdr", "data file: "), (".mhd", "ElementDataFile = ")]
)
def test_a_header_may_name_one_file_of_its_folder(tmp_path: Path, suffix: str, field: str) -> None:
    """Other files of the reader's machine are none of a header's business."""
    folder = tmp_path / "scans"
    folder.mkdir()
    path = folder / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.int16)), str(path))
    text = path.read_text(encoding="latin-1")
    (line,) = [line for line in text.splitlines() if line.startswith(field)]
    name = line.removeprefix(field)
    assert read_volume(path).array.all()
    (tmp_path / "secret").write_bytes(bytes(240))
    (folder / "link").symlink_to(tmp_path / "secret")
    for other, message in [
        ("../secret", "outside its folder"),
        (str(tmp_path / "secret"), "outside its folder"),
        ("link", "outside its folder"),
        ("gone", "is missing"),
        ("x" * 3000, "as the file"),
        ("LIST", "several files"),
        ("slice%02d.raw 1 4 1", "several files"),
        (f"{name}\n{field}../secret", "several files"),
    ]:
        path.write_text(text.replace(line, field + other), encoding="latin-1")
        with pytest.raises(MrsslError, match=rf"a\{suffix}: .*{message}") as caught:
            read_volume(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".nhdr", ".mhd"])
def test_what_a_detached_header_promises_is_checked(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((10, 10, 10), np.int16)), str(path))
    text = path.read_text(encoding="latin-1")
    path.write_text(text.replace("10 10 10", "700 700 700"), encoding="latin-1")
    with pytest.raises(MrsslError, match="truncated"):
        read_volume(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_mutations_end_in_the_defined_error(
    tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((9, 9, 9), np.int16)), str(path), True)
    assert main([str(path), "--count", "60"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_damage_is_one_line_that_names_the_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((30, 30, 30), np.int16)), str(path))
    data = path.read_bytes()
    for damaged in (b"no volume", data[:1000], data.replace(b"30 30 30", b"9000 9000 9000")):
        path.write_bytes(damaged)
        with pytest.raises(MrsslError, match=rf"a\{suffix}: ") as caught:
            read_volume(path)
        assert "\n" not in str(caught.value)


def test_a_store_notices_that_detached_voxels_changed(tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    image = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    sitk.WriteImage(sitk.GetImageFromArray(image), str(folder / "a.mhd"))
    assert prepare_store(folder, tmp_path / "store").written == 1
    header = (folder / "a.mhd").stat()
    sitk.WriteImage(sitk.GetImageFromArray(2 * image), str(folder / "a.mhd"))
    os.utime(folder / "a.mhd", ns=(header.st_atime_ns, header.st_mtime_ns))
    assert prepare_store(folder, tmp_path / "store").written == 1
    assert prepare_store(folder, tmp_path / "store").kept == 1
