"""Where the few-label benchmark stands on this machine: its data, its weights, what is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from few_labels.plan import PRETRAIN, TUNE, Plan, Run
from mrssl.data.descriptions import describe
from mrssl.engines.checkpoints import FINAL
from mrssl.errors import MrsslError

RESULT, BEGUN = "result.json", "begun.json"
Row = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A plan, and where on this machine its data and results are.

    Attributes:
        plan: what is run.
        data: folder that holds the data set's folder.
        output: folder of the results.
        files: weights given by file, by name; they stand in for pretrainings of that name.
        device: "cuda" or "cpu"; CUDA falls back to the CPU where there is none.
        keep: leave fine-tuned checkpoints on the disk.
        known: rows of runs that were finished elsewhere, by id.
    """

    plan: Plan
    data: Path
    output: Path
    files: Mapping[str, Path] = field(default_factory=dict)
    device: str = "cuda"
    keep: bool = False
    known: Mapping[str, Row] = field(default_factory=dict)
    _splits: dict[tuple[str, bool], list[str]] = field(default_factory=dict, repr=False)

    @cached_property
    def subjects(self) -> list[str]:
        """The labelled subjects of the training split."""
        return self.plan.subjects(self.data)

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the weights given by file, by name."""
        return {name: file_digest(path) for name, path in self.files.items()}

    def runs(self, kind: str) -> list[Run]:
        """All runs of a kind that the plan has, in their order."""
        if kind == PRETRAIN:
            return list(self.plan.pretraining_runs())
        of_kind = self.plan.tuning_runs if kind == TUNE else self.plan.finetuning_runs
        return list(of_kind(self.subjects))

    def folder(self, run_id: str) -> Path:
        """Where a run writes."""
        return self.output / "runs" / run_id

    def finished(self, run: Run) -> Row | None:
        """The row of a run that is done; None where it is not.

        A pretraining is done while its weights are there.

        Raises:
            MrsslError: it was done with other settings than the plan has now, or on other subjects
                than its split has.
        """
        path = self.folder(run.id) / RESULT
        if run.kind == PRETRAIN and not (self.folder(run.id) / "train" / FINAL).exists():
            return None
        row = read_row(path) if path.exists() else self.known.get(run.id)
        if row is not None and not self.is_current(run, row):
            raise MrsslError(
                f"{path if path.exists() else self.output}: {run.id} was run with other settings "
                "or subjects; give another --output, or remove it from this one"
            )
        return row

    def is_current(self, run: Run, row: Row) -> bool:
        """Whether a row of ``run`` was made with the settings that the plan has now."""
        made = self.fingerprint(run, file=row.get("weights_sha256", ""))
        return bool(row["settings"] == made) and self._of_these_subjects(run, row)

    def _of_these_subjects(self, run: Run, row: Row) -> bool:
        """Whether a split has still those that a row is of: its name alone is in the settings."""
        if run.kind == PRETRAIN:
            return row.get("trained_on") in (None, self.digest_of_split(run.train))
        scored = row.get("dice_per_subject")
        return scored is None or sorted(scored) == self._subjects_of(run.test, labeled=True)

    def digest_of_split(self, split: str) -> str:
        """Of the names of a split's subjects, labelled or not."""
        names = self._subjects_of(split, labeled=False)
        return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]

    def _subjects_of(self, split: str, *, labeled: bool) -> list[str]:
        key = split, labeled
        if key not in self._splits:
            cases = describe(self.data / split).cases
            self._splits[key] = sorted(
                {case.source.subject for case in cases if case.label_file or not labeled}
            )
        return self._splits[key]

    def weights(self, run: Run) -> Path | None:
        """The file that a run starts from; None for scratch.

        Raises:
            MrsslError: nobody has made or given it.
        """
        if not run.weights:
            return None
        if run.weights in self.files:
            return self.files[run.weights]
        if not run.needs:
            raise MrsslError(f"{run.id}: give its weights by --weights {run.weights}=FILE")
        path = self.folder(run.needs) / "train" / FINAL
        if not path.exists():
            raise MrsslError(f"{run.id}: needs the run {run.needs} first ({path} is missing)")
        return path

    def needs(self, run: Run) -> str:
        """Id of the pretraining run that ``run`` waits for; "" where a file stands in for it."""
        return "" if run.weights in self.files else run.needs

    def fingerprint(self, run: Run, *, file: str = "") -> str:
        """What :meth:`Run.fingerprint` says, with that of the weights' own run, or file.

        Args:
            run: of the plan.
            file: SHA-256 of the weights where they are a file that is not given here; "" for none.
        """
        weights = file
        if run.weights in self.files:
            weights = self.digests[run.weights]
        elif run.needs:
            by_id = {r.id: r for r in self.runs(PRETRAIN)}
            weights = by_id[run.needs].fingerprint("", self.plan.engine)
        return run.fingerprint(weights, self.plan.engine)


def read_row(path: Path) -> Row:
    """Read the row that a finished run left.

    Raises:
        MrsslError: the file is damaged.
    """
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
        row["settings"], row["id"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MrsslError(f"{path}: not a finished run's row; remove it ({error!r})") from error
    return row


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        MrsslError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MrsslError(f"{path}: cannot be read ({error.strerror})") from error
