"""The folder of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fvcore.common.config import CfgNode

from mrssl.engines.distributed import barrier, is_main_process
from mrssl.errors import MrsslError
from mrssl.evaluation import Evaluator, write_results
from mrssl.files import sweep, written_whole


def prepare_output(cfg: CfgNode, *, resume: bool, eval_only: bool = False) -> None:
    """Create ``OUTPUT_DIR``, see that it can be written, and leave ``config.yaml`` there.

    Args:
        cfg: the configuration.
        resume: go on with the run whose checkpoints are there.
        eval_only: nothing is trained. Whatever lies there is left alone: it may be the folder of a
            training that is under way.

    Raises:
        MrsslError: it cannot be written, holds another run and neither flag is set, or both are:
            Detectron2 scores the newest checkpoint then, which nothing here is to guess.
    """
    if resume and eval_only:
        raise MrsslError(
            "--eval-only --resume: leave --resume out, and give the checkpoint as MODEL.WEIGHTS"
        )
    folder = Path(cfg.OUTPUT_DIR)
    if is_main_process():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not eval_only:
                sweep(folder)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise MrsslError(
                f"OUTPUT_DIR {folder}: cannot be written ({error.strerror})"
            ) from error
        starts = not (resume or eval_only)
        if starts and any(folder.glob("model_*.pth")):
            raise MrsslError(
                f"OUTPUT_DIR {folder}: holds the checkpoints of another run; "
                "give --resume to go on with it, or another folder"
            )
        if starts:
            (folder / "metrics.json").unlink(missing_ok=True)
        described = folder / "config.yaml"
        if not (eval_only and described.exists()):
            with written_whole(described) as temporary:
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
