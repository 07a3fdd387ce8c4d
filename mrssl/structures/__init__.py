"""What flows through the pipeline: volumes, restoration targets, the layout of classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mrssl.structures.layout import ClassLayout
from mrssl.structures.volume import Volume

if TYPE_CHECKING:
    from mrssl.structures.restoration_targets import RestorationTargets

__all__ = ["ClassLayout", "RestorationTargets", "Volume"]


def __getattr__(name: str) -> Any:
    # Reading and checking scans needs no torch, whose import takes seconds: it waits until asked.
    if name == "RestorationTargets":
        from mrssl.structures.restoration_targets import RestorationTargets

        return RestorationTargets
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
