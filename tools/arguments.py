"""Kinds of command-line arguments that several tools take."""

from __future__ import annotations

import argparse


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
