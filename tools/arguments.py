"""Kinds of command-line arguments that several tools take."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def positive(text: str) -> int:
    """An integer from 1 up.

    Raises:
        ValueError: no integer.
        ArgumentTypeError: a lesser one.
    """
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Take ``KEY VALUE ...`` as ``opts``; to be parsed by :func:`parse`."""
    parser.add_argument("opts", nargs="*", default=[], help="overrides: KEY VALUE ...")


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments, with options before, between and after the overrides."""
    return parser.parse_intermixed_args(argv)
