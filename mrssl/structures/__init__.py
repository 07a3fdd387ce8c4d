"""What flows through the pipeline: volumes, targets of the pretext, the layout of classes."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mrssl.structures.layout import ClassLayout
from mrssl.structures.volume import Volume

if TYPE_CHECKING:
    from mrssl.structures.restoration_targets import RestorationTargets
    from mrssl.structures.slice_position import SlicePosition

__all__ = ["ClassLayout", "RestorationTargets", "SlicePosition", "Volume"]

# Reading and checking scans needs no torch, whose import takes seconds: it waits until asked.
_LATER = {"RestorationTargets": "restoration_targets", "SlicePosition": "slice_position"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
