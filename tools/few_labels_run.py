"""One run of the few-label benchmark: train through ``tools/train_net.py``, score, leave a row."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

import train_net
from few_labels_plan import PRETRAIN, ROOT, TUNE, Plan, Run
from mrssl.engines.checkpoints import FINAL
from mrssl.errors import MrsslError
from mrssl.evaluation import write_results

RESULT = "result.json"
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

    @cached_property
    def subjects(self) -> list[str]:
        """The labelled subjects of the training split."""
        return self.plan.subjects(self.data)

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
            MrsslError: it was done with other settings than the plan has now.
        """
        path = self.folder(run.id) / RESULT
        if run.kind == PRETRAIN and not (self.folder(run.id) / "train" / FINAL).exists():
            return None
        row = read_row(path) if path.exists() else self.known.get(run.id)
        if row is not None and row["settings"] != self.fingerprint(run):
            raise MrsslError(
                f"{path if path.exists() else self.output}: {run.id} was run with other settings; "
                "give another --output, or remove it from this one"
            )
        return row

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

    def fingerprint(self, run: Run) -> str:
        """What :meth:`Run.fingerprint` says, with that of the weights' own run, or file."""
        weights = ""
        if run.weights in self.files:
            weights = file_digest(self.files[run.weights])
        elif run.needs:
            by_id = {r.id: r for r in self.runs(PRETRAIN)}
            weights = by_id[run.needs].fingerprint("")
        return run.fingerprint(weights)


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


def execute(bench: Bench, run: Run) -> Row:
    """Do one run, unless it is done, and return its row.

    A pretraining that was killed goes on from its last checkpoint; a fine-tuning starts again.
    """
    row = bench.finished(run)
    if row is not None:
        return row
    folder = bench.folder(run.id)
    weights = bench.weights(run)
    if run.kind != PRETRAIN:
        for part in ("train", "test"):
            shutil.rmtree(folder / part, ignore_errors=True)
    begun = _clocks()
    _train(bench, run, weights)
    seconds = dict(zip(("seconds", "cpu_seconds"), _since(begun), strict=True))
    row = _describe(bench, run) | seconds
    final = folder / "train" / FINAL
    if run.kind == PRETRAIN:
        row["sha256"] = file_digest(final)
    else:
        row["weights_sha256"] = file_digest(weights) if weights else ""
        begun = _clocks()
        _score(bench, run, final)
        row["scoring_seconds"], row["scoring_cpu_seconds"] = _since(begun)
        row |= scores(folder / "test" / "inference") | {"curve": curve(folder / "train")}
        if not bench.keep:
            for file in (folder / "train").glob("*.pth"):
                file.unlink()
    write_results(row, folder / RESULT)
    return row


def _clocks() -> tuple[float, float]:
    """Wall clock, and the processor time of this process, which other load does not stretch."""
    return time.perf_counter(), time.process_time()


def _since(begun: tuple[float, float]) -> tuple[float, ...]:
    return tuple(round(now - then, 1) for now, then in zip(_clocks(), begun, strict=True))


def _train(bench: Bench, run: Run, weights: Path | None) -> None:
    opts = {
        **run.recipe.opts,
        "SEED": run.seed,
        "DATASETS.TRAIN": [str(bench.data / run.train)],
        "DATASETS.TEST": [str(bench.data / run.validation)] if run.validation else [],
        "MODEL.WEIGHTS": str(weights or ""),
        "OUTPUT_DIR": str(bench.folder(run.id) / "train"),
    }
    _tool(bench, run, opts, *(["--resume"] if run.kind == PRETRAIN else []))


def _score(bench: Bench, run: Run, checkpoint: Path) -> None:
    opts = {
        **run.recipe.opts,
        "DATASETS.TEST": [str(bench.data / run.test)],
        "MODEL.WEIGHTS": str(checkpoint),
        "OUTPUT_DIR": str(bench.folder(run.id) / "test"),
    }
    _tool(bench, run, opts, "--eval-only")


def _tool(bench: Bench, run: Run, opts: Mapping[str, Any], *flags: str) -> None:
    opts = {**opts, "MODEL.DEVICE": bench.device}
    arguments = ["--config-file", str(ROOT / run.recipe.config), "--engine", bench.plan.engine]
    train_net.main([*arguments, *flags, *command_line(opts)])


def command_line(opts: Mapping[str, Any]) -> list[str]:
    """Keys and values as ``tools/train_net.py`` takes them; lists become tuples."""
    return [
        text
        for key, value in opts.items()
        for text in (key, repr(tuple(value)) if isinstance(value, list) else str(value))
    ]


def scores(folder: Path) -> Row:
    """The figures of a row, from the files of an evaluation.

    Returns:
        ``dice`` (mean over subjects and classes), ``dice_per_class``, ``dice_per_subject``,
        ``dice_foreground`` (classes merged), ``dice_instances`` (names forgiven), ``hd95`` in mm,
        ``hd95_missed`` (structures missed altogether, summed), ``ap``, ``ap50`` of masks.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    subjects = json.loads((folder / "per_subject.json").read_text(encoding="utf-8"))
    dice = results["dice"]
    return {
        "dice": dice["dice"],
        "dice_foreground": dice["foreground"],
        "dice_instances": dice["instances"],
        "dice_per_class": {
            name.removeprefix("dice-"): value
            for name, value in dice.items()
            if name.startswith("dice-")
        },
        "dice_per_subject": {name: row["dice"]["dice"] for name, row in subjects.items()},
        "hd95": results["hd95"]["hd95"],
        "hd95_missed": results["hd95"]["missed"],
        "ap": results["segm"]["AP"],
        "ap50": results["segm"]["AP50"],
    }


def curve(folder: Path) -> list[list[float]]:
    """``[iteration, Dice on the validation subjects]`` while training."""
    lines = (folder / "metrics.json").read_text(encoding="utf-8").splitlines()
    rows = map(json.loads, lines)
    return [[row["iteration"], row["dice/dice"]] for row in rows if "dice/dice" in row]


def _describe(bench: Bench, run: Run) -> Row:
    """What a row says about its run."""
    labeled = (
        {"labeled_subjects": len(run.subjects), "labeled": run.labeled} if run.subjects else {}
    )
    return {
        "id": run.id,
        "kind": run.kind,
        "dataset": bench.plan.dataset,
        "arm": run.arm,
        **labeled,
        "seed": run.seed,
        "subjects": list(run.subjects),
        "config": run.recipe.config,
        "iterations": run.recipe.value("SOLVER.MAX_ITER"),
        "slices_per_iteration": run.recipe.value("SOLVER.IMS_PER_BATCH"),
        "engine": bench.plan.engine,
        "device": device_name(bench.device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "settings": bench.fingerprint(run),
    }


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's kind."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {platform.machine()}, {os.cpu_count()} cores"


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        MrsslError: it cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise MrsslError(f"{path}: cannot be read ({error.strerror})") from error
