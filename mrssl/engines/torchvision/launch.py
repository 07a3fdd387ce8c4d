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
    launch_processes(main, Processes.asked_for(args, cfg), (cfg, args))
