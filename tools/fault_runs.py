"""Small runs that ``inject_faults.py`` breaks: their data, their processes, what they left."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from mrssl.checkpoint import load_checkpoint, same_content
from mrssl.engines.checkpoints import RunCheckpoints
from mrssl.engines.report import read_history
from mrssl.errors import MrsslError, optional_import

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "quick_schedules" / "pretrain_R_18_FPN.yaml"
#: Entries of a checkpoint that say where the run stands; the rest says what it is.
STATE = ("model", "optimizer", "scheduler", "trainer", "iteration", "best")
_RATE = "images_per_second"
_PATIENCE = 1800.0  # seconds that anything may take on a loaded machine


def write_volumes(folder: Path, count: int = 4, *, every: int = 2) -> Path:
    """Slabs of the ICBM 152 template as so many subjects; returns their ``dataset.json``.

    Args:
        folder: made.
        count: of the slabs, eight slices each.
        every: of the pixels in the slices, which are 2 mm wide.
    """
    datasets: Any = optional_import("nilearn.datasets", "pip install nilearn")
    template = np.asarray(datasets.load_mni152_template(resolution=2).dataobj, np.float32)
    folder.mkdir(parents=True)
    for number in range(count):
        slab = template[::every, ::every, 20 + 10 * number : 28 + 10 * number]
        image = nib.Nifti1Image(slab, np.diag([2.0 * every, 2.0 * every, 8.0, 1.0]))
        nib.save(image, folder / f"slab{number}.nii.gz")
    names = [f"slab{number}" for number in range(count)]
    (folder / "dataset.json").write_text(
        json.dumps({"name": "slabs", "training": [f"{name}.nii.gz" for name in names]})
    )
    (folder / "split.json").write_text(json.dumps({"train": names[:-1], "test": names[-1:]}))
    return folder / "dataset.json"


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    Attributes:
        status: exit status; negative for the signal that killed it.
        text: all that it printed.
    """

    status: int
    text: str

    @property
    def reason(self) -> str:
        """Its one line for the user; "" where it gave none, or more than one."""
        lines = [line for line in self.text.splitlines() if line.startswith("error: ")]
        clean = len(lines) == 1 and "Traceback" not in self.text
        return lines[0].removeprefix("error: ") if clean else ""


class Laboratory:
    """Starts runs of one engine on the volumes in ``folder``.

    Args:
        folder: for data and outputs; made.
        engine: "torchvision" or "detectron2".
        iterations: of each run; a checkpoint is written after each.

    Raises:
        MrsslError: not even the run called "undisturbed", which is made first, succeeds.
    """

    def __init__(self, folder: Path, engine: str, iterations: int) -> None:
        self.folder = folder
        self.engine = engine
        self.iterations = iterations
        self.data = write_volumes(folder / "data")
        whole = self.run("undisturbed")
        if whole.status:
            raise MrsslError(f"the undisturbed run failed: {whole.text[-800:]}")

    def output(self, name: str) -> Path:
        """The folder of a run."""
        return self.folder / name

    def start(
        self,
        name: str,
        *options: Any,
        resume: bool = False,
        program: str | None = None,
        processes: int = 1,
    ) -> subprocess.Popen[str]:
        """Start a run whose output is ``name``.

        Args:
            name: of its folder.
            options: overrides of the configuration.
            resume: go on where it stopped.
            program: Python to run before ``tools/train_net.py``.
            processes: that train together.
        """
        script = str(ROOT / "tools" / "train_net.py")
        arguments = ["--engine", self.engine, "--config-file", str(CONFIG)]
        arguments += ["--num-gpus", str(processes), *["--resume"] * resume]
        overrides = {
            "MODEL.DEVICE": "cpu",
            "DATASETS.TRAIN": f"('{self.data}:train',)",
            "DATASETS.TEST": f"('{self.data}:test',)",
            "OUTPUT_DIR": self.output(name),
            "MRSSL.DATA.SLICE_AXIS": "W",
            "SOLVER.MAX_ITER": self.iterations,
            "SOLVER.CHECKPOINT_PERIOD": 1,
            "TEST.EVAL_PERIOD": max(self.iterations // 2, 1),
            **dict(zip(options[::2], options[1::2], strict=True)),
        }
        command = [sys.executable, script]
        if program is not None:
            after = f"runpy.run_path({script!r}, run_name='__main__')"
            text = f"import runpy, sys\n{program}\nsys.argv = sys.argv[1:]\n{after}"
            command = [sys.executable, "-c", text, script]
        log = open(self.folder / f"{name}.log", "w+")  # noqa: SIM115  (closed with the process)
        return subprocess.Popen(
            [*command, *arguments, *(str(part) for pair in overrides.items() for part in pair)],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            cwd=self.folder,
        )

    def end(self, name: str, process: subprocess.Popen[str]) -> Ended:
        """Wait for a run."""
        status = process.wait(_PATIENCE)
        return Ended(status, (self.folder / f"{name}.log").read_text(errors="replace"))

    def run(self, name: str, *options: Any, **how: Any) -> Ended:
        """Start a run, and wait for it."""
        return self.end(name, self.start(name, *options, **how))

    def done(self, name: str) -> int:
        """Iterations that the run has on record, complete ones."""
        path = self.output(name) / "metrics.json"
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        return sum("total_loss" in line and "lr" in line for line in lines)

    def pace(self, name: str = "undisturbed") -> float:
        """Seconds that an iteration of a run took."""
        rates = [row[_RATE] for row in read_history(self.output(name)) if _RATE in row]
        return 2 / statistics.median(rates)  # two images an iteration

    def wait_for(
        self, name: str, process: subprocess.Popen[str], ready: Callable[[], bool]
    ) -> bool:
        """Until ``ready`` says so; False where the run ended before."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and process.poll() is None:
            if ready():
                return True
            time.sleep(0.005)
        return False

    def same(self, name: str, other: str) -> bool:
        """Whether two runs ended in the same state, in every bit."""
        first, second = (
            load_checkpoint(self.output(each) / "model_final.pth") for each in (name, other)
        )
        return all(same_content(first.get(key), second.get(key)) for key in STATE)

    def newest_is_valid(self, name: str) -> bool:
        """Whether what a resume would take first is whole (or there is nothing yet)."""
        needed = ("iteration",)
        try:
            found = RunCheckpoints(self.output(name), needed=needed).newest()
        except MrsslError:
            return False
        return found is None or not found[2]


def kill_and_resume(
    laboratory: Laboratory, name: str, kills: int, rng: random.Random
) -> tuple[int, int]:
    """Kill a run at ``kills`` moments, resume it each time, and let it end.

    Returns:
        Kills that hit a living run, and how often the newest checkpoint was invalid after one.
    """

    def reached(goal: int) -> bool:
        return laboratory.done(name) >= goal

    hits = invalid = 0
    pace = laboratory.pace()
    for life in range(kills):
        process = laboratory.start(name, resume=True)
        # All in the first three quarters: where the machine gets faster, no life ends by itself.
        target = (life + 1) * laboratory.iterations * 3 // (4 * (kills + 1))
        if laboratory.wait_for(name, process, partial(reached, target)):
            time.sleep(rng.uniform(0, 1.5 * pace))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            hits += 1
        process.wait(_PATIENCE)
        invalid += not laboratory.newest_is_valid(name)
    ended = laboratory.run(name, resume=True)
    if ended.status:
        raise MrsslError(f"{name}: ended with {ended.status}: {ended.text[-500:]}")
    return hits, invalid
