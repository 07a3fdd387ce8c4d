#!/usr/bin/env python3
"""What a run spends on anything but its steps: waiting for samples, and all hooks together.

Trains the small pretraining configuration (or --config-file) for some iterations on slabs of the
ICBM 152 template, with an average of the weights and a line of figures each iteration, and prints
the medians of what ``metrics.json`` says. What is only done now and then (evaluations, checkpoints,
pictures) does not show in a median. Exit status 1 where a share is larger than it may be. Needs
nilearn.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tabulate import tabulate

from arguments import add_overrides, parse
from fault_runs import ROOT, write_volumes
from mrssl.engines import ENGINES, choose_engine
from mrssl.engines.report import read_history
from mrssl.errors import MrsslError, run_main

CONFIG = "configs/pretrain/distortion_R_18_FPN_small.yaml"
FIGURES = ("data_share", "overhead_share", "images_per_second")
#: Shares of the time beyond which something is wrong with the program or the machine.
MOST = {"data_share": 0.05, "overhead_share": 0.02}


def measure(engine: str, config: str, iterations: int, opts: list[str]) -> dict[str, float]:
    """Medians over the iterations but the first two.

    Raises:
        MrsslError: the run failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = write_volumes(Path(folder) / "data", every=1)
        output = Path(folder) / "output"
        command = [
            sys.executable, str(ROOT / "tools" / "train_net.py"), "--engine", engine,
            "--config-file", config, "DATASETS.TRAIN", f"('{data}',)", "OUTPUT_DIR", str(output),
            "SOLVER.MAX_ITER", str(iterations), "MRSSL.LOG_PERIOD", "1",
            "MRSSL.SOLVER.EMA_DECAY", "0.999", *opts,
        ]  # fmt: skip
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise MrsslError(f"the run failed: {done.stderr[-500:]}")
        rows = [row for row in read_history(output) if "data_share" in row][2:]
    return {name: statistics.median(row[name] for row in rows) for name in FIGURES}


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument("--config-file", default=str(ROOT / CONFIG))
    parser.add_argument("--iterations", type=int, default=20)
    add_overrides(parser)
    args = parse(parser, None)
    engine = choose_engine(args.engine)
    found = measure(engine, args.config_file, args.iterations, args.opts)
    print(tabulate([[engine, *found.values()]], headers=["engine", *found], floatfmt=".4f"))
    return int(any(found[name] > most for name, most in MOST.items()))


if __name__ == "__main__":
    run_main(main)
