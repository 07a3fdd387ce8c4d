"""SIGTERM and SIGUSR1 mean: save, and leave. Clusters send them before a time limit.

On Windows, which has neither, it is Ctrl-Break.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from mrssl.engines.distributed import any_process
from mrssl.errors import Interrupted

#: ``SIGUSR1`` is what SLURM is asked to send some minutes before it sends ``SIGTERM``.
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGBREAK") if hasattr(signal, name)
)


class StopSignals:
    """While entered, stop signals are noted instead of ending the process.

    ::

        with StopSignals() as signals:
            for batch in loader:
                step(batch)
                if signals.arrived():
                    save()
                    raise signals.interrupted("iteration 12")

    Outside the main thread, where Python allows no handlers, nothing is noted.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        """Install the handlers."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the former handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number

    def arrived(self) -> bool:
        """Whether any process of the run has had a signal; all must ask, and get one answer."""
        return any_process(self._received is not None)

    def interrupted(self, where: str) -> Interrupted:
        """The error to leave with, once the state is saved; ``where`` says how far it got."""
        name = "another process" if self._received is None else signal.Signals(self._received).name
        return Interrupted(f"stopped by {name} at {where}, state saved: go on with --resume")


__all__ = ["STOP_SIGNALS", "StopSignals"]
