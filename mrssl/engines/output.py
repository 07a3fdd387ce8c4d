"""The folder of a run."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fvcore.common.config import CfgNode

from mrssl.engines.distributed import barrier, is_main_process
from mrssl.errors import MrsslError
from mrssl.evaluation import Evaluator, Results, print_table, write_results
from mrssl.files import sweep, write_text

CONFIG = "config.yaml"


def prepare_output(cfg: CfgNode, *, resume: bool, eval_only: bool = False) -> None:
    """Create ``OUTPUT_DIR``, and see that it can be written and is free for this run.

    Where nothing is trained ``config.yaml`` is left there, if there is none; a training leaves its
    own by :func:`write_config`.

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
        if eval_only and not (folder / CONFIG).exists():
            write_config(cfg)
    barrier()


def write_config(cfg: CfgNode) -> None:
    """Leave ``config.yaml`` in ``OUTPUT_DIR``, on the main process.

    For a training once its state is there: a resume that is refused must leave the file as it is.
    """
    if is_main_process():
        write_text(Path(cfg.OUTPUT_DIR) / CONFIG, cfg.dump())


def write_scores(cfg: CfgNode, results: Results) -> None:
    """Print a table of the last evaluation, and leave it in ``inference/results.json``.

    On the main process, where there are any.
    """
    if results and is_main_process():
        print_table(results)
        write_results(results, Path(cfg.OUTPUT_DIR) / "inference" / "results.json")


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
