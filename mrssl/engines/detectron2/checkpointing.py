"""Detectron2's checkpointer over the core's files: whole or absent, read without running code."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from mrssl.checkpoint import (
    CheckpointError,
    LoadReport,
    load_checkpoint,
    load_for_transfer,
    save_checkpoint,
)
from mrssl.engines.averaging import (
    UNAVERAGED,
    WeightAverage,
    begin_average,
    load_saved_weights,
    weights_to_save,
)
from mrssl.engines.checkpoints import BEST, RunCheckpoints
from mrssl.engines.detectron2.hooks import BestCheckpointer


class MRICheckpointer(DetectionCheckpointer):
    """A :class:`DetectionCheckpointer` that saves tensors and plain types only.

    - Files are written under another name and renamed, so that none is ever half there; they hold
      the model by Detectron2's names and ``"mrssl"``, where the weights come from and what input
      they expect. Stock programs read them.
    - Files are read with ``weights_only=True``: nothing in them runs. Detectron2's ``.pkl`` files
      are pickles, and read only where ``allow_pickle`` says so.
    - :meth:`load` wants the very same model, as resuming and evaluating do: a tensor missing, too
      many or of another shape is an error. :meth:`transfer` takes what fits, and reports.
    - The newest checkpoint that loads is resumed from, damaged ones are skipped and named; the best
      one does not count as the last.

    Args:
        model: as for Detectron2's.
        save_dir: of the run.
        keep: how many periodic checkpoints are kept.
        average: of the model's weights; then it is what is saved as the model, with the weights
            that training goes on from beside it.
        describe: called at each save; further entries, such as the provenance under ``"mrssl"``.
        allow_pickle: read ``.pkl`` too. UNSAFE: a pickle can run any program while it is read.
        checkpointables: as for Detectron2's: objects whose state is saved and loaded too.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        keep: int = 2,
        average: WeightAverage | None = None,
        describe: Callable[[], Mapping[str, Any]] = dict,
        allow_pickle: bool = False,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        needed = (*checkpointables, *(["iteration"] if "trainer" in checkpointables else []))
        self.files = RunCheckpoints(Path(save_dir), keep=keep, needed=needed)
        self.average = average
        self.describe = describe
        self.allow_pickle = allow_pickle

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``name``.pth into the run's folder, on the main process.

        Args:
            name: "model_best" leaves alone which checkpoint is the last.
            kwargs: further entries, of tensors and plain types.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content = {**weights_to_save(self.model, self.average), **self.describe()}
        content |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        path = Path(self.save_dir) / f"{name}.pth"
        save_checkpoint(path, content | kwargs)
        self.logger.info("Saved checkpoint to %s", path)
        if path.name != BEST:
            self.files.tag(path)

    def has_checkpoint(self) -> bool:
        """Whether there is anything in the run's folder to resume from."""
        return bool(self.files.candidates())

    def get_checkpoint_file(self) -> str:
        """The newest checkpoint that loads; "" where there is none at all.

        Raises:
            CheckpointError: there are some and none of them loads.
        """
        found = self.files.newest()
        if found is None:
            return ""
        for line in found[2]:
            self.logger.warning("skipped %s", line)
        return str(found[0])

    def resume(self) -> dict[str, Any]:
        """Load model and training state from the newest checkpoint that loads.

        Returns:
            Its further entries; {} where there is none.
        """
        path = self.get_checkpoint_file()
        return self.load(path) if path else {}

    def transfer(
        self,
        path: str,
        *,
        scope: str,
        reinit: Sequence[str] = (),
        type_names: Sequence[str] | None = None,
    ) -> tuple[LoadReport, dict[str, Any]]:
        """Copy what fits into the model; see :func:`mrssl.checkpoint.load_for_transfer`.

        Returns:
            The report, and the checkpoint's further entries.

        Raises:
            CheckpointError: the file cannot be read, or nothing of it fits.
        """
        content = self._load_file(self.path_manager.get_local_path(path))
        report = load_for_transfer(
            self.model, content, scope=scope, reinit=reinit, type_names=type_names, where=path
        )
        begin_average(self.model, self.average)
        self.logger.info("%s, scope %s:\n%s", path, scope, report)
        return report, {key: value for key, value in content.items() if key != "model"}

    def _load_file(self, filename: str) -> dict[str, Any]:
        content = load_checkpoint(filename, allow_pickle=self.allow_pickle)
        self._where = filename
        return content

    def _load_model(self, checkpoint: dict[str, Any]) -> None:
        load_saved_weights(self.model, self.average, checkpoint, where=self._where)
        for entry in ("model", UNAVERAGED):
            checkpoint.pop(entry, None)

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Detectron2's, and the model must fit in every tensor.

        Raises:
            CheckpointError: it cannot be read, or is of another model.
        """
        try:
            loaded = super().load(path, *args, **kwargs)
            if "trainer" in self.checkpointables and "trainer" not in loaded:  # it was taken
                self._load_best(loaded.get("iteration"))
            return loaded
        except AssertionError as error:  # fvcore's way to say that there is no such file
            raise CheckpointError(f"{path}: {error}") from error
        finally:
            self._parsed_url_during_load = None

    def _load_best(self, iteration: Any) -> None:
        """Tell the trainer's :class:`BestCheckpointer` of an evaluation after this checkpoint.

        Periodic and final checkpoints are saved before the evaluation of the same iteration where
        the hooks stand as in ``DefaultTrainer``, the best one after it.
        """
        best = None if iteration is None else self.files.best_of(iteration)
        state = (best or {}).get("trainer", {}).get("hooks", {}).get(BestCheckpointer.__qualname__)
        for hook in getattr(self.checkpointables.get("trainer"), "_hooks", ()):
            if state and isinstance(hook, BestCheckpointer):
                hook.load_state_dict(state)


__all__ = ["MRICheckpointer"]
