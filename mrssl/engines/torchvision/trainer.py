"""The training loop of the embedded engine."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mrssl.checkpoint import (
    LoadReport,
    Provenance,
    input_differences,
    load_checkpoint,
    load_for_transfer,
    to_detectron2,
)
from mrssl.config import is_pretraining
from mrssl.engines.averaging import build_average, load_saved_weights, weights_to_save
from mrssl.engines.checkpoints import RunCheckpoints
from mrssl.engines.datasets import RunData
from mrssl.engines.distributed import (
    barrier,
    gather_objects,
    get_rank,
    get_world_size,
    is_main_process,
)
from mrssl.engines.pictures import restoration_grid
from mrssl.engines.solver import (
    IterationLR,
    build_optimizer,
    build_schedule,
    clip_gradients,
    mixed_precision,
)
from mrssl.engines.torchvision.batches import collate, collate_with_truth, to_prediction
from mrssl.engines.torchvision.evaluation import evaluate
from mrssl.engines.torchvision.model import build_model
from mrssl.engines.writers import MetricsFile, Progress, TensorBoard
from mrssl.errors import MrsslError
from mrssl.evaluation import Results, get_metric, is_better


class Trainer:
    """Builds everything a run needs from its configuration, trains, evaluates, resumes.

    Args:
        cfg: the configuration; ``OUTPUT_DIR`` exists and can be written.
        resume: go on from the newest valid checkpoint in ``OUTPUT_DIR``, if there is one.
    """

    def __init__(self, cfg: CfgNode, *, resume: bool = False) -> None:
        self.cfg = cfg
        self.folder = Path(cfg.OUTPUT_DIR)
        self.seed = max(cfg.SEED, 0)
        torch.manual_seed(self.seed)
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.data = RunData(cfg, seed=self.seed)
        self.cfg = cfg = self.data.with_classes(cfg)
        self.model = build_model(cfg, len(self.data.type_names)).to(self.device)
        self.average = build_average(cfg, self.model)
        self.checkpoints = RunCheckpoints(self.folder, keep=cfg.MRSSL.SOLVER.KEEP_CHECKPOINTS)
        self.iteration = 0
        self.best: float | None = None
        self.evaluations_since_best = 0
        self.notes: list[str] = []

        found = self.checkpoints.newest() if resume else None
        report = None if found else self._initial_weights()
        transferred = set(report.loaded) if report else set()
        if found and found[1].get("transferred"):
            transferred = set(found[1]["transferred"])
        self.transferred = sorted(transferred)
        self.optimizer = build_optimizer(cfg, self.model, transferred)
        self.scheduler = IterationLR(self.optimizer, build_schedule(cfg), cfg.SOLVER.MAX_ITER)
        self.autocast, self.scaler = mixed_precision(cfg, self.device)
        if found:
            self._restore(*found)
        self.wrapped: nn.Module = self.model
        if get_world_size() > 1:
            ids = [self.device.index] if self.device.type == "cuda" else None
            self.wrapped = DistributedDataParallel(
                self.model, device_ids=ids, find_unused_parameters=True
            )

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
            names="torchvision",
            type_names=self.data.type_names or None,
        )
        self.notes.append(f"{cfg.MODEL.WEIGHTS}, scope {cfg.MRSSL.TRANSFER.SCOPE}:\n{report}")
        provenance = Provenance.from_dict(content.get("mrssl", {}))
        self.notes += [f"warning: {line}" for line in input_differences(provenance, cfg)]
        return report

    def _restore(self, path: Path, content: dict[str, Any], skipped: list[str]) -> None:
        self.notes += [f"warning: skipped {line}" for line in skipped]
        load_saved_weights(self.model, self.average, content, names="torchvision", where=str(path))
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        if self.scaler is not None and "scaler" in content:
            self.scaler.load_state_dict(content["scaler"])
        self.iteration = int(content["iteration"])
        self.best = content.get("best")
        self.evaluations_since_best = int(content.get("evaluations_since_best", 0))
        torch.set_rng_state(content["rng"])
        self.notes.append(f"resumed from {path} at iteration {self.iteration}")

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs; tensors and plain types only."""
        provenance = Provenance.from_config(
            self.cfg,
            task="pretrain" if is_pretraining(self.cfg) else "finetune",
            class_names=self.data.class_names,
            type_names=self.data.type_names,
            iteration=self.iteration,
        )
        schedule = {
            k: v for k, v in self.scheduler.state_dict().items() if k not in ("lr_lambdas",)
        }
        return {
            **weights_to_save(self.model, self.average, to_detectron2),
            "mrssl": provenance.to_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": schedule | {"lr_lambdas": [None] * len(self.optimizer.param_groups)},
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            "iteration": self.iteration,
            "transferred": self.transferred,
            "best": self.best,
            "evaluations_since_best": self.evaluations_since_best,
            "rng": torch.get_rng_state(),
        }

    def train(self) -> Results:
        """Train up to ``SOLVER.MAX_ITER`` and return the last evaluation's results."""
        cfg, last = self.cfg, self.cfg.SOLVER.MAX_ITER
        metrics = board = progress = None
        if is_main_process():
            metrics = MetricsFile(self.folder / "metrics.json", start_iteration=self.iteration)
            board = TensorBoard(self.folder, start_iteration=self.iteration)
            what = "pretrain" if is_pretraining(cfg) else "fine-tune"
            progress = Progress(last, initial=self.iteration, description=what)
            for note in self.notes:
                progress.note(note)
        loader = iter(
            self.data.train_loader(
                start_iteration=self.iteration,
                rank=get_rank(),
                world_size=get_world_size(),
                collate=collate,
                pin_memory=self.device.type == "cuda",
            )
        )
        results: Results = {}
        window: list[dict[str, float]] = []
        self.wrapped.train()
        while self.iteration < last:
            inputs = next(loader)
            losses = self.step(inputs)
            done = self.iteration
            window.append(losses)
            if progress is not None:
                progress.update(losses)
            if done % cfg.MRSSL.LOG_PERIOD == 0 or done == last:
                row = {k: sum(w[k] for w in window) / len(window) for k in window[0]}
                row["lr"] = float(self.scheduler.get_last_lr()[0])
                window.clear()
                self._write(metrics, board, row)
            if _due(cfg.MRSSL.PICTURE_PERIOD, done, last):
                self._picture(board)
            stop = False
            if done == last and is_main_process():
                # Before the evaluation: what took days must not hang on its last minute.
                self.checkpoints.save(self.state(), done)
            if _due(cfg.TEST.EVAL_PERIOD, done, last) or (done == last and self.data.test):
                self._picture(board)
                results = self.evaluate()
                flat = {f"{t}/{m}": v for t, row in results.items() for m, v in row.items()}
                self._write(metrics, board, flat)
                stop = self._keep_best(results)
            if _due(cfg.SOLVER.CHECKPOINT_PERIOD, done, last) and is_main_process():
                self.checkpoints.save(self.state(), done)
            if stop:
                if progress is not None:
                    progress.note(f"stopped early at iteration {done}: no better metric")
                break
        if is_main_process():
            self.checkpoints.save(self.state(), self.iteration, final=True)
        barrier()
        for closing in (progress, board):
            if closing is not None:
                closing.close()
        return results

    def step(self, inputs: list[dict[str, Any]]) -> dict[str, float]:
        """One iteration of the optimiser.

        Returns:
            Every loss, averaged over the processes, and ``total_loss`` first.

        Raises:
            MrsslError: a loss is not finite; the message names it and the slices of the batch.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self._freeze_transferred()
        with self.autocast():
            losses: dict[str, Tensor] = self.wrapped(inputs)
        total = torch.stack(list(losses.values())).sum()
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            slices = ", ".join(f"{x['file_name']}[{x['slice_index']}]" for x in inputs)
            raise MrsslError(
                f"iteration {self.iteration}: {', '.join(bad)} is not finite on {slices}"
            )
        if self.scaler is not None:
            self.scaler.scale(total).backward()
            self.scaler.unscale_(self.optimizer)
        else:
            total.backward()
        clip_gradients(self.cfg, [p for p in self.model.parameters() if p.grad is not None])
        if self.scaler is not None:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.scheduler.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self.iteration += 1
        if get_world_size() > 1:
            everyone = gather_objects(values)
            values = {k: sum(v[k] for v in everyone) / len(everyone) for k in values}
        return {"total_loss": sum(values.values())} | values

    def _freeze_transferred(self) -> None:
        """Keep loaded parameters as they are for the first ``TRANSFER.FREEZE_ITERS`` iterations."""
        count = self.cfg.MRSSL.TRANSFER.FREEZE_ITERS
        if count and self.transferred and self.iteration in (0, count):
            names = set(self.transferred)
            for name, parameter in self.model.named_parameters():
                if name in names:
                    parameter.requires_grad_(self.iteration >= count)

    @property
    def deployed(self) -> nn.Module:
        """What is evaluated and exported: the averaged model where there is one."""
        return self.model if self.average is None else self.average.module

    def evaluate(self) -> Results:
        """Score the model on ``DATASETS.TEST``; ``{}`` but on the main process."""
        loader = self.data.test_loader(
            rank=get_rank(), world_size=get_world_size(), collate=collate_with_truth
        )
        return evaluate(self.deployed, loader, self.data.evaluator())

    def _keep_best(self, results: Results) -> bool:
        """Save the model if it is the best so far; whether to stop early (on every process)."""
        stop = False
        if is_main_process():
            name = self.cfg.MRSSL.SOLVER.BEST_METRIC or self.data.default_metric
            value = get_metric(results, name)
            self.evaluations_since_best += 1
            if is_better(name, value, self.best):
                self.best, self.evaluations_since_best = float(value), 0
                self.checkpoints.save_best(self.state())
            patience = self.cfg.MRSSL.SOLVER.PATIENCE
            stop = bool(patience) and self.evaluations_since_best >= patience
        return gather_objects(stop)[0]

    def _write(
        self, metrics: MetricsFile | None, board: TensorBoard | None, row: dict[str, float]
    ) -> None:
        if metrics is not None and board is not None:
            metrics.write(self.iteration, row)
            board.write(self.iteration, row)

    @torch.no_grad()
    def _picture(self, board: TensorBoard | None) -> None:
        """Distorted | restored | clean of a few slices, or the masks found, to TensorBoard."""
        if board is None:
            return
        model = self.deployed.eval()
        samples = self.data.picture_samples()
        outputs = [to_prediction(o) for o in model(collate(samples))]
        model.train()
        board.picture(self.iteration, "samples", restoration_grid(samples, outputs))


def _due(period: int, done: int, last: int) -> bool:
    return period > 0 and done % period == 0 and done != last
