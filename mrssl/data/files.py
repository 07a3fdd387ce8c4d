"""Outputs that are there whole or not at all, and JSON that is what it should be."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mrssl.errors import MrsslError


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``, renamed to ``path`` when the block ends well.

    Raises:
        MrsslError: the file cannot be written; one line that names it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise MrsslError(f"{path}: can't be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        MrsslError: missing, not JSON, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MrsslError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise MrsslError(f"{path}: not readable JSON ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise MrsslError(f"{path}: a JSON object is needed, not a {type(content).__name__}")
    return content


__all__ = ["read_json", "written_whole"]
