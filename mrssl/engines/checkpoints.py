"""The checkpoints of a run: written whole or not at all, pruned, and found again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mrssl.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mrssl.engines.distributed import gather_objects
from mrssl.errors import MrsslError
from mrssl.files import reserve, write_text

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
        path = self.folder / (FINAL if final else periodic_name(iteration - 1))
        save_checkpoint(path, state)
        self.tag(path)
        return path

    def tag(self, newest: Path) -> None:
        """Note that ``newest`` is the last checkpoint, then drop periodic ones that are too old."""
        write_text(self.folder / LAST, newest.name)
        for old in self._periodic()[: -self.keep]:
            if old != newest:
                with suppress(OSError):  # on Windows another program may read it: the next time
                    old.unlink(missing_ok=True)

    def save_best(self, state: Mapping[str, Any]) -> Path:
        """Replace the best checkpoint."""
        path = self.folder / BEST
        save_checkpoint(path, state)
        return path

    def best_of(self, iteration: Any) -> dict[str, Any] | None:
        """The best checkpoint, if it was saved at just that ``iteration``.

        The last evaluation comes after the final checkpoint, which so knows nothing of it.
        """
        path = self.folder / BEST
        try:
            content = load_checkpoint(path) if path.exists() else {}
        except CheckpointError:
            return None
        return content if content.get("iteration") == iteration else None

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

    def newest_of_all(self) -> tuple[Path, dict[str, Any], list[str]] | None:
        """As :meth:`newest`, and the same on every process; every process must ask.

        Raises:
            CheckpointError: as there.
            MrsslError: processes found different ones, as machines with a disk each do.
        """
        found, fault = None, ""
        try:
            found = self.newest()
        except (CheckpointError, OSError) as error:  # or the others would wait for this one
            fault = str(error)
        what = (fault and "none that loads") or (found[0].name if found else "none")
        seen = gather_objects((what, found[1].get("iteration") if found else None))
        if fault:
            raise CheckpointError(fault)
        if any(other != seen[0] for other in seen):
            names = ", ".join(sorted({name for name, _ in seen}))
            raise MrsslError(
                f"{self.folder}: the processes found different checkpoints to resume from ({names})"
                ": OUTPUT_DIR must be one folder, of all machines"
            )
        return found

    def nothing_there(self) -> str:
        """What a run says that was to be resumed and finds no checkpoint, in words."""
        return f"{self.folder}: nothing to resume from: starting anew"

    def candidates(self) -> list[Path]:
        """What a run could be resumed from, newest first, whether or not it loads.

        Names and numbers decide, and no clock: those of shared disks are not to be relied on. One
        of another name is the newest where it is noted as the last.
        """
        final, tag = self.folder / FINAL, self.folder / LAST
        last = Path(tag.read_text(errors="replace").strip() if tag.is_file() else "").name
        periodic = self._periodic()[::-1]
        named = self.folder / last
        if last and named not in (final, *periodic) and named.is_file():
            return [named, *periodic]
        if not final.exists():
            return periodic
        # A run that had ended and was given more iterations has periodic ones after the final one.
        after = any(path.name == last for path in periodic)
        return [*periodic, final] if after else [final, *periodic]

    def _periodic(self) -> list[Path]:
        return sorted(self.folder.glob("model_[0-9]*.pth"))


def periodic_name(iteration: int) -> str:
    """The file of the checkpoint after the iteration of that number, counted from 0."""
    return f"model_{iteration:07d}.pth"


def check_room(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, averaged: bool = False
) -> None:
    """See that two checkpoints can be written: the next one, beside the one it replaces.

    Args:
        folder: of the run.
        model: that is trained.
        optimizer: of its parameters; SGD keeps one number more for each, AdamW two.
        averaged: an average of the weights is saved too.

    Raises:
        MrsslError: there is no room.
    """
    copies = 1 + averaged + (2 if isinstance(optimizer, torch.optim.AdamW) else 1)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    try:
        reserve(folder, copies * size, 2)
    except MrsslError as error:
        raise MrsslError(f"OUTPUT_DIR has no room for two checkpoints: {error}") from error
