"""The checkpoints of a run: written whole or not at all, pruned, and found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrssl.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

FINAL, BEST, LAST = "model_final.pth", "model_best.pth", "last_checkpoint"


class RunCheckpoints:
    """Checkpoints in the folder of a run, named as Detectron2 names them.

    Args:
        folder: of the run.
        keep: how many periodic checkpoints are kept; the best and the final one always are.
        needed: entries without which a checkpoint cannot be resumed from.
    """

    def __init__(
        self, folder: Path, *, keep: int = 2, needed: Sequence[str] = ("optimizer", "iteration")
    ) -> None:
        self.folder = folder
        self.keep = max(keep, 1)
        self.needed = tuple(needed)

    def save(self, state: Mapping[str, Any], iteration: int, *, final: bool = False) -> Path:
        """Save after ``iteration`` iterations, then drop what is too old."""
        path = self.folder / (FINAL if final else f"model_{iteration - 1:07d}.pth")
        save_checkpoint(path, state)
        (self.folder / LAST).write_text(path.name)
        self.prune(path)
        return path

    def prune(self, newest: Path) -> None:
        """Drop periodic checkpoints that are too old, but never ``newest``."""
        for old in self._periodic()[: -self.keep]:
            if old != newest:
                old.unlink(missing_ok=True)

    def save_best(self, state: Mapping[str, Any]) -> Path:
        """Replace the best checkpoint."""
        path = self.folder / BEST
        save_checkpoint(path, state)
        return path

    def newest(self) -> tuple[Path, dict[str, Any], list[str]] | None:
        """The newest checkpoint that loads, its content, and a line for each that was skipped.

        Returns:
            None where there is none at all.

        Raises:
            CheckpointError: there are some and none of them loads.
        """
        skipped: list[str] = []
        for path in self.candidates():
            try:
                content = load_checkpoint(path)
                if all(entry in content for entry in self.needed):
                    return path, content, skipped
                skipped.append(f"{path}: holds no training state of this engine")
            except CheckpointError as error:
                skipped.append(str(error))
        if skipped:
            raise CheckpointError(f"{self.folder}: nothing to resume from: {'; '.join(skipped)}")
        return None

    def candidates(self) -> list[Path]:
        """What a run could be resumed from, newest first, whether or not it loads."""
        final, tag = self.folder / FINAL, self.folder / LAST
        last = tag.read_text(errors="replace").strip() if tag.is_file() else ""
        # A run that had ended and was given more iterations has periodic ones after the final one.
        return sorted(
            [final] * final.exists() + self._periodic()[::-1], key=lambda path: path.name != last
        )

    def _periodic(self) -> list[Path]:
        return sorted(self.folder.glob("model_[0-9]*.pth"))
