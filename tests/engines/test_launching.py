"""One call to several processes, and back to one line for the user."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mrssl.checkpoint import load_checkpoint
from mrssl.engines import launching
from mrssl.engines.launching import Processes, launch_processes
from mrssl.errors import MrsslError

TWO = Processes(per_machine=2)


def test_what_a_process_has_to_tell_is_raised_here() -> None:
    with pytest.raises(MrsslError, match=r"^nowhere\.pth") as caught:
        launch_processes(load_checkpoint, TWO, ("nowhere.pth",))
    assert caught.value.exit_status == 1


def test_a_process_that_the_system_kills_is_named_by_its_signal() -> None:
    with pytest.raises(MrsslError, match="killed by SIGKILL"):
        launch_processes(signal.raise_signal, TWO, (signal.SIGKILL,))


@pytest.mark.parametrize(
    ("told", "gpus", "expected"),
    [
        ({"LOCAL_RANK": "3", "SLURM_LOCALID": "0"}, 4, "3"),
        ({"SLURM_LOCALID": "2"}, 4, "2"),
        ({"SLURM_LOCALID": "2"}, 1, "0"),  # srun --gpus-per-task=1
        ({}, 4, "1"),
        ({}, 1, "0"),  # a pod of Kubeflow's
        ({}, 0, "0"),
    ],
)
def test_a_launcher_need_not_tell_which_gpu(
    told: dict[str, str], gpus: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = {"RANK": "5", "WORLD_SIZE": "8", "MASTER_ADDR": "head"}
    monkeypatch.setattr(os, "environ", started | told)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    found: list[str] = []
    monkeypatch.setattr(
        launching, "_run_process", lambda *_: found.append(os.environ["LOCAL_RANK"])
    )
    launch_processes(print, Processes(cuda=True))
    assert found == [expected]


@pytest.mark.parametrize(
    ("cores", "processes", "named", "expected"),
    [
        (1, 1, {}, 1),
        (2, 1, {}, 1),  # the other core is left to the user
        (8, 1, {}, 7),
        (8, 2, {}, 3),
        (32, 1, {}, 16),  # torch's own choice, of cores that are two threads each
        (8, 1, {"OMP_NUM_THREADS": "5"}, None),
    ],
)
def test_a_core_is_left_to_all_else(
    cores: int,
    processes: int,
    named: dict[str, str],
    expected: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", named)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    chosen: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", chosen.append)
    launching._share_cores(Processes(per_machine=processes))
    assert chosen == ([] if expected is None else [expected])


PROGRAM = """
import os, sys

from mrssl.engines.distributed import barrier
from mrssl.engines.launching import Processes, launch_processes

def show():
    print(os.environ["RANK"], "of", os.environ["WORLD_SIZE"], flush=True)
    barrier()

if __name__ == "__main__":
    here = Processes(machines=2, machine_rank=int(sys.argv[1]), url=sys.argv[2])
    launch_processes(show, here)
"""


@pytest.mark.slow
def test_two_machines_are_one_run(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / "program.py").write_text(PROGRAM)
    machines = [
        subprocess.Popen(
            [sys.executable, tmp_path / "program.py", str(rank), url],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [machine.communicate(timeout=600)[0].strip() for machine in machines]
    assert said == ["0 of 2", "1 of 2"]


@pytest.mark.parametrize(
    ("processes", "text"),
    [
        (Processes(machines=2), "tcp://HOST:PORT"),
        (Processes(per_machine=2, url="somewhere"), "'somewhere'"),
        (Processes(per_machine=4096, cuda=True), "--num-gpus 4096"),
    ],
)
def test_what_cannot_be_started_is_named(processes: Processes, text: str) -> None:
    with pytest.raises(MrsslError, match=text):
        launch_processes(load_checkpoint, processes)
