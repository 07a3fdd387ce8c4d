"""Hooks for Detectron2's trainers; each works in any ``TrainerBase`` with the stock ones."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.engine.hooks import EvalHook
from detectron2.utils.events import EventStorage
from torch import nn

from mrssl.engines.averaging import WeightAverage
from mrssl.engines.best import BestSoFar
from mrssl.engines.clock import gpu_memory
from mrssl.engines.distributed import (
    alone,
    gather_objects,
    get_rank,
    is_main_process,
    share_buffers,
)
from mrssl.engines.freezing import TransferFreeze
from mrssl.engines.signals import StopSignals
from mrssl.engines.update import seed_step

_LOG = logging.getLogger(__name__)


def _bare(model: nn.Module) -> nn.Module:
    """The model inside a parallel wrapper."""
    return getattr(model, "module", model)


class EarlyStop(BaseException):
    """Ends the training loop of a ``TrainerBase``; catch it around ``train()``.

    Not an ``Exception``: those are faults, and the loop logs them as such.
    """


class SeededSteps(HookBase):
    """Seed the global generators before each iteration from (seed, iteration, rank).

    Detectron2 samples anchors and proposals from torch's. So a resumed run samples what an
    uninterrupted one does, without a generator's state in the checkpoint.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def before_step(self) -> None:
        """See ``HookBase``."""
        seed_step(self._seed, self.trainer.iter, get_rank())


class AverageWeights(HookBase):
    """Update a moving average of the weights after each iteration.

    It stands before the hooks that evaluate or save the average, which is
    ``average.module``; :class:`~mrssl.engines.detectron2.checkpointing.MRICheckpointer` saves it.

    Args:
        average: of the trainer's model, or None to do nothing.
    """

    def __init__(self, average: WeightAverage | None) -> None:
        self._average = average

    def after_step(self) -> None:
        """See ``HookBase``."""
        if self._average is not None:
            self._average.update_parameters(_bare(self.trainer.model))  # type: ignore[attr-defined]


class FreezeTransferred(HookBase):
    """Keep some parameters as they are for the first iterations.

    Args:
        model: bare, not in a parallel wrapper.
        names: of its parameters; those that need no gradient by now stay frozen for good.
        iterations: for so many; 0 = none.
    """

    def __init__(self, model: nn.Module, names: Collection[str], iterations: int) -> None:
        self._freeze = TransferFreeze(model, names, iterations)

    def before_step(self) -> None:
        """See ``HookBase``."""
        iteration = self.trainer.iter
        self._freeze.before_step(iteration, first=iteration == self.trainer.start_iter)


class BestCheckpointer(BestSoFar, HookBase):
    """Keep the best model as ``model_best.pth``, and stop when it has not bettered for long.

    Unlike Detectron2's of the same name, it knows which metrics are better low, survives a resume,
    and stops early. It stands after the hook that produces the metric, such as ``EvalHook``; only
    the main process needs to have the metric.

    Args:
        metric: as it stands in the event storage, such as ``"dice/dice"``.
        save: called as ``save("model_best", iteration=...)``.
        patience: evaluations without a better metric after which :class:`EarlyStop` is raised, on
            all processes; 0 = never.
    """

    def __init__(self, metric: str, save: Callable[..., None], *, patience: int = 0) -> None:
        super().__init__(metric, patience)
        self._save = save
        self._seen, self._found = -1, False

    def before_train(self) -> None:
        """See ``HookBase``."""
        self._seen, self._found = self.trainer.start_iter - 1, False

    def after_step(self) -> None:
        """See ``HookBase``."""
        self._look()
        if self._patience and gather_objects(self.out_of_patience)[0]:
            _LOG.info("stopped early at iteration %d: no better metric", self.trainer.iter)
            raise EarlyStop

    def after_train(self) -> None:
        """See ``HookBase``."""
        self._look()
        if is_main_process() and self.trainer.iter >= self.trainer.max_iter and not self._found:
            _LOG.warning("no %s in this run: no best model was kept", self.metric)

    def _look(self) -> None:
        value, iteration = self.trainer.storage.latest().get(self.metric, (0.0, -1))
        if iteration <= self._seen or not is_main_process():
            return
        self._seen, self._found = iteration, True
        if self.note(float(value)):
            self._save("model_best", iteration=min(self.trainer.iter, self.trainer.max_iter - 1))


class Evaluation(EvalHook):
    """Detectron2's ``EvalHook``, but for a loop that a fault or signal ends in its last iteration.

    That one is not evaluated: its processes are not all there, or have little time left.
    """

    def after_train(self) -> None:
        """See ``HookBase``."""
        if self.trainer.iter >= self.trainer.max_iter:
            super().after_train()


