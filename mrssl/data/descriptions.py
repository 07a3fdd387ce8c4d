"""``dataset.json``: what volumes a data set has, and their labels.

Three layouts are understood, all with paths relative to the file:

* Decathlon: ``training`` lists ``{"image": ..., "label": ...}`` (or bare image paths);
* nnU-Net: no list; ``imagesTr/CASE_0000.nii.gz`` and ``labelsTr/CASE.nii.gz`` beside the file;
* a folder of scans: ``folder`` names it; ``include`` and ``exclude`` choose by header field.

A path that leaves the file's folder is refused, so that a description from a stranger names nothing
but what came with it, unless the environment has ``MRSSL_TRUST_PATHS=1``: no file can set that.
Links are followed, since scans are often linked to where they are kept: unpack what a stranger sent
with a program that makes no links out of its folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mrssl.data.cases import Case, cases_of_split, parse_dataset_path
from mrssl.data.dicom_headers import TAGS
from mrssl.data.labels import ClassValues
from mrssl.data.nifti import NIFTI_SUFFIXES
from mrssl.data.sources import (
    FoundVolumes,
    Refused,
    VolumeSource,
    compile_pattern,
    find_volumes,
    stored_source,
    subject_in_path,
    subject_of_file,
)
from mrssl.data.store import check_index, find_index
from mrssl.errors import MrsslError
from mrssl.files import read_json, relative_path
from mrssl.privacy import PathMask, folder_alias

_LOG = logging.getLogger(__name__)
#: What ``include`` and ``exclude`` may choose by.
_FIELDS = frozenset((*TAGS, "SOPClass", "Kind"))
#: What is read of a ``dataset.json``; others are their author's, unless they look misspelt.
_KEYS = (
    *("name", "labels", "training", "file_ending"),
    *("folder", "include", "exclude", "subject_pattern"),
)
#: Of Decathlon's and nnU-Net's own keys, those that look like one of ours.
_NOT_OURS = ("numTraining",)


@dataclass(frozen=True)
class Description:
    """A data set as its ``dataset.json`` describes it.

    Attributes:
        name: of the data set.
        cases: in the file's order.
        class_names: in the order of their label values.
        class_values: label value or values of each class.
        normalization: of a slice store: how its ``foreground`` was normalised.
        refused: files in the folders it names that hold no usable volume, whatever the split.
    """

    name: str
    cases: list[Case]
    class_names: list[str] = field(default_factory=list)
    class_values: list[ClassValues] = field(default_factory=list)
    normalization: dict[str, Any] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)


def describe(name_or_path: str | Path, *, subject_pattern: str = "") -> Description:
    """What a folder of scans, a slice store or a ``dataset.json[:split]`` holds.

    Warns of files that are not used.

    Raises:
        MrsslError: nothing usable there; one line that names the file and the fault.
    """
    path, split = parse_dataset_path(name_or_path)
    index = find_index(path) if path.is_dir() else None
    if index is not None or (path.suffix == ".json" and not path.is_dir()):
        description = read_description(index or path, split, subject_pattern=subject_pattern)
        name = f"{description.name}:{split}" if split else description.name
        description = replace(description, name=name)
    else:
        found = _find_some(path, subject_pattern)
        cases = [Case(volume.subject, volume) for volume in found.volumes]
        description = Description(folder_alias(path), cases, refused=found.refused)
    if description.refused:
        root = path if path.is_dir() else path.parent
        mask = PathMask(root, (case.source.marks for case in description.cases))
        _LOG.warning(
            "%s: %d files are not used (tools/check_data.py lists them)",
            mask.path(str(path)),
            len(description.refused),
        )
    return description


def _find_some(path: Path, subject_pattern: str = "") -> FoundVolumes:
    """:func:`find_volumes`, where finding none is an error."""
    found = find_volumes(path, subject_pattern=subject_pattern)
    if not found.volumes:
        raise MrsslError(f"{path}: no MRI volume found ({found.reason() or 'it is empty'})")
    return found


def read_description(path: Path, split: str = "", *, subject_pattern: str = "") -> Description:
    """Read ``dataset.json`` and, of a split, the ``split.json`` beside it.

    Raises:
        MrsslError: a missing or malformed file, a key that looks misspelt, a field that there is
            not, an unknown split, a case that is not there, a subject in a training and in a test
            split; one line that names the file.
    """
    content = read_json(path)
    if "mrssl_store" not in content:
        _check_keys(path, content)
    subject_pattern = str(content.get("subject_pattern", "")) or subject_pattern
    names, values = _classes(path, content.get("labels", {}))
    refused: list[Refused] = []
    if "mrssl_store" in content:
        check_index(path, content)
        cases = _stored_cases(path, content)
    elif "folder" in content:
        cases = _folder_cases(path, content, subject_pattern, refused)
    elif "training" in content:
        cases = _listed_cases(path, content, subject_pattern, refused)
    else:
        cases = _nnunet_cases(path, content, subject_pattern, refused)
    if split:
        cases = cases_of_split(path.parent / "split.json", split, cases)
    if not cases:
        raise MrsslError(f"{path}: describes no volume")
    return Description(
        str(content.get("name") or path.parent.name),
        cases,
        names,
        values,
        content.get("normalization", {}) if "mrssl_store" in content else {},
        list(dict.fromkeys(refused)),  # a folder may be named for each of its series
    )


def _check_keys(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse what looks like a key that is read, and is not: it would be passed over."""
    for key in content:
        close = get_close_matches(key.lower(), _KEYS, n=1, cutoff=0.8)
        if key not in _KEYS + _NOT_OURS and close:
            raise MrsslError(f"{path}: unknown key {key!r}: is {close[0]!r} meant?")
    for key in ("include", "exclude"):
        fields = content.get(key, {})
        if not isinstance(fields, dict):
            raise MrsslError(f"{path}: 'include' and 'exclude' must map header fields to values")
        for name in fields:
            if name not in _FIELDS:
                close = get_close_matches(name, sorted(_FIELDS), n=1)
                also = (
                    f": is {close[0]!r} meant?" if close else f", of {', '.join(sorted(_FIELDS))}"
                )
                raise MrsslError(f"{path}: {key!r} knows no field {name!r}{also}")


