"""One run of the few-label benchmark: train by ``tools/train_net.py``, score, leave a row."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import torch
from filelock import FileLock, Timeout

import mrssl
import train_net
from few_labels.bench import BEGUN, RESULT, Bench, Row, file_digest
from few_labels.plan import PRETRAIN, ROOT, TORCHVISION, Run
from mrssl.engines.checkpoints import FINAL
from mrssl.engines.report import read_history
from mrssl.errors import MrsslError
from mrssl.evaluation import write_results


def execute(bench: Bench, run: Run) -> Row:
    """Do one run, unless it is done, and return its row.

    A pretraining that was killed goes on from its last checkpoint; a fine-tuning starts again.
    """
    with _alone(bench, run):
        row = bench.finished(run)
        return _execute(bench, run) if row is None else row


def use_threads(count: int) -> None:
    """Compute with so many threads: their number changes the rounding, and so the figures."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def _execute(bench: Bench, run: Run) -> Row:
    folder = bench.folder(run.id)
    weights = bench.weights(run)
    if run.kind != PRETRAIN:
        (folder / BEGUN).unlink(missing_ok=True)
        for part in ("train", "test"):
            shutil.rmtree(folder / part, ignore_errors=True)
    with _counted(bench, run) as spent:
        _train(bench, run, weights)
    row = _describe(bench, run) | spent
    final = folder / "train" / FINAL
    if run.kind == PRETRAIN:
        row["sha256"] = file_digest(final)
    else:
        row["weights_sha256"] = file_digest(weights) if weights else ""
        row |= _score(bench, run, final)
        row["curve"] = curve(
            folder / "train", engine=bench.plan.engine, last=int(row["iterations"])
        )
        if not bench.keep:
            for file in (folder / "train").glob("*.pth"):
                file.unlink()
    write_results(row, folder / RESULT)
    return row


@contextmanager
def _counted(bench: Bench, run: Run) -> Iterator[Row]:
    """The seconds of a training over all its legs: one that is stopped goes on later.

    Raises:
        MrsslError: the training there was begun with other settings, or on other subjects.
    """
    file = bench.folder(run.id) / BEGUN
    now = {"settings": bench.fingerprint(run), "trained_on": bench.digest_of_split(run.train)}
    before: Row = json.loads(file.read_text()) if file.exists() else dict(now)
    if any(before[key] != now[key] for key in now):
        raise MrsslError(
            f"{file}: the training of {run.id} was begun with other settings or subjects; give "
            f"another --output, or remove {file.parent}"
        )
    spent: Row = {}
    begun = _clocks()
    try:
        write_results(before, file)
        yield spent
    finally:
        for key, seconds in zip(("seconds", "cpu_seconds"), _since(begun), strict=True):
            spent[key] = round(before.get(key, 0.0) + seconds, 1)
        write_results(now | spent, file)


def score_again(bench: Bench, run: Run) -> Row | None:
    """Score the kept weights of a finished run with the code as it is, and return its new row.

    Training is not repeated, and its part of the row stays: the curve is by the code of then.

    Returns:
        None where the run is not finished, its weights were not kept, or it has been scored by
        this code.
    """
    folder = bench.folder(run.id)
    final = folder / "train" / FINAL
    with _alone(bench, run):
        row = bench.finished(run)
        if row is None or not final.exists():
            return None
        by = row.get("scored_by", row["code"])
        if by == code_version() and not by.endswith("+"):  # which tells no two changes apart
            return None
        shutil.rmtree(folder / "test", ignore_errors=True)
        row = row | _score(bench, run, final)
        write_results(row, folder / RESULT)
    return row


@contextmanager
def _alone(bench: Bench, run: Run) -> Iterator[None]:
    """Keep other processes from a run, until the block or this process ends.

    Raises:
        MrsslError: another is at it.
    """
    folder = bench.folder(run.id)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout as error:
        raise MrsslError(f"{run.id}: another process is at it ({folder})") from error


def _clocks() -> tuple[float, float]:
    """Wall clock, and the processor time of this process and its workers that have ended.

    Other load does not stretch the second.
    """
    return time.perf_counter(), sum(os.times()[:4])


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


def _score(bench: Bench, run: Run, checkpoint: Path) -> Row:
    """The part of a row that is about the test subjects."""
    begun, folder = _clocks(), bench.folder(run.id) / "test"
    opts = {
        **run.recipe.opts,
        "DATASETS.TEST": [str(bench.data / run.test)],
        "MODEL.WEIGHTS": str(checkpoint),
        "OUTPUT_DIR": str(folder),
    }
    _tool(bench, run, opts, "--eval-only")
    seconds = dict(zip(("scoring_seconds", "scoring_cpu_seconds"), _since(begun), strict=True))
    return scores(folder / "inference") | seconds | {"scored_by": code_version()}


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
        ``dice_foreground`` (classes merged), ``dice_instances`` (names forgiven),
        ``dice_slicewise`` (each slice named by itself; None where that is how ``dice`` is got),
        ``hd95`` in mm, ``hd95_missed`` (structures missed or made up altogether, summed), ``ap``,
        ``ap50`` of masks.
    """
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    subjects = json.loads((folder / "per_subject.json").read_text(encoding="utf-8"))
    dice = results["dice"]
    return {
        "dice": dice["dice"],
        "dice_foreground": dice["foreground"],
        "dice_instances": dice["instances"],
        "dice_slicewise": dice.get("slicewise"),
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


def curve(folder: Path, *, engine: str, last: int) -> list[list[float]]:
    """``[iterations done, Dice on the validation subjects]`` while training.

    Args:
        folder: of the training.
        engine: that trained; Detectron2 counts its iterations from 0, but the last evaluation's.
        last: iterations of the whole training.
    """
    first = 0 if engine == TORCHVISION else 1
    return [
        [min(row["iteration"] + first, last), row["dice/dice"]]
        for row in read_history(folder)
        if "dice/dice" in row
    ]


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
        "code": code_version(),
        "settings": bench.fingerprint(run),
        **({"trained_on": bench.digest_of_split(run.train)} if run.kind == PRETRAIN else {}),
    }


def code_version() -> str:
    """The package's version and, in a checkout, the commit; "+" after it where it was changed."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        found = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return mrssl.__version__
    return f"{mrssl.__version__} {found}"


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's kind."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {platform.machine()}, {os.cpu_count()} cores"
