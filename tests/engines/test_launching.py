"""One call to several processes, and back to one line for the user."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest

from mrssl.checkpoint import load_checkpoint
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


@pytest.mark.slow
def test_two_machines_are_one_run() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    program = (
        "import os, sys; from mrssl.engines.launching import Processes, launch_processes\n"
        "if __name__ == '__main__':\n"
        "    here = Processes(machines=2, machine_rank=int(sys.argv[1]), url=sys.argv[2])\n"
        "    launch_processes(os.system, here, ('echo $RANK of $WORLD_SIZE',))"
    )
    machines = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), url], stdout=subprocess.PIPE, text=True
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