def _classes(path: Path, labels: Any) -> tuple[list[str], list[ClassValues]]:
    """Names and values from ``{"L1": 1}`` (nnU-Net) or ``{"1": "L1"}`` (Decathlon)."""
    if not isinstance(labels, dict):
        raise MrsslError(f"{path}: 'labels' must map names to values")
    found: dict[str, tuple[int, ...]] = {}
    for key, value in labels.items():
        name, number = (value, key) if isinstance(value, str) and key.isdecimal() else (key, value)
        try:
            values = tuple(map(_whole, number if isinstance(number, list) else [number]))
        except (TypeError, ValueError) as error:
            raise MrsslError(f"{path}: label {key!r}: {value!r} is not a whole number") from error
        if values in ((), (0,)) or name == "ignore":
            continue
        if name in found:
            meant = json.dumps({name: sorted({*found[name], *values})}, ensure_ascii=False)
            raise MrsslError(
                f"{path}: two labels are called {name!r}: a class of several values is a list, as "
                f"in {meant}"
            )
        found[name] = values
    names = sorted(found, key=lambda name: found[name])
    return names, [found[n][0] if len(found[n]) == 1 else found[n] for n in names]


def _whole(number: Any) -> int:
    """A label value as an integer.

    Raises:
        TypeError, ValueError: a fraction, which ``int`` would cut off, a truth value, or no number.
    """
    if isinstance(number, bool) or (isinstance(number, float) and not number.is_integer()):
        raise ValueError
    return int(number)


