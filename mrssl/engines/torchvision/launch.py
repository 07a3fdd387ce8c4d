"""From the command line to one process, or through ``torchrun`` to several."""

from __future__ import annotations

import os
import sys
from argparse import Namespace

from mrssl.config import load_cfg
from mrssl.engines.torchvision.main import main
from mrssl.errors import MrsslError


def launch(args: Namespace) -> None:
    """Run this process's part; where more processes are asked for, start them by ``torchrun``.

    Raises:
        MrsslError: a configuration or data that cannot be used.
    """
    cfg = load_cfg(args.config_file, args.opts)
    if "WORLD_SIZE" not in os.environ and args.num_gpus * args.num_machines > 1:
        os.execv(sys.executable, [sys.executable, *_torchrun(args), *sys.argv])
    main(cfg, args)


def _torchrun(args: Namespace) -> list[str]:
    """The arguments that start ``args.num_gpus`` processes on each of ``args.num_machines``."""
    command = ["-m", "torch.distributed.run", f"--nproc_per_node={args.num_gpus}"]
    if args.num_machines == 1:
        return [*command, "--standalone"]
    if not args.dist_url.startswith("tcp://"):
        raise MrsslError("--dist-url tcp://HOST:PORT is needed with several machines")
    return [
        *command,
        f"--nnodes={args.num_machines}",
        f"--node_rank={args.machine_rank}",
        "--rdzv_backend=static",
        f"--rdzv_endpoint={args.dist_url.removeprefix('tcp://')}",
    ]
