"""What the speed benchmarks of both engines share: phantom samples, and steps timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from fuzz_distortions import phantom_slice
from mrssl.checkpoint import load_checkpoint
from mrssl.data.mapper import SliceMapper
from mrssl.engines.solver import mixed_precision


class PhantomVolumes:
    """Stands in for the mapper's cache: one volume of phantom slices, already normalised."""

    def __init__(self, size: int, slices: int = 16) -> None:
        rng = np.random.default_rng(0)
        drawn = [phantom_slice(rng) for _ in range(slices)]
        self.volume = np.stack([cv2.resize(s, (size, size)) for s in drawn]).astype(np.float32)

    def image(self, record: dict[str, Any]) -> np.ndarray:
        """The volume (D, H, W), whatever the record."""
        return self.volume


def make_mapper(cfg: Any, size: int) -> tuple[SliceMapper, list[dict[str, Any]]]:
    """The pretext's mapper over phantom slices, and their dataset dicts."""
    mapper = SliceMapper.from_config(cfg, training=True)
    volumes = PhantomVolumes(size)
    mapper.cache = volumes  # type: ignore[assignment]
    shared = {"file_name": "phantom", "height": size, "width": size, "spacing": [1.0, 1.0, 1.0]}
    records = [
        {**shared, "image_id": i, "slice_index": i, "num_slices": len(volumes.volume)}
        for i in range(len(volumes.volume))
    ]
    return mapper, records


def load_weights(model: torch.nn.Module, path: Path | None, convert: Callable = dict) -> None:
    """Give a model, ours or a stock one, the weights of a pretraining checkpoint that it has.

    Untrained proposals hit few regions; with trained ones the ROI branches work at their limits.
    """
    if path is not None:
        model.load_state_dict(convert(load_checkpoint(path)["model"]), strict=False)


@dataclass(frozen=True)
class Measured:
    """What is timed.

    Attributes:
        run: one step, or one inference.
        model: what it runs.
        optimizer: what updates it; None of an inference.
    """

    run: Callable[[], object]
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer | None = None

    def held_bytes(self) -> int:
        """Memory that stays taken between runs: weights, gradients, state of the optimizer."""
        states = self.optimizer.state.values() if self.optimizer else ()
        tensors = [
            *self.model.buffers(),
            *self.model.parameters(),
            *(p.grad for p in self.model.parameters()),
            *(value for state in states for value in state.values()),
        ]
        return sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor) and x.is_cuda)


def step_of(
    cfg: Any,
    model: torch.nn.Module,
    losses_of: Callable[[], dict[str, torch.Tensor]],
    *,
    bfloat16: bool = True,
) -> Measured:
    """A training step: forward and backward in the precision that training takes, update.

    Args:
        cfg: its ``SOLVER.AMP``, for our model and the stock one alike.
        model: what is trained.
        losses_of: its forward pass.
        bfloat16: as the engine has it, see :func:`mrssl.engines.solver.mixed_precision`.
    """
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-5)
    autocast, scaler = mixed_precision(cfg, torch.device(cfg.MODEL.DEVICE), bfloat16=bfloat16)
    scaler = scaler or torch.amp.GradScaler(cfg.MODEL.DEVICE, enabled=False)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast():
            losses = losses_of()
        scaler.scale(torch.stack([loss.float() for loss in losses.values()]).sum()).backward()
        scaler.step(optimizer)
        scaler.update()

    return Measured(step, model, optimizer)


def ratio(ours: Measured, theirs: Measured, rounds: int) -> dict[str, float]:
    """Median of ours / theirs over rounds in which both ran, turn by turn; and both medians.

    Without a GPU the clock is the process's CPU time: what else the machine does does not count.
    With one, the peak of its memory is told too: of each model as if the other were not there.
    """
    pairs, peaks = [], []
    for turn in range(rounds + 1):
        torch.manual_seed(turn)  # what is sampled at random, both sample alike
        our_time, our_peak = _measure(ours)
        torch.manual_seed(turn)
        their_time, their_peak = _measure(theirs)
        if turn:  # the first warms up
            pairs.append((our_time, their_time))
            peaks.append((our_peak, their_peak))
    figures = {
        "ratio": statistics.median(a / b for a, b in pairs),
        "seconds": statistics.median(a for a, _ in pairs),
        "stock_seconds": statistics.median(b for _, b in pairs),
    }
    if torch.cuda.is_available():
        figures["peak_gib"] = max(a for a, _ in peaks) / 2**30
        figures["stock_peak_gib"] = max(b for _, b in peaks) / 2**30
    return figures


def _measure(measured: Measured) -> tuple[float, int]:
    """Seconds, and the peak of the GPU's memory in bytes, 0 without one."""
    if not torch.cuda.is_available():
        start = time.process_time()
        measured.run()
        return time.process_time() - start, 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    others = torch.cuda.memory_allocated() - measured.held_bytes()
    start = time.perf_counter()
    measured.run()
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() - others
