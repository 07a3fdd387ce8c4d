"""Outputs that are there whole or not at all, whatever happens to the machine; and JSON to read."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from mrssl.errors import MrsslError, one_line

#: Seconds between attempts to replace a file: on Windows another program, such as a scanner for
#: viruses, may hold it open for a moment.
_WAITS = (0.1, 0.2, 0.4, 0.8, 1.6) if os.name == "nt" else ()
_MARK = "mrssl-tmp"
#: Names that :func:`written_whole` and :func:`reserve` write under.
_TEMPORARY = re.compile(rf"\..+\.[0-9a-f]{{8}}\.{_MARK}(\.\w+)?")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        MrsslError: missing, not JSON, or not an object.
    """
    try:
        # Editors on Windows put a byte order mark before the text, which JSON does not know.
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise MrsslError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise MrsslError(f"{path}: not readable JSON ({one_line(error)})") from error
    if not isinstance(content, dict):
        raise MrsslError(f"{path}: a JSON object is needed, not a {type(content).__name__}")
    return content


def _new_file(folder: Path, name: str, suffix: str = "") -> Path:
    """Make an empty file under a name that nobody could foresee.

    In a shared folder a foreseen name may be somebody else's link by the time it is opened.

    Raises:
        OSError: it cannot be made.
    """
    # Cut, since a name may be as long as the system lets one be.
    path = folder / f".{name[:40]}.{secrets.token_hex(4)}.{_MARK}{suffix[:20]}"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return path


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
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix stays last: writers such as imageio choose a format by it.
        temporary = _new_file(path.parent, path.name, path.suffix)
        yield temporary
        _sync(temporary, os.O_RDWR)  # Windows flushes no file that is open for reading only
        _replace(temporary, path)
        with suppress(OSError):  # not every system lets a folder be opened
            _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        raise MrsslError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Put ``text``, as UTF-8, in the place of ``path``; as :func:`written_whole`.

    What stands in it of a file's name that is no Unicode is written as an escape.

    Raises:
        MrsslError: the folder or the file cannot be written; one line that names it.
    """
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_png(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Put a picture in the place of ``path``; as :func:`written_whole`.

    Encoded in memory: OpenCV itself cannot write to every name that a file may have.

    Args:
        path: of the PNG.
        picture: (H, W) or (H, W, 3) uint8, blue first; where it has no colour it is written grey,
            which is a third of the size.

    Raises:
        MrsslError: the folder or the file cannot be written; one line that names it.
    """
    if picture.ndim == 3 and (picture == picture[..., :1]).all():
        picture = picture[..., 0]
    encoded, content = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    if not encoded:
        raise MrsslError(f"{path}: the picture can't be made")
    with written_whole(path) as temporary:
        temporary.write_bytes(content.tobytes())


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

    Where the system cannot say so without writing them, all that is free counts; where the file
    system cannot, it is taken for granted.

    Raises:
        MrsslError: no: it cannot be written, is full, or a quota or limit forbids it.
    """
    probes: list[Path] = []
    try:
        for _ in range(count):
            probes.append(_new_file(Path(folder), "probe"))
            with open(probes[-1], "wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, max(size, 1))
                elif shutil.disk_usage(folder).free < count * size:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
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


def _replace(temporary: Path, path: Path) -> None:
    for seconds in _WAITS:
        with suppress(PermissionError):
            os.replace(temporary, path)
            return
        time.sleep(seconds)
    os.replace(temporary, path)


def relative_path(path: str | os.PathLike[str], base: str | os.PathLike[str]) -> str:
    """``path`` from ``base`` on, with slashes on every system; whole where it is on another drive.

    A folder that one system has begun can so be gone on with on another.
    """
    try:
        found = os.path.relpath(path, base)
    except ValueError:  # Windows
        found = os.path.abspath(path)
    return Path(found).as_posix()


def _sync(path: Path, how: int) -> None:
    descriptor = os.open(path, how)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = [
    "read_json",
    "relative_path",
    "replacing",
    "reserve",
    "sweep",
    "write_png",
    "write_text",
    "written_whole",
]
