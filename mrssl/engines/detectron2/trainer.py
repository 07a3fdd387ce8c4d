"""Detectron2's ``DefaultTrainer`` on the core's data, optimiser, checkpoints and evaluators."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.solver import LRMultiplier
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventWriter, TensorboardXWriter
from fvcore.common.config import CfgNode
from torch import nn

from mrssl.checkpoint import Provenance, load_checkpoint
from mrssl.config import is_pretraining
from mrssl.data.loader import Batches, worker_fault
from mrssl.engines.averaging import build_average, load_saved_weights
from mrssl.engines.checkpoints import FINAL, check_room, periodic_name
from mrssl.engines.datasets import TEST_BATCH, RunData, spread
from mrssl.engines.detectron2.catalog import load_registered
from mrssl.engines.detectron2.checkpointing import MRICheckpointer
from mrssl.engines.detectron2.config import check_factories, check_heeded
from mrssl.engines.detectron2.dataset_mapper import to_input
from mrssl.engines.detectron2.evaluation import to_prediction
from mrssl.engines.detectron2.event_writers import MetricsWriter, WandBWriter, progress_writer
from mrssl.engines.detectron2.hooks import (
    AverageWeights,
    BestCheckpointer,
    EarlyStop,
    Evaluation,
    FreezeTransferred,
    Pictures,
    SeededSteps,
    StopOnSignal,
    Throughput,
    ValidationLoss,
)
from mrssl.engines.detectron2.sampling import build_seeded_model
from mrssl.engines.detectron2.scoring import score
from mrssl.engines.detectron2.step import MRITrainerStep
from mrssl.engines.device import with_device
from mrssl.engines.distributed import (
    barrier,
    get_rank,
    get_world_size,
    is_main_process,
)
from mrssl.engines.faults import SkippedSlices
from mrssl.engines.pictures import restoration_grid
from mrssl.engines.signals import StopSignals
from mrssl.engines.solver import build_optimizer, build_schedule, check_resumable
from mrssl.engines.summary import write_summary
from mrssl.engines.update import accelerate
from mrssl.errors import MrsslError
from mrssl.evaluation import Results

_LOG = logging.getLogger(__name__)
#: Held-out slices of the validation loss, spread over the test data: it is a curve, not a score.
VALIDATION_SLICES = 32


class MRITrainer(DefaultTrainer):
    """Pretrain or fine-tune as the configuration says.

    ::

        trainer = MRITrainer(cfg)
        trainer.resume_or_load(resume=False)
        results = trainer.train()

    The samples, the optimiser and the checkpoints are those of the embedded engine; loop, hooks,
    model and losses are Detectron2's. ``DATASETS`` takes paths and registered names. All sets of
    ``DATASETS.TEST`` are scored as one. A subclass may override the hooks and writers; Detectron2's
    factories of model, optimiser, schedule, loaders and evaluator are not called, and refused.

    Args:
        cfg: Detectron2's, with the node ``MRSSL``; ``OUTPUT_DIR`` exists.

    Raises:
        MrsslError: data, keys or a subclass's methods that cannot be used.
    """

    def __init__(self, cfg: CfgNode) -> None:
        # Not DefaultTrainer's: it builds its optimiser before weights are loaded, and its parallel
        # wrapper for GPUs only.
        TrainerBase.__init__(self)
        check_factories(type(self))
        check_heeded(cfg)
        cfg = with_device(self.auto_scale_workers(cfg, get_world_size()))
        self.seed = max(cfg.SEED, 0)
        seed_all_rng(self.seed)
        self.data = RunData(cfg, seed=self.seed, load=load_registered)
        self.cfg = cfg = self.data.with_classes(cfg)
        self.folder = Path(cfg.OUTPUT_DIR)
        self.max_iter = cfg.SOLVER.MAX_ITER
        self._at_end = False  # whether the checkpoint resumed from is a run's final one
        self.transferred: list[str] = []
        self.pictures: Pictures | None = None  # a subclass may have hooks of its own
        self.bare_model: nn.Module = build_seeded_model(cfg)
        self.average = build_average(cfg, self.bare_model)
        accelerate(cfg, self.bare_model)
        self.skipped = SkippedSlices(len(self.data.train), cfg.MRSSL.DATA.MAX_UNREADABLE)
        self.signals = StopSignals()
        cuda = cfg.MODEL.DEVICE.startswith("cuda")
        model = create_ddp_model(
            self.bare_model,
            broadcast_buffers=False,
            find_unused_parameters=True,
            device_ids=[torch.cuda.current_device()] if cuda else None,
        )
        optimizer = build_optimizer(cfg, self.bare_model)
        self._trainer = MRITrainerStep(cfg, model, self._train_loader(0), optimizer, self.skipped)
        self.scheduler = LRMultiplier(optimizer, build_schedule(cfg), self.max_iter)
        self.checkpointer = MRICheckpointer(
            self.bare_model,
            cfg.OUTPUT_DIR,
            keep=cfg.MRSSL.SOLVER.KEEP_CHECKPOINTS,
            average=self.average,
            describe=self._describe,
            trainer=self,
        )
        self.register_hooks(self.build_hooks())

    # -- weights ----------------------------------------------------------------------------------

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on from the newest checkpoint that loads, or take what fits of ``MODEL.WEIGHTS``.

        Raises:
            MrsslError: there are weights, and they cannot be used, or are of other classes.
        """
        newest = self.checkpointer.files.newest_of_all() if resume else None
        if newest:
            # Which parameters have a learning rate of their own shapes the optimiser's state.
            provenance = Provenance.from_dict(newest[1].get("mrssl", {}))
            for line in self.data.class_differences(provenance, str(newest[0])):
                _LOG.warning(line)
            self._start_from(newest[1].get("transferred", []))
            saved = newest[1]["trainer"]["_trainer"]["optimizer"]
            where = str(newest[0])
            # The model first: of another one the optimiser would blame keys of its own.
            load_saved_weights(self.bare_model, self.average, newest[1], where=where)
            check_resumable(self.optimizer, saved, where=where)
            self.checkpointer.resume()
            self.start_iter = self.iter + 1
            self._at_end = newest[0].name == FINAL
            self._trainer.reset_data_loader(lambda: self._train_loader(self.start_iter))
            ended = any(isinstance(h, BestCheckpointer) and h.out_of_patience for h in self._hooks)
            self.max_iter = self.start_iter if ended else max(self.max_iter, self.start_iter)
            _LOG.info("resumed from %s at iteration %d", newest[0], self.start_iter)
            return
        if resume:
            self.checkpointer.logger.info(self.checkpointer.files.nothing_there())
        if self.cfg.MODEL.WEIGHTS:
            report, content = self.checkpointer.transfer(
                self.cfg.MODEL.WEIGHTS,
                scope=self.cfg.MRSSL.TRANSFER.SCOPE,
                reinit=self.cfg.MRSSL.TRANSFER.REINIT,
                type_names=self.data.type_names or None,
            )
            provenance = Provenance.from_dict(content.get("mrssl", {}))
            for line in self.data.differences(provenance):
                _LOG.warning(line)
            self._start_from(report.loaded)

    def _start_from(self, transferred: tuple[str, ...] | list[str]) -> None:
        """Build the optimiser anew for parameters of which some were pretrained."""
        self.transferred = sorted(transferred)
        self.optimizer = build_optimizer(self.cfg, self.bare_model, set(transferred))
        self.scheduler = LRMultiplier(self.optimizer, build_schedule(self.cfg), self.max_iter)

    def _describe(self) -> dict[str, Any]:
        """What a checkpoint says about itself, beside model and training state."""
        done = min(self.iter + 1, self.max_iter)  # after the last, iter is max_iter
        provenance = self.data.provenance(self.cfg, done)
        return {"mrssl": provenance.to_dict(), "transferred": self.transferred}

    @property
    def deployed(self) -> nn.Module:
        """What is evaluated and exported: the averaged model where there is one."""
        return self.bare_model if self.average is None else self.average.module

    # -- data -------------------------------------------------------------------------------------

    def _train_loader(self, start_iteration: int) -> Batches:
        """Endless batches of this process, from ``start_iteration`` on."""
        return self.data.train_loader(
            start_iteration=start_iteration,
            collate=_to_inputs,
        )

    def _validation_batches(self) -> Iterator[list[dict[str, Any]]]:
        """A few held-out slices of this process, with targets on the image's grid."""
        records, mapper = self.data.test, self.data.test_mapper
        if not self.data.pretraining:
            # The ground truth of evaluation keeps the slice's own grid; losses need the image's.
            mapper = copy.copy(mapper)
            mapper.training = True
            mapper.min_instance_pixels = self.data.train_mapper.min_instance_pixels
        count = min(VALIDATION_SLICES, len(records))
        chosen = spread(records, count)
        starts = range(0, count, TEST_BATCH)  # whole batches, the same on any number of processes
        for first in starts[get_rank() :: get_world_size()]:
            samples = [mapper(record) for record in chosen[first : first + TEST_BATCH]]
            yield [to_input(sample, is_train=True) for sample in samples]

    # -- the run ----------------------------------------------------------------------------------

    def build_hooks(self) -> list[HookBase]:
        """Every hook but the writers, which :meth:`train` adds once the first iteration is known.

        Evaluation comes before the checkpoint, so that a resumed run knows of it.
        """
        cfg = self.cfg
        period = cfg.TEST.EVAL_PERIOD
        found: list[HookBase] = [
            SeededSteps(self.seed),
            Throughput(cfg.SOLVER.IMS_PER_BATCH),
            hooks.IterationTimer(),
        ]
        found += [hooks.LRScheduler(), AverageWeights(self.average)]
        period_of_pictures = cfg.MRSSL.PICTURE_PERIOD or period
        self.pictures = Pictures(period_of_pictures, self._draw, model=self.deployed)
        found.append(self.pictures)
        if self.data.test:
            found += [
                Evaluation(period, self.evaluate),
                ValidationLoss(period, self._validation_batches, model=self.deployed),
                BestCheckpointer(
                    self.data.best_metric,
                    self.checkpointer.save,
                    patience=cfg.MRSSL.SOLVER.PATIENCE,
                ),
            ]
        if is_main_process():
            every = cfg.SOLVER.CHECKPOINT_PERIOD
            every = every if every > 0 else self.max_iter + 1  # 0 = only at the end
            found.append(hooks.PeriodicCheckpointer(self.checkpointer, every))
        found.append(StopOnSignal(self.signals, self._save_interrupted))
        return found

    def _save_interrupted(self) -> None:
        self.checkpointer.save(Path(periodic_name(self.iter)).stem, iteration=self.iter)
        barrier()

    def build_writers(self) -> list[EventWriter]:
        """The terminal, ``metrics.json`` and TensorBoard, from this run's first iteration on."""
        start = self.start_iter
        goes_on = self._at_end and start < self.max_iter  # else the last scores are written again
        writers: list[EventWriter] = [
            progress_writer(self.max_iter, start_iteration=start),
            MetricsWriter(self.folder / "metrics.json", start_iteration=start, keep_scores=goes_on),
        ]
        if self.cfg.MRSSL.WANDB_PROJECT:
            writers.append(WandBWriter(self.cfg))
        board = TensorboardXWriter(str(self.folder), purge_step=(start + goes_on) or None)
        return [*writers, board]

    def train(self) -> Results:
        """Train up to ``SOLVER.MAX_ITER``; where that is done already, only evaluate.

        Returns:
            The last evaluation's results; ``{}`` on all but the main process.
        """
        self._last_eval_results: Results = {}
        if self.start_iter >= self.max_iter:
            _LOG.info("nothing to train: %d iterations are done", self.start_iter)
        if is_main_process():
            averaged = self.average is not None
            check_room(self.folder, self.bare_model, self.optimizer, averaged=averaged)
        freeze = self.cfg.MRSSL.TRANSFER.FREEZE_ITERS
        self.register_hooks([FreezeTransferred(self.bare_model, self.transferred, freeze)])
        if is_main_process():
            period = self.cfg.MRSSL.LOG_PERIOD
            self.register_hooks([hooks.PeriodicWriter(self.build_writers(), period)])
        if self.start_iter >= self.max_iter and not self._at_end:
            self.checkpointer.save(Path(FINAL).stem, iteration=self.iter)
        loop = logging.getLogger("detectron2.engine.train_loop")
        loop.addFilter(_is_no_message)
        try:
            with self.signals, self._trainer.data_loader.watched():
                TrainerBase.train(self, self.start_iter, self.max_iter)
        except EarlyStop:
            self.checkpointer.save(Path(FINAL).stem, iteration=self.iter)
        finally:
            loop.removeFilter(_is_no_message)
        skipped = self.skipped.lines()
        for line in skipped:
            _LOG.warning(line)
        write_summary(
            self.cfg,
            self._last_eval_results,
            engine="detectron2",
            picture=self.pictures and self.pictures.latest,
            notes=skipped,
            marks=self.data.marks,
        )
        return self._last_eval_results

    def after_train(self) -> None:
        """See ``TrainerBase``."""
        self.iter: int = min(self.iter, self.max_iter)  # of a loop without iterations it counts one
        super().after_train()

    def evaluate(self) -> Results:
        """Score the model on ``DATASETS.TEST``; ``{}`` without one, and but on the main process."""
        if not self.data.test:
            return {}
        self._last_eval_results = score(self.deployed, self.data)
        return self._last_eval_results

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> Results:
        """Score ``model`` on all of ``DATASETS.TEST`` as one.

        Where structures are to be named together, ``MODEL.WEIGHTS`` says where the classes lie to
        each other; if it does not, each slice is named by itself, with a warning.

        Args:
            cfg: the configuration.
            model: built from it, with its weights.
            evaluators: a ``DatasetEvaluator``, or several; None takes what the task is scored with.

        Raises:
            MrsslError: data or weights that cannot be used.
        """
        seed, trained = max(cfg.SEED, 0), None
        if evaluators is None and cfg.MRSSL.EVALUATION.JOINT_NAMES and not is_pretraining(cfg):
            content = load_checkpoint(cfg.MODEL.WEIGHTS) if cfg.MODEL.WEIGHTS else {}
            trained = Provenance.from_dict(content.get("mrssl", {}))
        data = RunData(cfg, seed=seed, training=False, trained=trained, load=load_registered)
        told = trained and trained.class_layout and [*trained.class_names] == data.class_names
        if trained and not told and len(data.class_names) > 1:
            _LOG.warning(
                "MRSSL.EVALUATION.JOINT_NAMES is left aside: MODEL.WEIGHTS %r does not say where "
                "the classes of the data lie to each other",
                cfg.MODEL.WEIGHTS,
            )
            data.class_layout = None
        return score(model, data, evaluators)

    def _draw(self, model: nn.Module) -> np.ndarray:
        """Distorted | restored | clean of a few slices, or the masks found."""
        samples = self.data.picture_samples()
        inputs = [to_input(sample, is_train=False) for sample in samples]
        outputs = [
            to_prediction(x, y["instances"]) for x, y in zip(inputs, model(inputs), strict=True)
        ]
        return restoration_grid(samples, outputs)


def _to_inputs(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [to_input(sample, is_train=True) for sample in samples]


def _is_no_message(record: logging.LogRecord) -> bool:
    # What is meant for the user is printed once, in one line, and not as a traceback besides.
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not (isinstance(error, MrsslError) or worker_fault(error))


__all__ = ["MRITrainer"]
