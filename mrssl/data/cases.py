"""The cases of a data set, and which of them ``dataset.json:train[a,b]`` means.

A ``split.json`` beside the ``dataset.json`` maps the name of a split to the names of its cases (or
subjects), as they are or as reports and stores show them, patients' names covered.
``dataset.json:train[a,b]`` is the cases (or subjects) ``a`` and ``b`` of the split ``train``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mrssl.data.sources import VolumeSource
from mrssl.errors import MrsslError
from mrssl.files import read_json
from mrssl.privacy import cover


@dataclass(frozen=True)
class Case:
    """One volume of a data set, and its label if it has one.

    Attributes:
        name: what ``split.json`` calls it.
        source: the image.
        label_file: path of the label volume; None where there is none.
        foreground: of a slice store: share of each slice that is foreground.
    """

    name: str
    source: VolumeSource
    label_file: str | None = None
    foreground: tuple[float, ...] = ()


def parse_dataset_path(name_or_path: str | Path) -> tuple[Path, str]:
    """Split ``.../dataset.json:train`` into the path and the split ("" for none)."""
    match = re.fullmatch(r"(.+\.json):([^:/\\]+)", str(name_or_path))
    return (Path(match.group(1)), match.group(2)) if match else (Path(name_or_path), "")


def select_subjects(name_or_path: str | Path, subjects: Sequence[str]) -> str:
    """The path of some subjects of a split: ``dataset.json:train`` -> ``dataset.json:train[a,b]``.

    Raises:
        MrsslError: the path names no split, or a name cannot stand in a path.
    """
    if not parse_dataset_path(name_or_path)[1]:
        raise MrsslError(f"{name_or_path}: subjects can be chosen of a split only")
    if not subjects:
        raise MrsslError(f"{name_or_path}: no subject is chosen")
    for name in subjects:
        if not name or set(name) & set("[],:/\\"):
            raise MrsslError(f"{name_or_path}: the subject {name!r} cannot be named in a path")
    return f"{name_or_path}[{','.join(subjects)}]"


def read_splits(path: Path) -> dict[str, list[str]]:
    """``split.json``: the name of a split -> names of cases or subjects.

    Raises:
        MrsslError: missing, or something else.
    """
    splits = read_json(path)
    for names in splits.values():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise MrsslError(f"{path}: every split must be a list of case names")
    return splits


def cases_of_split(path: Path, split: str, cases: Sequence[Case]) -> list[Case]:
    """Those of ``cases`` that are in a split.

    Args:
        path: of the ``split.json``.
        split: its name, with or without ``[subject,subject,...]``.
        cases: of the data set.

    Raises:
        MrsslError: a missing or malformed file, an unknown split, a case that is not there, a
            subject in a training and in a test split; one line that names the file.
    """
    split, selected_names = _parse_selection(path, split)
    splits = read_splits(path)
    if split not in splits:
        raise MrsslError(f"{path}: no split {split!r}; it has {', '.join(map(repr, splits))}")
    by_name = _by_name(cases)
    unknown = [name for name in splits[split] if name not in by_name]
    if unknown:
        raise MrsslError(f"{path}: split {split!r} names {unknown[0]!r}, which is no case")
    subjects = {
        name: {cases[index].source.subject for index in indices}
        for name, indices in by_name.items()
    }
    _check_leak(path, split, splits, subjects)
    chosen = set[int]().union(*(by_name[name] for name in splits[split]))
    for name in selected_names:
        if chosen.isdisjoint(by_name.get(name, ())):
            raise MrsslError(f"{path}: split {split!r} has no {name!r}")
    if selected_names:
        chosen &= set[int]().union(*(by_name[name] for name in selected_names))
    return [cases[index] for index in sorted(chosen)]


def _parse_selection(path: Path, split: str) -> tuple[str, list[str]]:
    """``train[a,b]`` -> ("train", ["a", "b"]); no names for the whole split."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]+)\])?", split)
    if match is None:
        raise MrsslError(f"{path}: {split!r} is neither a split nor split[subject,subject,...]")
    return match.group(1), match.group(2).split(",") if match.group(2) else []


def _by_name(cases: Sequence[Case]) -> dict[str, set[int]]:
    """Indices of cases by all that a split may call them: case or subject, as it is or covered."""
    marks = frozenset[str]().union(*(case.source.marks for case in cases))
    by_name: dict[str, set[int]] = {}
    for index, case in enumerate(cases):
        names = {case.name, case.source.subject}
        for name in names | {cover(name, marks) for name in names}:
            by_name.setdefault(name, set()).add(index)
    return by_name


def _check_leak(
    path: Path, split: str, splits: Mapping[str, list[str]], subjects: Mapping[str, set[str]]
) -> None:
    """Refuse a subject that is in ``split`` and in a split of another kind.

    The kind is ``train``, ``val`` or ``test``, wherever that stands in a split's name, or else the
    word that it begins with. So ``train`` and ``train_8`` may overlap, ``train`` and ``test`` may
    not, nor ``fold0_train`` and ``fold0_test``, but ``fold0_train`` and ``fold1_test``, whose names
    begin with different numbers, may; ``all`` may overlap with any.
    """
    start, kind = _kind(split)
    own = set[str]().union(*(subjects[name] for name in splits[split]))
    for other, names in splits.items():
        other_start, other_kind = _kind(other)
        if "all" in (kind, other_kind) or other_kind == kind or _are_folds(start, other_start):
            continue
        theirs = set[str]().union(*(subjects.get(name, set()) for name in names))
        if shared := sorted(own & theirs):
            raise MrsslError(f"{path}: subject {shared[0]!r} is in both {split!r} and {other!r}")


def _kind(split: str) -> tuple[str, str]:
    """What stands before the word that tells a split's kind, and that word."""
    match = re.search("train|val|test", split, re.I) or re.match("[a-z]+", split, re.I)
    return (split[: match.start()], match.group().lower()) if match else ("", split)


def _are_folds(a: str, b: str) -> bool:
    """Whether two names differ in their numbers only."""
    return a != b and re.sub(r"\d+", "", a) == re.sub(r"\d+", "", b)


__all__ = ["Case", "cases_of_split", "parse_dataset_path", "read_splits", "select_subjects"]
