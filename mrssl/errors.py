"""The one exception family whose message is meant for the user, and the one way to print it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from types import ModuleType


class MrsslError(Exception):
    """Something the user can mend: one line that names the file or key, and what is wrong."""


class MissingDependencyError(MrsslError, ImportError):
    """An optional library is not installed; the message says what to install."""


def optional_import(name: str, install: str) -> ModuleType:
    """Import module ``name``, or say in one line what to install.

    Args:
        name: the module, such as ``"nibabel"``.
        install: what brings it, such as ``"pip install nibabel"``.

    Raises:
        MissingDependencyError: the module cannot be imported.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError(f"{name} is needed here ({error}): {install}") from error


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command line's ``main`` and exit: an :class:`MrsslError` is one line and status 1."""
    try:
        status = main()
    except MrsslError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status or 0)


__all__ = ["MissingDependencyError", "MrsslError", "optional_import", "run_main"]
