#!/usr/bin/env python3
"""Break small training runs in every way that a weekend knows, and print what became of each.

Needs nilearn (for a volume to train on). Exit status 1 where a run was not survived, or not stopped
with its one line. The table stands in docs/training.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from tabulate import tabulate

from fault_runs import Ended, Laboratory, kill_and_resume
from mrssl.engines import ENGINES, choose_engine
from mrssl.engines.faults import replay_batch
from mrssl.errors import Interrupted, run_main

Outcome = tuple[bool, str]
#: Set the clock back an hour, in the middle of the run, for whoever asks for the time of day.
CLOCK = """
import time
_now, _asked = time.time, []
def _set_back():
    _asked.append(0)
    return _now() - (3600 if len(_asked) > 200 else 0)
time.time = _set_back
"""
#: A disk so slow that workers are reading at almost any moment.
SLOW = """
import time
from mrssl.data.mapper import SliceMapper
_make = SliceMapper.__call__
def _make_slowly(*args, **kwargs):
    time.sleep(1)
    return _make(*args, **kwargs)
SliceMapper.__call__ = _make_slowly
"""
#: A disk that is gone after a while: what asks for it waits for ever.
GONE = """
import itertools, time
from torch.utils.data import get_worker_info
from mrssl.data.mapper import SliceMapper
_make, _made = SliceMapper.__call__, itertools.count()
def _make_or_wait(*args, **kwargs):
    worker = get_worker_info()
    if worker is not None and worker.id == 0 and next(_made) >= 6:
        time.sleep(10**6)
    return _make(*args, **kwargs)
SliceMapper.__call__ = _make_or_wait
"""


def stopped(ended: Ended, *words: str) -> Outcome:
    """Whether a run ended with status 1 and one line that has all the ``words``."""
    fine = ended.status == 1 and all(word in ended.reason for word in words)
    return fine, ended.reason or f"status {ended.status}: {ended.text[-300:]}"


def resumed(lab: Laboratory, name: str, before: str) -> Outcome:
    """Whether a run that ended can be gone on with, to the state of the undisturbed one."""
    valid, again = lab.newest_is_valid(name), lab.run(name, resume=True)
    same = again.status == 0 and lab.same(name, "undisturbed")
    text = "resumed, equal in every bit" if same else f"NOT resumed: {again.text[-300:]}"
    return valid and same, f"{before}; {text}"


def full_disk_before(lab: Laboratory) -> Outcome:
    """The disk has no room for a checkpoint from the start."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    ended = lab.run("full", program=limit)
    fine, text = stopped(ended, "no room")
    return fine and lab.done("full") == 0, f"stopped before training: {text}"


def full_disk_later(lab: Laboratory) -> Outcome:
    """The disk fills up while the run goes on."""
    process = lab.start("filling")
    if lab.wait_for("filling", process, lambda: lab.done("filling") >= 2):
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    fine, text = stopped(lab.end("filling", process), "cannot be written")
    survived, more = resumed(lab, "filling", f"stopped: {text}")
    return fine and survived, more


def unreadable_among_good(lab: Laboratory) -> Outcome:
    """One file of several is damaged behind its header."""
    path = lab.data.parent / "slab0.nii.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        strict = lab.run("strict")
        lenient = lab.run("lenient", "MRSSL.DATA.MAX_UNREADABLE", 0.5)
    finally:
        path.write_bytes(whole)
    fine, text = stopped(strict, "slab0.nii.gz")
    listed = lenient.status == 0 and "skipped" in lenient.text and "slab0.nii.gz[" in lenient.text
    return fine and listed, f"within the share: skipped, listed at the end; beyond: stopped: {text}"


def nan_in_volume(lab: Laboratory) -> Outcome:
    """Voxels that are NaN or infinite."""
    path = lab.data.parent / "slab0.nii.gz"
    whole = path.read_bytes()
    image: Any = nib.load(path)
    array = np.asarray(image.dataobj).copy()
    array[::7], array[1::7] = np.nan, np.inf
    nib.save(nib.Nifti1Image(array, image.affine), path)
    try:
        ended = lab.run("nan")
    finally:
        path.write_bytes(whole)
    return ended.status == 0, "survived: they are read as 0"


def loss_not_finite(lab: Laboratory) -> Outcome:
    """The training diverges."""
    ended = lab.run("diverged", "SOLVER.BASE_LR", 1e20, "SOLVER.WARMUP_ITERS", 0)
    fine, text = stopped(ended, "not finite", "slab", "replay_batch")
    (dump,) = lab.output("diverged").glob("nonfinite_*.json")
    names = [entry["file_name"] for entry in json.loads(dump.read_text())["slices"]]
    same = [sample["file_name"] for sample in replay_batch(dump)] == names
    return fine and same, f"stopped: {text}"


def worker_killed(lab: Laboratory) -> Outcome:
    """The system kills a loader's worker, for memory, say."""
    options = ("SOLVER.MAX_ITER", 10 * lab.iterations, "DATALOADER.NUM_WORKERS", 2)
    process = lab.start("killed_worker", *options, program=SLOW)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if lab.wait_for("killed_worker", process, lambda: lab.done("killed_worker") >= 1):
        for child in map(int, children.read_text().split()):
            if b"train_net" in Path(f"/proc/{child}/cmdline").read_bytes():
                os.kill(child, signal.SIGKILL)
                break
    fine, text = stopped(lab.end("killed_worker", process), "worker", "being read: ", "slab")
    return fine, f"stopped: {text}"