def _listed_cases(
    path: Path, content: Mapping[str, Any], pattern: str, refused: list[Refused]
) -> list[Case]:
    entries = content["training"]
    if not isinstance(entries, list):
        raise MrsslError(f"{path}: 'training' must be a list")
    cases = []
    for entry in entries:
        entry = {"image": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
            raise MrsslError(f"{path}: an entry of 'training' has no 'image'")
        label = entry.get("label")
        cases.append(
            _case(
                _first_channel(_beside(path, entry["image"])),
                _beside(path, label) if label else None,
                pattern,
                path.parent,
                refused,
                series=str(entry.get("series", "")),
            )
        )
    return cases


def _beside(path: Path, name: Any) -> Path:
    """What a description calls ``name``: a path relative to it that stays in its folder."""
    inside = Path(os.path.normpath(str(name)))
    outside = bool(inside.anchor) or inside.parts[:1] == (os.pardir,)
    if outside and os.environ.get("MRSSL_TRUST_PATHS") != "1":
        raise MrsslError(
            f"{path}: {name} lies outside its folder; if you trust the description, set "
            "MRSSL_TRUST_PATHS=1"
        )
    return path.parent / str(name)


def _first_channel(image: Path) -> Path:
    """``image``, or what nnU-Net's first version means by a name that no file has."""
    for ending in NIFTI_SUFFIXES[::-1] if not image.exists() else ():
        if image.name.endswith(ending):
            channel = image.with_name(f"{image.name.removesuffix(ending)}_0000{ending}")
            return channel if channel.exists() else image
    return image


def _nnunet_cases(
    path: Path, content: Mapping[str, Any], pattern: str, refused: list[Refused]
) -> list[Case]:
    ending = content.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not re.fullmatch(r"(\.\w+)+", ending):
        raise MrsslError(f"{path}: 'file_ending' {ending!r} is not of the kind of '.nii.gz'")
    images, labels = path.parent / "imagesTr", path.parent / "labelsTr"
    cases = []
    for image in sorted(images.glob(f"*_0000{ending}")):
        if image.name.startswith("."):  # macOS leaves such a file, of no image, beside a copied one
            continue
        label = labels / (image.name.removesuffix(f"_0000{ending}") + ending)
        cases.append(_case(image, label if label.exists() else None, pattern, path.parent, refused))
    if not cases:
        raise MrsslError(f"{path}: no list 'training', and no {images}/*_0000{ending}")
    return cases


def _case(
    image: Path,
    label: Path | None,
    pattern: str,
    base: Path,
    refused: list[Refused],
    *,
    series: str = "",
) -> Case:
    found = _find_some(image)
    refused.extend(found.refused)
    series = series or ("" if image.is_dir() else "0")  # the first channel
    sources = [s for s in found.volumes if series and s.series == series] or found.volumes
    if len(sources) != 1:
        names = ", ".join(_name_within(image, s) for s in sources)
        raise MrsslError(f"{image}: 'image' and 'series' must name one volume, of these: {names}")
    source = sources[0]
    if compiled := compile_pattern(pattern):
        source = source.with_subject(subject_in_path(image, compiled, base))
    if label is not None and not label.exists():
        raise MrsslError(f"{label}: no such file")
    return Case(subject_of_file(image), source, None if label is None else str(label))


def _name_within(image: Path, source: VolumeSource) -> str:
    """What tells a volume of ``image`` from its others: file or folder, and series."""
    where = relative_path(source.path, image)
    return " ".join(filter(None, ("" if where == os.curdir else where, source.series)))


def _stored_cases(path: Path, content: Mapping[str, Any]) -> list[Case]:
    cases = []
    for entry in content["volumes"]:
        source = stored_source(str(_beside(path, f"volumes/{entry['key']}.npy")), entry)
        label = str(_beside(path, f"labels/{entry['key']}.npy")) if entry["label"] else None
        cases.append(Case(entry["case"], source, label, tuple(entry["foreground"])))
    return cases


def _folder_cases(
    path: Path, content: Mapping[str, Any], pattern: str, refused: list[Refused]
) -> list[Case]:
    found = _find_some(_beside(path, content["folder"]), pattern)
    refused.extend(found.refused)
    include, exclude = content.get("include", {}), content.get("exclude", {})
    chosen = [s for s in found.volumes if selected(s.tags, include, exclude)]
    if not chosen:
        also = f" ({found.reason()})" if found.refused else ""
        raise MrsslError(f"{path}: none of {len(found.volumes)} volumes found is selected{also}")
    return [Case(source.subject, source) for source in chosen]


def selected(
    tags: Mapping[str, str], include: Mapping[str, Any], exclude: Mapping[str, Any]
) -> bool:
    """Whether a volume is wanted: every ``include`` field agrees, and no ``exclude`` field does.

    Args:
        tags: header fields, as text.
        include: field -> value or list of values, any of which may agree. Text may hold the
            wildcards ``*`` and ``?``; numbers are compared as numbers (to 1e-3).
        exclude: likewise.
    """
    return all(_agrees(tags.get(key), value) for key, value in include.items()) and not any(
        _agrees(tags.get(key), value) for key, value in exclude.items()
    )


def _agrees(text: str | None, wanted: Any) -> bool:
    if text is None:
        return False
    for value in wanted if isinstance(wanted, list) else [wanted]:
        if isinstance(value, (int, float)):
            try:
                if abs(float(text) - value) < 1e-3:
                    return True
            except ValueError:
                continue
        elif fnmatchcase(text.lower(), str(value).lower()):
            return True
    return False


__all__ = ["Description", "describe", "read_description", "selected"]
