"""The runs of the benchmark in parallel processes, each as its own command line."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from few_labels.bench import Bench
from few_labels.plan import Run

LOG = "log.txt"
_POLL_SECONDS = 0.5
#: What sets the number of threads of the libraries that a run computes with.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENCV_FOR_THREADS_NUM",  # else each of 16 runs would have 16 threads, and they wait busily
)


@dataclass
class _Job:
    run: Run
    process: subprocess.Popen[bytes]
    begun: float


class Pool:
    """Runs what is not done, as many at a time as asked for; a run waits for its pretraining.

    Args:
        bench: what is run where.
        command: the command line of a run.
        jobs: processes at a time.
        threads: of each process.
        report: called after each run.
    """

    def __init__(
        self,
        bench: Bench,
        command: Callable[[Run], Sequence[str]],
        *,
        jobs: int,
        threads: int,
        report: Callable[[], None],
    ) -> None:
        self.bench = bench
        self.command = command
        self.jobs = jobs
        self.environment = os.environ | dict.fromkeys(_THREADS, str(threads))
        self.report = report
        self.failed: list[str] = []
        self.work_done = 0.0
        self.total = 0

    def run(self, runs: Sequence[Run]) -> list[str]:
        """Do ``runs``, in their order as far as they need not wait for one another.

        Returns:
            Ids of those that failed or could not start.
        """
        waiting = [run for run in runs if self.bench.finished(run) is None]
        self.total = len(waiting)
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are done, {self.total} to do")
        work = sum(map(work_of, waiting))
        begun, active = time.monotonic(), list[_Job]()
        try:
            while waiting or active:
                waiting = self._start(waiting, active)
                ended = [job for job in active if job.process.poll() is not None]
                for job in ended:
                    active.remove(job)
                    self._end(job)
                    left = self._seconds_left(work, time.monotonic() - begun)
                    print(f"  {len(waiting) + len(active)} left, about {left}", flush=True)
                if not ended:
                    if not active and waiting:
                        self._give_up(waiting)
                        break
                    time.sleep(_POLL_SECONDS)
        finally:
            for job in active:
                job.process.terminate()
            for job in active:
                job.process.wait()
        return self.failed

    def _start(self, waiting: list[Run], active: list[_Job]) -> list[Run]:
        """Start what can start; what is still waiting."""
        unfinished = {run.id for run in waiting} | {job.run.id for job in active}
        left = []
        for run in waiting:
            needed = self.bench.needs(run)
            if len(active) < self.jobs and needed not in unfinished and needed not in self.failed:
                active.append(self._launch(run))
            else:
                left.append(run)
        return left

    def _launch(self, run: Run) -> _Job:
        folder = self.bench.folder(run.id)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / LOG, "ab") as log:  # the process has its own handle
            process = subprocess.Popen(
                self.command(run),
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        return _Job(run, process, time.monotonic())

    def _end(self, job: _Job) -> None:
        seconds = tqdm.format_interval(time.monotonic() - job.begun)
        row = None if job.process.returncode else self.bench.finished(job.run)
        if row is None:
            self.failed.append(job.run.id)
            told = last_line(self.bench.folder(job.run.id) / LOG)
            print(f"{job.run.id} FAILED after {seconds}: {told}")
        else:
            dice = f": Dice {row['dice']:.3f}" if row.get("dice") is not None else ""
            print(f"{job.run.id}{dice} in {seconds}")
            self.report()
        self.work_done += work_of(job.run)

    def _seconds_left(self, work: float, elapsed: float) -> str:
        return str(tqdm.format_interval(elapsed / self.work_done * (work - self.work_done)))

    def _give_up(self, waiting: Sequence[Run]) -> None:
        for run in waiting:
            print(f"{run.id} not started: {self.bench.needs(run)} failed")
            self.failed.append(run.id)


def work_of(run: Run) -> float:
    """How long a run takes, in slices seen; good enough to tell what is left."""
    return float(run.recipe.value("SOLVER.MAX_ITER") * run.recipe.value("SOLVER.IMS_PER_BATCH"))


def last_line(log: Path) -> str:
    """The last line that says something: an error of the tools is one line."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    told = [line.strip() for line in lines if line.strip()]
    return f"{told[-1] if told else 'it said nothing'} ({log})"
