"""The folder that ``tools/segment.py`` writes: what its files are called, and what they are of."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from fvcore.common.config import CfgNode

from mrssl.data.preparing import file_stamps, files_of
from mrssl.errors import MrsslError
from mrssl.files import read_json, relative_path, write_text
from mrssl.privacy import cover, folder_alias, pseudonym

Record = dict[str, Any]
#: File or folder, and series.
Key = tuple[str, str]
#: Facts in which a volume agrees with what was segmented under its name before.
_SAME_SCAN = ("data", "path", "series", "subject")


def volume_of(record: Record) -> Key:
    """What tells volumes apart."""
    return record["file_name"], record.get("series", "")


class LabelFolder:
    """Label volumes, their pictures, ``labels.json`` and ``volumes.json``.

    ``volumes.json`` lists what a run is about to write before it writes any of it, and what was
    there of other weights is gone by then. So a label volume that it lists is always of what it
    says, and one that it does not list was made by somebody else, who wants to keep it.

    Args:
        path: of the folder, which need not be there.

    Raises:
        MrsslError: its ``volumes.json`` cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._index = path / "volumes.json"
        self._classes = path / "labels.json"
        self._known: dict[str, Record] = read_json(self._index) if self._index.is_file() else {}
        if not all(isinstance(facts, dict) for facts in self._known.values()):
            raise MrsslError(f"{self._index}: must map names to facts")

    def labels(self, name: str) -> Path:
        """Where the label volume of a name is."""
        return self.path / f"{name}.nii.gz"

    def picture(self, name: str) -> Path:
        """Where the picture of a name is."""
        return self.path / f"{name}.png"

    def begin(self, facts: Mapping[str, Record], class_names: Sequence[str]) -> set[str]:
        """Make the folder ready for label volumes, and list them.

        Args:
            facts: by name, of all volumes that are to be there.
            class_names: of the labels from 1 on.

        Returns:
            Names whose label volume is there already.

        Raises:
            MrsslError: what is there would be lost or mean something else; nothing is changed then.
        """
        classes = {"background": 0} | {name: label for label, name in enumerate(class_names, 1)}
        self._check_same_data(facts)
        self._check_ours(facts)
        self._check_same_classes(facts, classes)
        for name, was in self._known.items():
            if name in facts and facts[name] != was:
                self.labels(name).unlink(missing_ok=True)
                self.picture(name).unlink(missing_ok=True)
        _write_json(classes, self._classes)
        self._known |= facts
        _write_json(self._known, self._index)
        return {name for name in facts if self.labels(name).is_file()}

    def _check_same_data(self, facts: Mapping[str, Record]) -> None:
        """Refuse to replace labels of another data set, whose volumes may have the same names."""
        for name, fact in facts.items():
            known = self._known.get(name, fact)
            if any(known.get(key) != fact[key] for key in _SAME_SCAN):
                raise MrsslError(
                    f"{self.path}: {name} is there, of another data set, or of a subject that was "
                    "named otherwise; give another folder, one for each"
                )

    def _check_ours(self, facts: Mapping[str, Record]) -> None:
        """Refuse to replace labels that somebody made by hand, or by another program."""
        for name in sorted(facts.keys() - self._known.keys()):
            for file in (self.labels(name), self.picture(name)):
                if os.path.lexists(file):
                    raise MrsslError(
                        f"{file}: is there, and no {self._index.name} that says it was written "
                        "here; give another folder for labels"
                    )

    def _check_same_classes(self, facts: Mapping[str, Record], classes: Record) -> None:
        """Refuse to give label values that stay there another meaning."""
        if not self._classes.is_file() or read_json(self._classes) == classes:
            return
        others = [name for name in self._known.keys() - facts.keys() if self.labels(name).is_file()]
        if others or not self._index.is_file():
            raise MrsslError(
                f"{self._classes}: is there, of other classes than these weights', for label "
                "volumes that stay; give another folder"
            )

    def scans_of(self, records: Sequence[Record]) -> list[Record]:
        """Slices of scans: what lies in this folder are labels, written among the scans.

        Args:
            records: slices. It is told how many files are left out that are not listed here.

        Raises:
            MrsslError: all of them lie here.
        """
        folder = self.path.resolve()
        inside = {f for f in {r["file_name"] for r in records} if _lies_in(f, folder)}
        scans = [record for record in records if record["file_name"] not in inside]
        if not scans:
            raise MrsslError(
                f"--output {self.path}: all scans lie in it; give a folder for labels alone"
            )
        listed = {folder / f"{name}.nii.gz" for name in self._known}
        if others := [file for file in inside if Path(file).resolve() not in listed]:
            print(f"warning: left out, as they lie in {self.path}: {len(others)} files or series")
        return scans

    def digest_of_files(self, file: str, root: Path) -> str:
        """Of what a volume is read from, by path, size and time of change, without what is here.

        Args:
            file: or folder, in which this one may lie.
            root: folder of the data set.
        """
        folder = self.path.resolve()
        files = [name for name in files_of(file) if not _lies_in(name, folder)]
        return hashlib.sha256(json.dumps(file_stamps(files, root)).encode()).hexdigest()[:16]


