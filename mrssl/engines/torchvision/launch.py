"""From the command line to the processes of a run on the embedded engine."""

from __future__ import annotations

from argparse import Namespace

from mrssl.config import load_cfg
from mrssl.engines.device import with_device
from mrssl.engines.launching import Processes, launch_processes
from mrssl.engines.torchvision.main import main


def launch(args: Namespace) -> None:
    """Run ``args.num_gpus`` processes on each of ``args.num_machines``, or this one of torchrun's.

    Raises:
        MrsslError: a configuration or data that cannot be used.
    """
    cfg = with_device(load_cfg(args.config_file, args.opts))
    processes = Processes(
        per_machine=args.num_gpus,
        machines=args.num_machines,
        machine_rank=args.machine_rank,
        url=args.dist_url,
        cuda=cfg.MODEL.DEVICE.startswith("cuda"),
    )
    launch_processes(main, processes, (cfg, args))