def worker_hangs(lab: Laboratory) -> Outcome:
    """A loader's worker hangs, on a dead network disk, say."""
    options = ("DATALOADER.NUM_WORKERS", 2, "MRSSL.DATA.WORKER_TIMEOUT", 20)
    process = lab.start(
        "hung_worker", "SOLVER.MAX_ITER", 10 * lab.iterations, *options, program=GONE
    )
    fine, text = stopped(lab.end("hung_worker", process), "timed out", "being read: ", "slab")
    return fine, f"stopped: {text}"


def _signalled(lab: Laboratory, number: signal.Signals) -> Outcome:
    name = number.name.lower()
    process = lab.start(name)
    if lab.wait_for(name, process, lambda: lab.done(name) >= 2):
        process.send_signal(number)
    ended = lab.end(name, process)
    status = Interrupted.exit_status
    fine = ended.status == status and number.name in ended.reason
    survived, text = resumed(lab, name, f"saved, left with status {ended.status}")
    return fine and survived, text


def sigterm(lab: Laboratory) -> Outcome:
    """SIGTERM: the machine goes down, or the time limit is reached."""
    return _signalled(lab, signal.SIGTERM)


def sigusr1(lab: Laboratory) -> Outcome:
    """SIGUSR1: what SLURM is asked to send before a limit."""
    return _signalled(lab, signal.SIGUSR1)


def clock_set_back(lab: Laboratory) -> Outcome:
    """The clock is set back by an hour in the middle; the files of the run lie in the future."""
    process = lab.start("clock", program=CLOCK)
    if lab.wait_for("clock", process, lambda: lab.done("clock") >= 2):
        process.kill()
    process.wait()
    for number, file in enumerate(sorted(lab.output("clock").glob("model_*.pth"), reverse=True)):
        os.utime(file, (4e9 + number, 4e9 + number))  # the older, the later
    ended = lab.run("clock", resume=True, program=CLOCK)
    return ended.status == 0 and lab.same("clock", "undisturbed"), "survived, equal in every bit"


def damaged_newest(lab: Laboratory) -> Outcome:
    """The newest checkpoint is cut off, by a disk that lied about what it had written."""
    process = lab.start("damaged")
    if lab.wait_for("damaged", process, lambda: lab.done("damaged") >= 3):
        process.kill()
    process.wait()
    newest = sorted(lab.output("damaged").glob("model_0*.pth"))[-1]
    newest.write_bytes(newest.read_bytes()[:5000])
    ended = lab.run("damaged", resume=True)
    named = "skipped" in ended.text and newest.name in ended.text
    same = ended.status == 0 and lab.same("damaged", "undisturbed")
    return named and same, "named and skipped, the one before resumed, equal in every bit"


def killed(lab: Laboratory, kills: int, seed: int) -> Outcome:
    """A run that is killed at random moments, and resumed each time."""
    hits, invalid = kill_and_resume(lab, "killed", kills, random.Random(seed))
    same = lab.same("killed", "undisturbed")
    text = f"{hits} hit it alive; resumed each time, "
    text += f"the end {'equal' if same else 'NOT equal'} in every bit; "
    text += f"{invalid} times the newest checkpoint was invalid"
    return same and not invalid and hits == kills, text


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("attacked",)


def malicious_checkpoint(lab: Laboratory) -> Outcome:
    """A checkpoint whose reading would run a program."""
    path = lab.folder / "attack.pth"
    torch.save({"model": {"a": torch.ones(1)}, "x": _Attack()}, path)
    fine, text = stopped(lab.run("attack", "MODEL.WEIGHTS", path), "attack.pth", "would run code")
    return fine and not (lab.folder / "attacked").exists(), f"refused: {text}"


def description_outside(lab: Laboratory) -> Outcome:
    """A ``dataset.json`` that names files outside its folder."""
    path = lab.folder / "stranger" / "dataset.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"training": ["../data/slab0.nii.gz"]}))
    fine, text = stopped(lab.run("outside", "DATASETS.TRAIN", f"('{path}',)"), "outside its folder")
    return fine, f"refused: {text}"


FAULTS: tuple[Callable[[Laboratory], Outcome], ...] = (
    full_disk_before,
    full_disk_later,
    unreadable_among_good,
    nan_in_volume,
    loss_not_finite,
    worker_killed,
    worker_hangs,
    sigterm,
    sigusr1,
    clock_set_back,
    damaged_newest,
    malicious_checkpoint,
    description_outside,
)


def examine(folder: Path, engine: str, args: argparse.Namespace) -> list[list[str]]:
    """A row for each fault: whether it is as it should be, what it is, what became of the run."""
    rows = []

    def add(fault: str | None, outcome: Outcome) -> None:
        fine, text = outcome
        text = text.replace(f"{folder}/", "").replace("|", "/")
        rows.append(["yes" if fine else "NO", str(fault), text])
        print(f"{engine}: {rows[-1]}", file=sys.stderr, flush=True)

    lab = Laboratory(folder / "faults", engine, 6)
    for fault in FAULTS:
        if args.only is None or fault.__name__ in args.only:
            add(fault.__doc__, fault(lab))
    if args.kills:
        # A life may take some iterations: all kills are to hit a run that is not yet at its end.
        lab = Laboratory(folder / "kills", engine, 6 * args.kills + 6)
        add(f"SIGKILL at {args.kills} random moments", killed(lab, args.kills, args.seed))
    return rows


def main() -> int:
    """Break, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--kills", type=int, default=30, help="random moments (default: 30)")
    parser.add_argument("--only", nargs="*", choices=[f.__name__ for f in FAULTS])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    engine = choose_engine(args.engine)
    with tempfile.TemporaryDirectory() as folder:
        rows = examine(Path(folder), engine, args)
    print(f"engine: {engine}")
    print(tabulate(rows, headers=["as it should", "fault", "outcome"], tablefmt="github"))
    return int(any(row[0] == "NO" for row in rows))


if __name__ == "__main__":
    run_main(main)
