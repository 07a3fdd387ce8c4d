"""One run of the few-label benchmark: train through ``tools/train_net.py``, score, leave a row."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import mrssl
import train_net
from few_labels_bench import RESULT, Bench, Row, file_digest
from few_labels_plan import PRETRAIN, ROOT, Run
from mrssl.engines.checkpoints import FINAL
from mrssl.evaluation import write_results


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
        ``dice_foreground`` (classes merged), ``dice_instances`` (names forgiven),
        ``dice_slicewise`` (each slice named by itself; None where that is how ``dice`` is got),
        ``hd95`` in mm, ``hd95_missed`` (structures missed altogether, summed), ``ap``, ``ap50`` of
        masks.
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
        "code": code_version(),
        "settings": bench.fingerprint(run),
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
