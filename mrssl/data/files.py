"""JSON that is what it should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mrssl.errors import MrsslError


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
        raise MrsslError(f"{path}: not readable JSON ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise MrsslError(f"{path}: a JSON object is needed, not a {type(content).__name__}")
    return content


__all__ = ["read_json"]
