"""The walk over a file's elements against pydicom, which it stands in for."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from mrssl.data import dicom_headers, read_volume
from mrssl.data.dicom_elements import OddFileError, read_raw_header
from mrssl.data.dicom_headers import PHILIPS_SCALE_SLOPE, read_header
from mrssl.data.dicom_slices import SliceHeader, read_slice_headers
from mrssl.errors import MrsslError

PYDICOM_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
ROWS = 0x00280010


def described(path: Path) -> list[dict[str, Any]] | str:
    """All fields of all slices but the offset of the pixels; or the error."""

    def fields(item: SliceHeader) -> dict[str, Any]:
        values = {name: getattr(item, name) for name in SliceHeader.__slots__}
        plane = values.pop("plane")
        if plane is not None:
            values["plane"] = [plane.position.tolist(), plane.columns.tolist(), plane.rows.tolist()]
        return {**values, "pixels": replace(item.pixels, offset=None)}

    try:
        return [fields(item) for item in read_slice_headers(path)]
    except MrsslError as error:
        return str(error)


def by_pydicom(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]] | str:
    def odd(*_: object) -> None:
        raise OddFileError

    with monkeypatch.context() as patch:
        patch.setattr(dicom_headers, "read_raw_header", odd)
        return described(path)


def is_walked(path: Path) -> bool:
    with open(path, "rb") as stream:
        try:
            read_raw_header(stream, {ROWS})
        except OddFileError:
            return False
    return True


def test_real_scans_are_walked_as_pydicom_reads_them(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [p for p in sorted((shared_data / "dicom").rglob("*")) if p.is_file()]
    seen: set[tuple[Path, bool]] = set()
    for path in files:
        if (path.parent, is_walked(path)) in seen and path.parent.name != "In":
            continue  # one of each folder
        seen.add((path.parent, is_walked(path)))
        assert described(path) == by_pydicom(path, monkeypatch), path
    assert sum(map(is_walked, files)) == len(files) - 3  # of the licence and provenance


@pytest.mark.parametrize("path", sorted(PYDICOM_FILES.glob("*.dcm")), ids=lambda path: path.name)
def test_files_of_pydicom_are_walked_as_pydicom_reads_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert described(path) == by_pydicom(path, monkeypatch)


@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_sequences_are_stepped_over(
    tmp_path: Path, dicom_slice: Callable[..., Any], syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nested, of stated and of undefined length, one of them with a field that is wanted."""
    dataset = dicom_slice(np.arange(12, dtype=np.int16).reshape(3, 4), SeriesDescription="outer")
    inner = pydicom.Dataset()
    inner.SeriesDescription = "inner"
    middle = pydicom.Dataset()
    middle.ReferencedImageSequence = [inner, inner]
    for undefined in (True, False):
        dataset.ReferencedStudySequence = [middle, middle]
        dataset["ReferencedStudySequence"].is_undefined_length = undefined
        middle["ReferencedImageSequence"].is_undefined_length = undefined
        inner.is_undefined_length_sequence_item = undefined
        path = tmp_path / "a.dcm"
        little = syntax != ExplicitVRBigEndian
        if little:
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.save_as(path, enforce_file_format=True)
        else:
            buffer = io.BytesIO()
            dataset.file_meta.TransferSyntaxUID = syntax
            dataset.PixelData = np.arange(12, dtype=">i2").tobytes()
            pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=False)
            path.write_bytes(buffer.getvalue())
        assert is_walked(path)
        assert read_header(path).values["SeriesDescription"] == "outer"
        assert described(path) == by_pydicom(path, monkeypatch)
        assert np.array_equal(read_volume(path).array[0].ravel(), np.arange(12))


def test_a_private_number_of_implicit_vr_is_a_number(
    tmp_path: Path, dicom_slice: Callable[..., Any]
) -> None:
    dataset = dicom_slice(np.ones((3, 4), np.int16), syntax=ImplicitVRLittleEndian)
    block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
    block.add_new(0x0E, "FL", 2.5)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert read_header(tmp_path / "a.dcm").values[PHILIPS_SCALE_SLOPE] == 2.5


def test_values_are_told_apart_by_character_set(
    tmp_path: Path, dicom_slice: Callable[..., Any]
) -> None:
    """The same bytes, read as Japanese and as Latin."""
    texts = []
    for number, charset in enumerate(("ISO 2022 IR 87", "ISO_IR 100")):
        dataset = dicom_slice(np.ones((3, 4), np.int16), SpecificCharacterSet=charset)
        dataset.add(pydicom.DataElement(0x0008103E, "LO", b"\x1b$B;3ED\x1b(B".decode("ascii")))
        dataset.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
        data = (tmp_path / f"{number}.dcm").read_bytes()
        assert b"\x1b$B;3ED\x1b(B" in data
        texts.append(read_header(tmp_path / f"{number}.dcm").values["SeriesDescription"])
    assert texts[0] != texts[1]


def deflated(dicom_slice: Callable[..., Any], path: Path, **tags: Any) -> Path:
    dataset = dicom_slice(np.arange(12, dtype=np.int16).reshape(3, 4), **tags)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_deflated_files_are_read(tmp_path: Path, dicom_slice: Callable[..., Any]) -> None:
    path = deflated(dicom_slice, tmp_path / "a.dcm")
    assert np.array_equal(read_volume(path).array[0].ravel(), np.arange(12))
    data = bytearray(path.read_bytes())
    data[data.index(b"UI\x1a\0") + 2] ^= 0xFF  # where the file meta information can't be followed
    path.write_bytes(data)
    with pytest.raises(MrsslError, match=r"a\.dcm"):
        read_volume(path)


def test_a_deflated_file_that_swells_is_stopped(
    tmp_path: Path, dicom_slice: Callable[..., Any]
) -> None:
    path = deflated(dicom_slice, tmp_path / "a.dcm", ImageComments="\0" * (1 << 25))
    assert path.stat().st_size < 1 << 17
    with pytest.raises(MrsslError, match=r"a\.dcm: .*swell") as caught:
        read_volume(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_anything_else_is_not_parsed(tmp_path: Path) -> None:
    (tmp_path / "archive.bin").write_bytes(b"PK\x03\x04" + bytes(1000))
    with pytest.raises(MrsslError, match="neither DICOM nor NIfTI"):
        read_volume(tmp_path / "archive.bin")
