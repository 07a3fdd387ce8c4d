"""The one exception family whose message is meant for the user, and the one way to print it."""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Callable
from types import ModuleType


class MrsslError(Exception):
    """Something the user can mend: one line that names the file or key, and what is wrong.

    Attributes:
        exit_status: of a command line that ends with it.
    """

    exit_status = 1


class Interrupted(MrsslError):
    """The run was asked to stop and has saved its state; 75 is ``EX_TEMPFAIL``: start it again."""

    exit_status = 75


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


def one_line(error: BaseException) -> str:
    """An exception's message on one line, short; its type where it has none."""
    return (" ".join(str(error).split()) or type(error).__name__)[:200]


def run_main(main: Callable[[], int | None]) -> None:
    """Run a command line's ``main`` and exit: an :class:`MrsslError` is one line and status 1.

    Of its subclasses, :class:`Interrupted` exits with 75. What the system refuses of a file that it
    names, such as one on a share that is closed to the user, is one line and status 1 too. What is
    printed of a file's name that the terminal's coding does not have is printed as an escape.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a test's need not be
            stream.reconfigure(errors="backslashreplace")
    try:
        status = main()
    except MrsslError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        status = error.exit_status
    except OSError as error:
        if not isinstance(error.filename, (str, bytes, os.PathLike)):
            raise  # no file that the user could mend: a bug
        line = f"{os.fsdecode(error.filename)}: {error.strerror or one_line(error)}"
        print(f"error: {' '.join(line.split())}", file=sys.stderr)
        status = MrsslError.exit_status
    except KeyboardInterrupt:
        status = 130
    sys.exit(status or 0)


__all__ = ["Interrupted", "MissingDependencyError", "MrsslError", "optional_import", "run_main"]
