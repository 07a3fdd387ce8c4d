"""Where the figures of a run go: ``metrics.json``, TensorBoard, Weights & Biases, the terminal."""

from __future__ import annotations

import hashlib
import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode
from tqdm import tqdm

from mrssl.errors import MrsslError, optional_import
from mrssl.files import write_text


class MetricsFile:
    """``metrics.json`` in Detectron2's format: one JSON object a line, each with ``iteration``.

    Appended to. On resuming, lines that this run writes again are dropped first: the run that wrote
    them went on after the checkpoint that is resumed.

    Args:
        path: the file.
        losses_from: iteration of the first losses that this run writes.
        scores_from: of its first line that has scores alone; None = ``losses_from``.
    """

    def __init__(self, path: Path, *, losses_from: int = 0, scores_from: int | None = None) -> None:
        self.path = path
        if path.exists():
            scores_from = losses_from if scores_from is None else scores_from
            lines = path.read_text().splitlines()
            kept = [line for line in lines if _before(line, losses_from, scores_from)]
            write_text(path, "".join(line + "\n" for line in kept))

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Append one line; a value that is no number is written as null.

        Raises:
            MrsslError: the file cannot be written.
        """
        row = {"iteration": iteration} | {
            name: value if math.isfinite(value) else None for name, value in sorted(values.items())
        }
        try:
            with self.path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise MrsslError(f"{self.path}: cannot be written ({error.strerror})") from error


def _before(line: str, losses_from: int, scores_from: int) -> bool:
    try:
        row = json.loads(line)
        return row["iteration"] < (losses_from if "total_loss" in row else scores_from)
    except (ValueError, KeyError, TypeError):
        return False  # cut off by a kill


class TensorBoard:
    """Scalars and pictures as TensorBoard event files.

    Args:
        folder: of the files.
        purge_from: what an earlier run wrote there from this iteration on is no longer shown.
    """

    def __init__(self, folder: Path, *, purge_from: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=purge_from or None)

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Add scalars."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, iteration)

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        """Add a picture, uint8 (H, W, 3)."""
        self.writer.add_image(name, image, iteration, dataformats="HWC")

    def close(self) -> None:
        """Write what is pending."""
        self.writer.close()


class WandB:
    """Scalars and pictures to Weights & Biases: for those who ask for it and have it installed.

    A resumed run goes on in the same record there.

    Args:
        cfg: ``MRSSL.WANDB_PROJECT`` and ``OUTPUT_DIR``; all of it is shown there.

    Raises:
        MissingDependencyError: wandb is not installed.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.wandb: Any = optional_import("wandb", "pip install wandb")
        folder = Path(cfg.OUTPUT_DIR).resolve()
        self.run = self.wandb.init(
            project=cfg.MRSSL.WANDB_PROJECT,
            name=folder.name,
            id=hashlib.sha1(str(folder).encode()).hexdigest()[:16],
            resume="allow",
            dir=str(folder),
            config=json.loads(json.dumps(cfg)),
        )

    def write(self, iteration: int, values: Mapping[str, float]) -> None:
        """Add scalars."""
        self.run.log(dict(values), step=iteration)

    def picture(self, iteration: int, name: str, image: np.ndarray) -> None:
        """Add a picture, uint8 (H, W, 3)."""
        self.run.log({name: self.wandb.Image(image)}, step=iteration)

    def close(self) -> None:
        """Send what is pending."""
        self.run.finish()


class Progress:
    """A bar with ETA and every loss in a terminal; in a log file, one plain line now and then.

    Args:
        total: iterations of the whole run.
        initial: iterations already done.
        description: shown in front.
        seconds: least time between two lines of a log file.
    """

    def __init__(
        self, total: int, *, initial: int = 0, description: str = "train", seconds: float = 10.0
    ) -> None:
        self.terminal = sys.stderr.isatty()
        self.description = description
        self.seconds = seconds
        self.last = -math.inf
        self.bar = tqdm(
            total=total, initial=initial, desc=description, disable=not self.terminal, leave=True
        )
        self.total, self.initial, self.done, self.start = total, initial, initial, time.monotonic()

    def update(self, values: Mapping[str, float], iterations: int = 1) -> None:
        """So many iterations more, with the figures of the last."""
        self.done += iterations
        text = " ".join(
            f"{name.removeprefix('loss_')} {value:.3g}" for name, value in values.items()
        )
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(iterations)
        now = time.monotonic()
        if not self.terminal and (now - self.last > self.seconds or self.done == self.total):
            self.last = now
            pace = (now - self.start) / max(self.done - self.initial, 1)
            left = tqdm.format_interval(pace * (self.total - self.done))
            print(
                f"{self.description} {self.done}/{self.total} eta {left} {pace:.2f} s/it {text}",
                file=sys.stderr,
                flush=True,
            )

    def note(self, text: str) -> None:
        """Print without breaking the bar."""
        tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """Leave the terminal clean."""
        self.bar.close()
