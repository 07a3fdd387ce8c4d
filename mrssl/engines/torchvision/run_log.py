"""All that the embedded engine tells about a run, on the main process; the others are silent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from fvcore.common.config import CfgNode

from mrssl.config import is_pretraining
from mrssl.engines.distributed import is_main_process
from mrssl.engines.writers import MetricsFile, Progress, TensorBoard, WandB


class RunLog:
    """``metrics.json``, TensorBoard, Weights & Biases where asked for, and the terminal.

    Close it at the end, as by ``contextlib.closing``.

    Args:
        cfg: of the run.
        done: iterations that lie behind it; they are counted from 1.
        total: iterations after which it ends. It may lie behind already: then only the last scores
            are written again.

    Attributes:
        notes: all that was told in words.
        last_picture: uint8 (H, W, 3); None before the first.
    """

    def __init__(self, cfg: CfgNode, *, done: int, total: int) -> None:
        self.notes: list[str] = []
        self.last_picture: np.ndarray | None = None
        self._window: list[Mapping[str, float]] = []
        self._enabled = is_main_process()
        if not self._enabled:
            return
        folder = Path(cfg.OUTPUT_DIR)
        self._metrics = MetricsFile(
            folder / "metrics.json",
            losses_from=done + 1,
            scores_from=done + (done < total),
        )
        self._boards: list[TensorBoard | WandB] = [TensorBoard(folder, purge_from=done + 1)]
        if cfg.MRSSL.WANDB_PROJECT:
            self._boards.append(WandB(cfg))
        self._progress = Progress(
            total,
            initial=done,
            description="pretrain" if is_pretraining(cfg) else "fine-tune",
        )

    def close(self) -> None:
        """Write what is pending, and leave the terminal clean."""
        if self._enabled:
            for part in (self._progress, *self._boards):
                part.close()

    def note(self, text: str) -> None:
        """Tell something in words."""
        self.notes.append(text)
        if self._enabled:
            self._progress.note(text)

    def step(self, values: Mapping[str, float]) -> None:
        """Take in the figures of one iteration."""
        self._window.append(values)
        if self._enabled:
            self._progress.update(values)

    def means(self) -> dict[str, float]:
        """The figures' means over the iterations since this was last asked."""
        window, self._window = self._window, []
        return {k: sum(w[k] for w in window) / len(window) for k in window[0]} if window else {}

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Put figures on record."""
        if self._enabled:
            self._metrics.write(iteration, values)
            for board in self._boards:
                board.write(iteration, values)

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        """Put a picture on record, uint8 (H, W, 3)."""
        self.last_picture = image
        if self._enabled:
            for board in self._boards:
                board.picture(iteration, name, image)


__all__ = ["RunLog"]
