#!/usr/bin/env python3
"""Export a checkpoint for a program that knows Detectron2 or torchvision, and not mrssl."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mrssl.checkpoint import SCOPES, export_checkpoint
from mrssl.checkpoint.names import NAMINGS
from mrssl.errors import run_main


def parser() -> argparse.ArgumentParser:
    """The command line; the README and the tests read it."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("checkpoint", help="a .pth of mrssl, of Detectron2 or of torchvision")
    options.add_argument("--to", required=True, choices=NAMINGS, help="whose names to use")
    options.add_argument(
        "--scope",
        default="detector",
        choices=tuple(SCOPES),
        help="how much of the detector, each with the one before; the pretext's heads never "
        "(default: %(default)s)",
    )
    options.add_argument("--output", required=True, help="the .pth to write")
    options.add_argument(
        "--no-predictors",
        action="store_true",
        help="leave out what predicts per class, for a program with other classes",
    )
    options.add_argument(
        "--allow-pickle",
        action="store_true",
        help="read a Detectron2 .pkl: UNSAFE, it can run any program; only from a trusted source",
    )
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Export, and print per group what was kept and what was dropped."""
    args = parser().parse_args(arguments)
    print(
        export_checkpoint(
            args.checkpoint,
            args.output,
            to=args.to,
            scope=args.scope,
            predictors=not args.no_predictors,
            allow_pickle=args.allow_pickle,
        )
    )


if __name__ == "__main__":
    run_main(main)
