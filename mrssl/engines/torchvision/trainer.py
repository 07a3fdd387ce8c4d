"""The training loop of the embedded engine."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mrssl.checkpoint import (
    LoadReport,
    Provenance,
    load_checkpoint,
    load_for_transfer,
    to_detectron2,
)
from mrssl.data.loader import Batches
from mrssl.engines.averaging import (
    begin_average,
    build_average,
    load_saved_weights,
    weights_to_save,
)
from mrssl.engines.best import BestSoFar
from mrssl.engines.checkpoints import FINAL, RunCheckpoints, check_room
from mrssl.engines.clock import StepClock
from mrssl.engines.datasets import RunData
from mrssl.engines.distributed import (
    barrier,
    gather_objects,
    get_rank,
    get_world_size,
    is_main_process,
    mean_of_processes,
)
from mrssl.engines.faults import SkippedSlices
from mrssl.engines.freezing import TransferFreeze
from mrssl.engines.output import write_subjects
from mrssl.engines.pictures import restoration_grid
from mrssl.engines.signals import StopSignals
from mrssl.engines.solver import IterationLR, build_optimizer, build_schedule, check_resumable
from mrssl.engines.summary import write_summary
from mrssl.engines.torchvision.batches import collate, collate_with_truth, to_prediction
from mrssl.engines.torchvision.evaluation import evaluate
from mrssl.engines.torchvision.model import build_model
from mrssl.engines.torchvision.run_log import RunLog
from mrssl.engines.update import Update, accelerate, seed_step
from mrssl.evaluation import Results, get_metric


class Trainer:
    """Builds everything a run needs from its configuration, trains, evaluates, resumes.

    Args:
        cfg: the configuration; ``OUTPUT_DIR`` exists and can be written.
        resume: go on from the newest valid checkpoint in ``OUTPUT_DIR``, if there is one.

    Raises:
        MrsslError: data, weights or keys that cannot be used, a checkpoint to go on from that is of
            other classes than the data, or no room for checkpoints.
    """

    def __init__(self, cfg: CfgNode, *, resume: bool = False) -> None:
        self.folder = Path(cfg.OUTPUT_DIR)
        self.seed = max(cfg.SEED, 0)
        torch.manual_seed(self.seed)
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.data = RunData(cfg, seed=self.seed)
        self.cfg = cfg = self.data.with_classes(cfg)
        self.model = build_model(cfg, len(self.data.type_names)).to(self.device)
        self.average = build_average(cfg, self.model)
        self.checkpoints = RunCheckpoints(self.folder, keep=cfg.MRSSL.SOLVER.KEEP_CHECKPOINTS)
        self.skipped = SkippedSlices(len(self.data.train), cfg.MRSSL.DATA.MAX_UNREADABLE)
        self.clock = StepClock()
        self.iteration = self.start_iteration = 0
        self.final_iteration: int | None = None  # of the final checkpoint, once it is there
        patience = cfg.MRSSL.SOLVER.PATIENCE if self.data.test else 0
        self.best = BestSoFar(self.data.best_metric, patience)
        self.notes: list[str] = []

        found = self.checkpoints.newest_of_all() if resume else None
        report = None if found else self._initial_weights()
        transferred = set(report.loaded) if report else set()
        if found and found[1].get("transferred"):
            transferred = set(found[1]["transferred"])
        self.transferred = sorted(transferred)
        self.freeze = TransferFreeze(self.model, transferred, cfg.MRSSL.TRANSFER.FREEZE_ITERS)
        self.optimizer = build_optimizer(cfg, self.model, transferred)
        self.scheduler = IterationLR(self.optimizer, build_schedule(cfg), cfg.SOLVER.MAX_ITER)
        accelerate(cfg, self.model)
        self.wrapped: nn.Module = self.model
        if get_world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(
                self.model, device_ids=ids, find_unused_parameters=True
            )
        self.update = Update(cfg, self.wrapped, self.optimizer)
        if found:
            self._restore(*found)
        elif resume:
            self.notes.append(self.checkpoints.nothing_there())
        if is_main_process():
            check_room(self.folder, self.model, self.optimizer, averaged=self.average is not None)

    # -- state ------------------------------------------------------------------------------------

    def _initial_weights(self) -> LoadReport | None:
        """Load ``MODEL.WEIGHTS`` within ``MRSSL.TRANSFER.SCOPE``, and say what came of it."""
        cfg = self.cfg
        if not cfg.MODEL.WEIGHTS:
            return None
        content = load_checkpoint(cfg.MODEL.WEIGHTS)
        report = load_for_transfer(
            self.model,
            content,
            scope=cfg.MRSSL.TRANSFER.SCOPE,
            reinit=cfg.MRSSL.TRANSFER.REINIT,
            names="torchvision",
            type_names=self.data.type_names or None,
            where=cfg.MODEL.WEIGHTS,
        )
        self.notes.append(f"{cfg.MODEL.WEIGHTS}, scope {cfg.MRSSL.TRANSFER.SCOPE}:\n{report}")
        begin_average(self.model, self.average)
        provenance = Provenance.from_dict(content.get("mrssl", {}))
        self.notes += [f"warning: {line}" for line in self.data.differences(provenance)]
        return report

    def _restore(self, path: Path, content: dict[str, Any], skipped: list[str]) -> None:
        self.notes += [f"warning: skipped {line}" for line in skipped]
        provenance = Provenance.from_dict(content.get("mrssl", {}))
        lines = self.data.class_differences(provenance, str(path))
        self.notes += [f"warning: {line}" for line in lines]
        load_saved_weights(self.model, self.average, content, names="torchvision", where=str(path))
        check_resumable(self.optimizer, content["optimizer"], where=str(path))
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        self.update.load_state_dict(content)
        self.iteration = self.start_iteration = int(content["iteration"])
        if path.name == FINAL:
            self.final_iteration = self.iteration
        # The final checkpoint was saved before the last evaluation, the best one after it.
        content = self.checkpoints.best_of(self.iteration) or content
        self.best.load_state_dict(content)
        self.notes.append(f"resumed from {path} at iteration {self.iteration}")

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs; tensors and plain types only.

        Random numbers and the place in the data follow from the seed and the iteration.
        """
        return {
            **weights_to_save(self.model, self.average, to_detectron2),
            "mrssl": self.data.provenance(self.cfg, self.iteration).to_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            **self.update.state_dict(),
            "iteration": self.iteration,
            "transferred": self.transferred,
            **self.best.state_dict(),
        }

    def save(self, *, final: bool = False) -> None:
        """Write a checkpoint, on the main process; the others wait for it."""
        if is_main_process():
            self.checkpoints.save(self.state(), self.iteration, final=final)
        barrier()

    # -- the run ----------------------------------------------------------------------------------

    def train(self) -> Results:
        """Train up to ``SOLVER.MAX_ITER`` and return the last evaluation's results.

        Raises:
            Interrupted: a stop signal came; the state is saved.
            MrsslError: data that cannot be read, or a loss that is not finite.
        """
        # A run that had ended early is over: the same command may be given again, as by a cluster.
        last = self.iteration if self.best.out_of_patience else self.cfg.SOLVER.MAX_ITER
        with (
            StopSignals() as signals,
            closing(RunLog(self.cfg, done=self.iteration, total=last)) as log,
        ):
            for note in self.notes:
                log.note(note)
            stopped_early = self._loop(last, log, signals)
            for line in self.skipped.lines():
                log.note(line)
            if stopped_early:
                log.note(f"stopped early at iteration {self.iteration}: no better metric")
            # Before the evaluation: what took days must not hang on its last minute. A run that
            # was killed in that evaluation has it already.
            if self.final_iteration != self.iteration:
                self.save(final=True)
            if not stopped_early:
                self._picture(log)
                if self.data.test:
                    self._evaluate(log)
        write_summary(
            self.cfg,
            self.results,
            engine="torchvision",
            picture=log.last_picture,
            notes=log.notes,
            marks=self.data.marks,
        )
        return self.results

    def _loop(self, last: int, log: RunLog, signals: StopSignals) -> bool:
        """Iterate; whether it ended early because the metric no longer bettered."""
        self.results: Results = {}
        batches = self.data.train_loader(
            start_iteration=self.iteration,
            collate=collate,
            pin_memory=self.device.type == "cuda",
        )
        self.wrapped.train()
        self.clock.reset()
        while self.iteration < last:
            with batches.watched():
                if self._iterate(batches, last, log, signals):
                    return True
        return False

    def _iterate(self, batches: Batches, last: int, log: RunLog, signals: StopSignals) -> bool:
        """One iteration and all that is due after it; whether to end early."""
        cfg = self.cfg
        with self.clock.waiting():
            inputs = next(batches)
        losses = self.step(inputs)
        done = self.iteration
        log.step(losses)
        if done % cfg.MRSSL.LOG_PERIOD == 0 or done == last:
            log.write(done, log.means() | self._figures())
        if _due(cfg.MRSSL.PICTURE_PERIOD or cfg.TEST.EVAL_PERIOD, done, last):
            self._picture(log)
        due = bool(self.data.test) and _due(cfg.TEST.EVAL_PERIOD, done, last)
        stop = due and self._evaluate(log)
        interrupted = signals.arrived()
        if interrupted or _due(cfg.SOLVER.CHECKPOINT_PERIOD, done, last):
            self.save()
            self.clock.reset()
        if interrupted:
            raise signals.interrupted(f"iteration {done} of {last}")
        return stop

    def step(self, inputs: list[dict[str, Any]]) -> dict[str, float]:
        """One iteration of the optimiser.

        Returns:
            ``total_loss`` and every loss, averaged over the processes; and figures of the update.

        Raises:
            MrsslError: a loss is not finite, or too many slices cannot be read.
        """
        self.skipped.note(inputs)
        seed_step(self.seed, self.iteration, get_rank())
        self.freeze.before_step(self.iteration, first=self.iteration == self.start_iteration)
        with self.clock.working(self.cfg.SOLVER.IMS_PER_BATCH):
            losses, figures = self.update(inputs, self.iteration)
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.iteration += 1
        losses = mean_of_processes(losses)
        return {"total_loss": sum(losses.values())} | losses | figures

    def _figures(self) -> dict[str, float]:
        found = self.clock.figures() | {"lr": float(self.scheduler.get_last_lr()[0])}
        if self.skipped.reasons:
            found["skipped_slices"] = float(len(self.skipped.reasons))
        return found

    # -- evaluation -------------------------------------------------------------------------------

    @property
    def deployed(self) -> nn.Module:
        """What is evaluated and exported: the averaged model where there is one."""
        return self.model if self.average is None else self.average.module

    def evaluate(self) -> Results:
        """Score the model on ``DATASETS.TEST``; ``{}`` but on the main process."""
        loader = self.data.test_loader(collate=collate_with_truth)
        evaluator = self.data.evaluator()
        results = evaluate(self.deployed, loader, evaluator)
        write_subjects(self.cfg, evaluator)
        return results

    def _evaluate(self, log: RunLog) -> bool:
        """Score, keep the best; whether to stop early."""
        self.results = self.evaluate()
        log.write(
            self.iteration,
            {f"{task}/{m}": v for task, row in self.results.items() for m, v in row.items()},
        )
        stop = self._keep_best(self.results)
        self.clock.reset()
        return stop

    def _keep_best(self, results: Results) -> bool:
        """Save the model if it is the best so far; whether to stop early (on every process)."""
        stop = False
        if is_main_process():
            if self.best.note(float(get_metric(results, self.best.metric))):
                self.checkpoints.save_best(self.state())
            stop = self.best.out_of_patience
        return gather_objects(stop)[0]

    @torch.no_grad()
    def _picture(self, log: RunLog) -> None:
        """Distorted | restored | clean of a few slices, or the masks found."""
        if not is_main_process():
            return
        model = self.deployed.eval()
        samples = self.data.picture_samples()
        outputs = [to_prediction(o) for o in model(collate(samples))]
        model.train()
        log.picture(self.iteration, "samples", restoration_grid(samples, outputs))


def _due(period: int, done: int, last: int) -> bool:
    return period > 0 and done % period == 0 and done != last