class ValidationLoss(HookBase):
    """The losses on held-out slices, as ``validation/<loss>``, periodically and at the end.

    The model keeps its training mode, which is when Detectron2's models give losses; batch
    statistics (the main process's, which all take over) and the random numbers of training are left
    as they were.

    Args:
        period: iterations; 0 = only at the end.
        batches: called each time; an iterable of batches with targets, of this process.
        model: an average of the trainer's model, say; None = the trainer's.
    """

    def __init__(
        self,
        period: int,
        batches: Callable[[], Iterable[list[dict[str, Any]]]],
        *,
        model: nn.Module | None = None,
    ) -> None:
        self._period = period
        self._batches = batches
        self._model = model

    def after_step(self) -> None:
        """See ``HookBase``."""
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or (self._period and done % self._period == 0):
            self.trainer.storage.put_scalars(**self.measure(), smoothing_hint=False)

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Means over the slices of all processes; ``validation/total_loss`` is their sum."""
        model = self._model if self._model is not None else _bare(self.trainer.model)  # type: ignore[attr-defined]
        share_buffers(model)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        modes = [norm.training for norm in norms]
        sums: dict[str, float] = defaultdict(float)
        count = 0
        for norm in norms:
            norm.eval()
        # Detectron2 puts statistics of its sampling into the storage: not those of validation.
        # Processes may have more or fewer batches: none may wait for another in the middle of one.
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices), EventStorage(), alone():
            torch.manual_seed(0)
            for batch in self._batches():
                for name, loss in model(batch).items():
                    sums[name] += float(loss) * len(batch)
                count += len(batch)
        for norm, mode in zip(norms, modes, strict=True):
            norm.train(mode)
        parts = [part for part in gather_objects((dict(sums), count)) if part[1]]
        total = sum(part[1] for part in parts)
        names = list(parts[0][0]) if parts else []
        means = {name: sum(part[0][name] for part in parts) / total for name in names}
        return {f"validation/{name}": value for name, value in means.items()} | {
            "validation/total_loss": sum(means.values())
        }


class Pictures(HookBase):
    """Put a picture into the event storage now and then, for TensorBoard; main process only.

    Args:
        period: iterations; 0 = only at the end, which may be that of a run without any left.
        draw: called with the bare model in evaluation mode; gives uint8 (H, W, 3).
        name: under which it appears.
        model: an average of the trainer's model, say; None = the trainer's.

    Attributes:
        latest: the last picture.
    """

    def __init__(
        self,
        period: int,
        draw: Callable[[nn.Module], np.ndarray],
        *,
        name: str = "samples",
        model: nn.Module | None = None,
    ) -> None:
        self._period = period
        self._draw = draw
        self._name = name
        self._model = model
        self.latest: np.ndarray | None = None

    def after_step(self) -> None:
        """See ``HookBase``."""
        done = self.trainer.iter + 1
        due = done == self.trainer.max_iter or (self._period and done % self._period == 0)
        if due:
            self._put()

    def after_train(self) -> None:
        """See ``HookBase``."""
        if self.latest is None and self.trainer.iter >= self.trainer.max_iter:
            self._put()

    def _put(self) -> None:
        if not is_main_process():
            return
        model = self._model if self._model is not None else _bare(self.trainer.model)  # type: ignore[attr-defined]
        training = model.training
        model.eval()
        with torch.no_grad():
            self.latest = self._draw(model)
        model.train(training)
        self.trainer.storage.put_image(self._name, self.latest.transpose(2, 0, 1))


class Throughput(HookBase):
    """``images_per_second``, ``data_share``, ``overhead_share``, ``gpu_memory_mib`` as metrics.

    Of the hooks that act after a step it stands first, and of those that act before one last, so
    that all others count as overhead, the share of the time that is neither spent waiting for data
    nor in the step.

    Args:
        images: of an iteration, over all processes.
    """

    def __init__(self, images: int) -> None:
        self._images = images
        self._last: float | None = None
        self._before = 0.0
        self._working = 0.0

    def before_step(self) -> None:
        """See ``HookBase``."""
        now = time.perf_counter()
        if self._last is not None:
            self._report(max(now - self._last, 1e-9))
        self._last = self._before = now

    def after_step(self) -> None:
        """See ``HookBase``."""
        self._working = time.perf_counter() - self._before

    def _report(self, seconds: float) -> None:
        """Figures of the iteration that has ended, with all that followed it."""
        waited = self.trainer.storage.latest().get("data_time", (0.0, 0))[0]
        self.trainer.storage.put_scalars(
            images_per_second=self._images / seconds,
            data_share=waited / seconds,
            overhead_share=1 - self._working / seconds,
            **gpu_memory(),
        )


class StopOnSignal(HookBase):
    """On SIGTERM or SIGUSR1 to any process, save after the iteration, and leave.

    It stands after the hooks that evaluate and save, and is the last that may. The signals are
    noted while ``signals`` is entered, around ``train()``; see
    :class:`~mrssl.engines.signals.StopSignals`.

    Args:
        signals: to ask.
        save: called without arguments, on all processes; returns once the files are written.

    Raises:
        Interrupted: from the training loop, once the state is saved.
    """

    def __init__(self, signals: StopSignals, save: Callable[[], None]) -> None:
        self._signals = signals
        self._save = save

    def after_step(self) -> None:
        """See ``HookBase``."""
        if self._signals.arrived():
            self._save()
            raise self._signals.interrupted(
                f"iteration {self.trainer.iter + 1} of {self.trainer.max_iter}"
            )


__all__ = [
    "AverageWeights",
    "BestCheckpointer",
    "EarlyStop",
    "FreezeTransferred",
    "Pictures",
    "SeededSteps",
    "StopOnSignal",
    "Throughput",
    "ValidationLoss",
]
