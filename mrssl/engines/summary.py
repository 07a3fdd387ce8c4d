"""``summary.html``: what a run was and what came of it, on one page that can be sent to anybody."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Sequence, Set
from pathlib import Path

import numpy as np
import torch
from fvcore.common.config import CfgNode

import mrssl
from mrssl.config import is_pretraining
from mrssl.engines.distributed import get_world_size, is_main_process
from mrssl.engines.report import History, Report, curves, loss_names, read_history
from mrssl.errors import MissingDependencyError
from mrssl.evaluation import Results
from mrssl.privacy import cover

SUMMARY = "summary.html"
#: Figures of the last lines of ``metrics.json`` that say how the run went.
_PACE = ("images_per_second", "data_share", "overhead_share", "gpu_memory_mib", "skipped_steps")


def write_summary(
    cfg: CfgNode,
    results: Results,
    *,
    engine: str,
    picture: np.ndarray | None = None,
    notes: Sequence[str] = (),
    marks: Set[str] = frozenset(),
) -> Path | None:
    """Write the page into ``OUTPUT_DIR``, on the main process.

    Args:
        cfg: of the run; its ``metrics.json`` is read.
        results: of the last evaluation.
        engine: "detectron2" or "torchvision".
        picture: the last one drawn, uint8 (H, W, 3).
        notes: what else was said, such as the slices that were skipped.
        marks: by which patients' names are recognised, and covered, on all of the page.

    Returns:
        Where it is; None on the other processes.

    Raises:
        MrsslError: it cannot be written.
    """
    if not is_main_process():
        return None
    folder = Path(cfg.OUTPUT_DIR)
    history = read_history(folder)
    task = "Pretraining" if is_pretraining(cfg) else "Fine-tuning"
    report = Report(f"{task}: {cover(folder.name, marks)}")
    report.listing(cover(shlex.join(sys.argv), marks))
    _add_results(report, results)
    _add_curves(report, history)
    if picture is not None:
        report.heading("Samples")
        shown = "distorted | restored | clean" if is_pretraining(cfg) else "found | labelled"
        report.picture(picture, shown)
    report.heading("Pace")
    last = {name: line[name] for line in history for name in _PACE if line.get(name) is not None}
    report.table(["", "last"], [[name, float(value)] for name, value in last.items()])
    if notes:
        report.heading("Notes")
        report.listing(cover("\n".join(notes), marks))
    report.heading("Environment")
    report.table(["", ""], list(environment(engine, cfg).items()))
    report.heading("Configuration")
    report.listing(cover(cfg.dump(), marks))
    report.write(folder / SUMMARY)
    return folder / SUMMARY


def environment(engine: str, cfg: CfgNode) -> dict[str, str]:
    """What the run ran on."""
    device = cfg.MODEL.DEVICE
    if device.startswith("cuda"):
        device = torch.cuda.get_device_name(device)
    return {
        "mrssl": mrssl.__version__,
        "engine": engine,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "device": device,
        "processes": str(get_world_size()),
    }


def _add_results(report: Report, results: Results) -> None:
    if not results:
        return
    report.heading("Results")
    rows = [[f"{t}/{m}", float(v)] for t, row in results.items() for m, v in row.items()]
    report.table(["", "last evaluation"], rows)


def _add_curves(report: Report, history: History) -> None:
    report.heading("Curves")
    losses = loss_names(history)
    validated = [f"validation/{name}" for name in losses]
    scores = sorted({name for line in history for name in line if name in _WATCHED})
    try:
        report.figure(curves({"": history}, losses, "loss"), "Losses")
        for names, ylabel, caption in (
            (validated, "loss", "Losses on held-out slices"),
            (scores, "score", "Scores on the test data"),
            (["lr"], "rate", "Learning rate"),
        ):
            if any(name in line for line in history for name in names):
                report.figure(curves({caption: history}, names, ylabel), caption)
    except MissingDependencyError as error:
        report.text(f"No curves: {error}", "note")


_WATCHED = frozenset(
    {"localization/AP", "localization/AP50", "type/mAP", "dice/dice", "bbox/AP", "segm/AP"}
)

__all__ = ["SUMMARY", "environment", "write_summary"]