def names_of_volumes(
    records: Sequence[Record], root: Path, marks: Set[str] = frozenset()
) -> dict[Key, str]:
    """A path within the output folder, without suffix, for each volume.

    It follows from the volume's own path in the data set, so that it stays the same when others
    come. Where two would be one file, because of what is covered or of case, digits of a digest of
    that path tell them apart.

    Args:
        records: slices.
        root: folder of the data set.
        marks: by which patients' names are recognised, and covered.
    """
    names = {key: _name(key, root, marks) for key in map(volume_of, records)}
    used = Counter(name.lower() for name in names.values())
    return {
        key: f"{name}-{_digest(key, root)}" if used[name.lower()] > 1 else name
        for key, name in names.items()
    }


def _name(key: Key, root: Path, marks: Set[str]) -> str:
    file, series = key
    path = Path(relative_path(file, root))
    if os.path.isfile(file):
        path = path.with_name(path.name.removesuffix(".gz").removesuffix(".nii"))
    if not path.name:  # the data set is one series
        path = Path(root.resolve().name)
    if path.anchor or os.pardir in path.parts:  # a trusted dataset.json names scans of elsewhere
        path = Path(f"{path.name}-{_digest(key, root)}")
    return cover(path.as_posix(), marks) + (f"-{pseudonym(series)[:8]}" if series else "")


def _digest(key: Key, root: Path) -> str:
    return pseudonym(" ".join((relative_path(key[0], root), key[1])))[:8]


def digest_of_settings(cfg: CfgNode) -> str:
    """What the configuration says of inference, as a digest; device and batches are not in it."""
    model = {key: value for key, value in cfg.MODEL.items() if key not in ("WEIGHTS", "DEVICE")}
    unseen = ("CACHE_MIB", "MAX_UNREADABLE", "WORKER_TIMEOUT", "SUBJECT_PATTERN")
    data = {key: value for key, value in cfg.MRSSL.DATA.items() if key not in unseen}
    sizes = [cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST]
    parts = [model, data, sizes, cfg.TEST.DETECTIONS_PER_IMAGE, cfg.MRSSL.EVALUATION]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def facts_of_volume(
    record: Record, root: Path, marks: Set[str], digests: Mapping[str, str]
) -> dict[str, str]:
    """What ``volumes.json`` says of a volume; labels are of it, and of a checkpoint, if it agrees.

    Args:
        record: one of its slices.
        root: folder of the data set.
        marks: by which patients' names are recognised, and covered.
        digests: of its files, of the checkpoint and of the settings.
    """
    return {
        "data": folder_alias(root),
        "path": cover(relative_path(record["file_name"], root), marks),
        "series": record.get("series", ""),
        "subject": cover(str(record["subject_id"]), marks),
        **digests,
    }


def _lies_in(file: str, folder: Path) -> bool:
    return Path(file).resolve().is_relative_to(folder)


def _write_json(content: Record, path: Path) -> None:
    write_text(path, json.dumps(content, indent=1) + "\n")
