"""Outputs that are there whole or not at all, at every moment, whatever happens to the machine."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mrssl.errors import MrsslError

#: Names that :func:`written_whole` and :func:`reserve` write under.
_TEMPORARY = re.compile(r"\..+\.\d+(\.\w+)?")


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside ``path``, renamed to ``path`` when the block ends well.

    What was written is flushed to the disk before the rename, and the rename after it: ``path`` is
    at every moment the old file or the new one. After an exception the old file is untouched and
    the temporary one is gone.

    Raises:
        MrsslError: the folder or the file cannot be written; one line that names it.
    """
    path = Path(path)
    # The suffix stays last: writers such as imageio choose a format by it.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        with suppress(OSError):  # not every system lets a folder be opened
            _sync(path.parent)
    except OSError as error:
        raise MrsslError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Put ``text``, as UTF-8, in the place of ``path``; as :func:`written_whole`.

    Raises:
        MrsslError: the folder or the file cannot be written; one line that names it.
    """
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of ``path``; as :func:`written_whole`.

    Raises:
        MrsslError: the folder or the file cannot be written; one line that names it.
    """
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        yield file


def reserve(folder: str | os.PathLike[str], size: int, count: int = 1) -> None:
    """See whether ``count`` files of ``size`` bytes could be written into ``folder`` now.

    Where the file system cannot say so without writing them, it is taken for granted.

    Raises:
        MrsslError: no: it cannot be written, is full, or a quota or limit forbids it.
    """
    probes = [Path(folder) / f".probe{number}.{os.getpid()}" for number in range(count)]
    try:
        for probe in probes:
            with open(probe, "wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, max(size, 1))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            return
        raise MrsslError(
            f"{folder}: {count} x {size / 2**20:.0f} MiB cannot be written ({error.strerror})"
        ) from error
    finally:
        for probe in probes:
            with suppress(OSError):
                probe.unlink(missing_ok=True)


def sweep(folder: str | os.PathLike[str]) -> None:
    """Remove what writers that were killed have left in ``folder``, which nobody writes to now."""
    for path in Path(folder).glob(".*"):
        if _TEMPORARY.fullmatch(path.name) and path.is_file():
            with suppress(OSError):
                path.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["replacing", "reserve", "sweep", "write_text", "written_whole"]
