"""The folder of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fvcore.common.config import CfgNode

from mrssl.engines.distributed import barrier, is_main_process
from mrssl.errors import MrsslError
from mrssl.evaluation import Evaluator, write_results
from mrssl.files import sweep, written_whole


def prepare_output(cfg: CfgNode, *, resume: bool) -> None:
    """Create ``OUTPUT_DIR``, see that it can be written, and leave ``config.yaml`` there.

    Raises:
        MrsslError: it cannot be written, or holds another run and ``resume`` is False.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if is_main_process():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise MrsslError(
                f"OUTPUT_DIR {folder}: cannot be written ({error.strerror})"
            ) from error
        if not resume and any(folder.glob("model_*.pth")):
            raise MrsslError(
                f"OUTPUT_DIR {folder}: holds the checkpoints of another run; "
                "give --resume to go on with it, or another folder"
            )
        if not resume:
            (folder / "metrics.json").unlink(missing_ok=True)
        with written_whole(folder / "config.yaml") as temporary:
            temporary.write_text(cfg.dump())
    barrier()


def write_subjects(cfg: CfgNode, evaluator: Evaluator) -> None:
    """Leave each subject's figures of the last evaluation in ``inference/per_subject.json``.

    ``{subject: {"volumes": count, task: {metric: value}}}``; no file where none are scored.
    """
    rows = {
        row["subject_id"]: {key: value for key, value in row.items() if key != "subject_id"}
        for row in evaluator.per_subject
    }
    if rows and is_main_process():
        write_results(rows, Path(cfg.OUTPUT_DIR) / "inference" / "per_subject.json")
