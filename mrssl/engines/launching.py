"""From one command to the processes of a run: on one machine, on several, or under ``torchrun``."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import warnings
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fvcore.common.config import CfgNode

from mrssl.engines.signals import STOP_SIGNALS
from mrssl.errors import Interrupted, MrsslError
from mrssl.files import write_text

#: How long processes wait for one: it may score, name or write alone for longer than the ten
#: minutes that are NCCL's default.
_PATIENCE = timedelta(hours=1)


@dataclass(frozen=True)
class Processes:
    """How many processes, where.

    Attributes:
        per_machine: on each machine.
        machines: their number.
        machine_rank: of this one.
        url: where they meet, ``tcp://HOST:PORT``; "auto" on a single machine.
        cuda: whether each has a GPU.
    """

    per_machine: int = 1
    machines: int = 1
    machine_rank: int = 0
    url: str = "auto"
    cuda: bool = False

    @classmethod
    def asked_for(cls, args: Namespace, cfg: CfgNode) -> Processes:
        """By the arguments of ``tools/train_net.py`` and ``MODEL.DEVICE``."""
        return cls(
            per_machine=args.num_gpus,
            machines=args.num_machines,
            machine_rank=args.machine_rank,
            url=args.dist_url,
            cuda=cfg.MODEL.DEVICE.startswith("cuda"),
        )

    @property
    def total(self) -> int:
        """On all machines."""
        return self.per_machine * self.machines


def launch_processes(
    function: Callable[..., Any],
    processes: Processes,
    args: tuple[Any, ...] = (),
    *,
    setup: Callable[[int], None] | None = None,
) -> None:
    """Call ``function(*args)`` in every process, and wait for the end.

    Under ``torchrun``, or whatever else has started the processes and set ``RANK``, ``WORLD_SIZE``
    and ``MASTER_ADDR``, this one's part is run, on the GPU of ``LOCAL_RANK``; where that is unset,
    of ``SLURM_LOCALID`` or ``RANK``, modulo the GPUs that this process sees. A stop signal that
    reaches this process is passed on to those that it has started.

    Args:
        function: importable by name.
        processes: how many; ignored under ``torchrun``.
        args: that can be pickled.
        setup: called in each process with the number of processes of its machine, once they know
            each other.

    Raises:
        MrsslError: what is wrong with the arguments, or what one of the processes raised.
    """
    if os.environ.keys() >= {"RANK", "WORLD_SIZE", "MASTER_ADDR"}:
        os.environ.setdefault("LOCAL_RANK", _local_rank())
        _run_process(function, args, setup, processes.cuda)
        return
    if processes.total == 1:
        _share_cores(processes)
        function(*args)
        return
    host, port = _meeting_point(processes)
    before = {number: signal.signal(number, _pass_on) for number in STOP_SIGNALS}
    try:
        with tempfile.TemporaryDirectory(prefix="mrssl-") as folder:
            context = mp.start_processes(
                _start,
                nprocs=processes.per_machine,
                args=(processes, host, port, Path(folder), function, args, setup),
                join=False,
                start_method="spawn",
            )
            _wait(context, Path(folder))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _local_rank() -> str:
    """Which of the GPUs seen here is this process's: not every launcher says so.

    Each process may see its own GPU alone, and be the fourth of its machine.
    """
    rank = int(os.environ.get("SLURM_LOCALID", os.environ["RANK"]))
    return str(rank % max(torch.cuda.device_count(), 1))


def _meeting_point(processes: Processes) -> tuple[str, str]:
    if processes.cuda and processes.per_machine > (count := torch.cuda.device_count()):
        raise MrsslError(f"--num-gpus {processes.per_machine}: this machine has {count}")
    if processes.url.startswith("tcp://") and processes.url.count(":") == 2:
        host, port = processes.url.removeprefix("tcp://").split(":")
        return host, port
    if processes.machines > 1 or processes.url != "auto":
        raise MrsslError(f"--dist-url {processes.url!r}: tcp://HOST:PORT is needed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return "127.0.0.1", str(free.getsockname()[1])


def _start(
    local_rank: int,
    processes: Processes,
    host: str,
    port: str,
    folder: Path,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    setup: Callable[[int], None] | None,
) -> None:
    """The life of a process of this launch; ``folder`` is for what it has to tell."""
    os.environ |= {
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "WORLD_SIZE": str(processes.total),
        "LOCAL_WORLD_SIZE": str(processes.per_machine),
        "RANK": str(processes.machine_rank * processes.per_machine + local_rank),
        "LOCAL_RANK": str(local_rank),
    }
    _share_cores(processes)
    told = folder / f"{local_rank}.json"
    _run_process(_call_and_tell, (told, function, args), setup, processes.cuda)


def _share_cores(processes: Processes) -> None:
    """Threads for this process: a core is left to whatever else the machine does.

    Threads wait for each other by spinning: one that has lost its core to another program holds up
    all, and a step takes twenty times as long (docs/training.md).
    """
    if "OMP_NUM_THREADS" not in os.environ:
        share = ((os.cpu_count() or 1) - 1) // processes.per_machine
        torch.set_num_threads(max(min(share, torch.get_num_threads()), 1))


def _run_process(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    setup: Callable[[int], None] | None,
    cuda: bool,
) -> None:
    """One process of several, told by the environment which: join the others, and run."""
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=_PATIENCE)
    # A few gradients are copied where oneDNN lays them out otherwise: nothing that a user can mend.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    failed = True
    try:
        if setup is not None:
            setup(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        function(*args)
        failed = False
    finally:
        # A model in a cycle of references holds on to the group. Left to the end of Python, whose
        # order is not given, the group's threads may still run then: the process aborts.
        gc.collect()
        _leave_group(failed=failed, cuda=cuda)


def _leave_group(*, failed: bool, cuda: bool) -> None:
    """Take leave of the other processes, or none where NCCL would wait for them.

    After a fault of this one they are in an exchange that it will never join.
    """
    if not (failed and cuda):
        dist.destroy_process_group()
    elif abort := getattr(dist.distributed_c10d, "_abort_process_group", None):
        abort()


def _call_and_tell(path: Path, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Call, and leave an error that is meant for the user in ``path``, before others miss us."""
    try:
        function(*args)
    except MrsslError as error:
        write_text(path, json.dumps({"text": str(error), "status": error.exit_status}))
        sys.exit(error.exit_status)


def _pass_on(number: int, frame: FrameType | None) -> None:
    if os.name == "nt":
        return  # they have it already, of the console, and os.kill would end them
    for child in multiprocessing.active_children():
        if child.pid is not None:
            os.kill(child.pid, number)


def _wait(context: mp.ProcessContext, folder: Path) -> None:
    """Until all have ended; of several errors, that which was meant for the user is raised."""
    try:
        while not context.join():
            pass
    except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
        # The first to fail breaks the others' connections: any of them may be seen first.
        for file in sorted(folder.glob("[0-9]*.json")):
            told = json.loads(file.read_text())
            interrupted = told["status"] == Interrupted.exit_status
            raise (Interrupted if interrupted else MrsslError)(told["text"]) from error
        if isinstance(error, mp.ProcessExitedException) and error.signal_name:
            raise MrsslError(f"a process of the run was killed by {error.signal_name}") from error
        raise


__all__ = ["Processes", "launch_processes"]
