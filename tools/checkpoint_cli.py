"""The command line of the tools that use a checkpoint on a data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from fvcore.common.config import CfgNode

from arguments import add_overrides
from mrssl.config import load_cfg
from mrssl.engines.device import with_device


def checkpoint_parser(description: str | None, training: str) -> argparse.ArgumentParser:
    """With all that :func:`configuration` needs, ``--output`` and overrides.

    Args:
        description: shown as it is.
        training: "pretraining" or "fine-tuning": which one the checkpoint is of.
    """
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--config-file", required=True, help=f"of the {training}")
    options.add_argument("--weights", required=True, help=f"a checkpoint of the {training}")
    options.add_argument("--dataset", required=True, help="folder of scans, or dataset.json:split")
    options.add_argument("--output", required=True, type=Path, metavar="DIR")
    add_overrides(options)
    return options


def configuration(args: argparse.Namespace) -> CfgNode:
    """The configuration file with the checkpoint, the data and the device that is there.

    Raises:
        MrsslError: an unknown key or a value of another type.
    """
    named = ["MODEL.WEIGHTS", args.weights, "DATASETS.TEST", repr((args.dataset,))]
    return with_device(load_cfg(args.config_file, [*named, *args.opts]))
