"""The hooks in Detectron2's own trainer, without anything else of this package."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.detectron2


class Regression(nn.Module):
    """A model in Detectron2's sense: a batch to losses by name, or to predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, batch: list[dict[str, Any]]) -> Any:
        x = torch.stack([item["x"] for item in batch])
        y = self.norm(self.layer(x))
        return {"loss": (y - 1).square().mean()} if self.training else y


def batches() -> Iterator[list[dict[str, Any]]]:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield [{"x": torch.randn(2, generator=generator)} for _ in range(4)]


def trainer(*hooks: Any) -> Any:
    from detectron2.engine import SimpleTrainer

    model = Regression()
    built = SimpleTrainer(model, batches(), torch.optim.SGD(model.parameters(), lr=0.1))
    built.register_hooks(list(hooks))
    return built


def scores(values: list[float]) -> Any:
    """An evaluation hook that finds ``values``, one an iteration."""
    from detectron2.engine import hooks

    left = iter(values)
    return hooks.EvalHook(1, lambda: {"dice": {"dice": next(left)}})


def test_thawing_leaves_what_was_frozen_before() -> None:
    from mrssl.engines.detectron2.hooks import FreezeTransferred

    built = trainer()
    model = built.model
    model.layer.weight.requires_grad_(False)
    built.register_hooks([FreezeTransferred(model, ["layer.weight", "layer.bias"], 1)])
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    built.train(0, 1)
    assert torch.equal(model.layer.bias, start["layer.bias"])
    built.train(1, 2)
    assert not model.layer.weight.requires_grad
    assert model.layer.weight.grad is None
    assert model.layer.bias.requires_grad
    assert model.norm.weight.requires_grad


def test_training_stops_when_the_metric_no_longer_betters() -> None:
    from mrssl.engines.detectron2.hooks import BestCheckpointer, EarlyStop

    saved: list[int] = []
    best = BestCheckpointer(
        "dice/dice", lambda name, iteration: saved.append(iteration), patience=2
    )
    built = trainer(scores([0.1, 0.3, float("nan"), 0.2, 0.9]), best)
    with pytest.raises(EarlyStop):
        built.train(0, 10)
    assert saved == [0, 1]
    assert built.iter == 3
    assert best.state_dict() == {"best": 0.3, "evaluations_since_best": 2}


def test_distances_are_better_low_and_the_best_survives_a_resume() -> None:
    from mrssl.engines.detectron2.hooks import BestCheckpointer

    saved: list[int] = []
    best = BestCheckpointer("hd95/hd95", lambda name, iteration: saved.append(iteration))
    best.load_state_dict({"best": 5.0, "evaluations_since_best": 1})
    from detectron2.engine import hooks

    left = iter([7.0, 4.0, 6.0])
    evaluation = hooks.EvalHook(1, lambda: {"hd95": {"hd95": next(left)}})
    trainer(evaluation, best).train(0, 3)
    assert saved == [1]
    assert best.best == 4.0


def test_validation_leaves_training_as_it_was() -> None:
    from mrssl.engines.detectron2.hooks import ValidationLoss

    held_out = [[{"x": torch.ones(2)}, {"x": -torch.ones(2)}], [{"x": torch.zeros(2)}]]
    hook = ValidationLoss(0, lambda: held_out)
    built = trainer(hook)
    model = built.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(3)
    draw = torch.rand(1)
    torch.manual_seed(3)
    found = hook.measure()
    assert torch.equal(torch.rand(1), draw)
    assert model.training
    assert model.norm.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    model.norm.eval()
    with torch.no_grad():
        expected = sum(float(model(batch)["loss"]) * len(batch) for batch in held_out) / 3
    assert found == pytest.approx({"validation/loss": expected, "validation/total_loss": expected})


def test_random_numbers_follow_from_the_iteration() -> None:
    from detectron2.engine import HookBase

    from mrssl.engines.detectron2.hooks import SeededSteps

    class Draw(HookBase):
        def __init__(self) -> None:
            self.draws: dict[int, float] = {}

        def before_step(self) -> None:
            self.draws[self.trainer.iter] = float(torch.rand(1))

    whole, resumed, other = Draw(), Draw(), Draw()
    trainer(SeededSteps(0), whole).train(0, 4)
    trainer(SeededSteps(0), resumed).train(2, 4)
    trainer(SeededSteps(1), other).train(0, 1)
    assert resumed.draws == {i: whole.draws[i] for i in (2, 3)}
    assert len({*whole.draws.values(), *other.draws.values()}) == 5


def test_metrics_are_json_and_fit_for_a_resume(tmp_path: Path) -> None:
    from detectron2.engine import hooks

    from mrssl.engines.detectron2.event_writers import MetricsWriter

    path = tmp_path / "metrics.json"
    writer = hooks.PeriodicWriter([MetricsWriter(path)], period=1)
    trainer(scores([float("nan"), 0.2, 0.3, 0.4]), writer).train(0, 4)
    writer = hooks.PeriodicWriter([MetricsWriter(path, start_iteration=2)], period=1)
    trainer(scores([0.5, 0.6]), writer).train(2, 4)
    rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]
    losses = [row["iteration"] for row in rows if "total_loss" in row]
    assert losses == [0, 1, 2, 3]
    assert rows[0]["dice/dice"] is None
    assert [row["dice/dice"] for row in rows if "dice/dice" in row][1:] == [0.2, 0.5, 0.6]


def test_pictures_are_drawn_in_evaluation_mode() -> None:
    from mrssl.engines.detectron2.hooks import Pictures

    modes: list[bool] = []

    def draw(model: nn.Module) -> np.ndarray:
        modes.append(model.training)
        return np.zeros((4, 6, 3), np.uint8)

    built = trainer(Pictures(2, draw))
    built.train(0, 5)
    assert modes == [False, False, False]  # after iterations 2 and 4, and at the end
    assert built.model.training
    assert [step for _, _, step in built.storage._vis_data] == [1, 3, 4]
    assert built.storage._vis_data[0][1].shape == (3, 4, 6)


def test_a_signal_saves_after_the_iteration_and_leaves() -> None:
    import os
    import signal

    from detectron2.engine import hooks

    from mrssl.engines.detectron2.hooks import StopOnSignal
    from mrssl.engines.signals import StopSignals
    from mrssl.errors import Interrupted

    saved: list[int] = []
    signals = StopSignals()
    stop = StopOnSignal(signals, lambda: saved.append(built.iter))

    def send(stepped: Any) -> None:
        if stepped.iter == 2:
            os.kill(os.getpid(), signal.SIGUSR1)

    built = trainer(hooks.CallbackHook(before_step=send), stop)
    with signals, pytest.raises(Interrupted, match="SIGUSR1 at iteration 3 of 9"):
        built.train(0, 9)
    assert saved == [2]


def test_an_average_follows_the_weights() -> None:
    from detectron2.engine import hooks

    from mrssl.engines.averaging import WeightAverage
    from mrssl.engines.detectron2.hooks import AverageWeights

    seen: list[torch.Tensor] = []
    record = hooks.CallbackHook(
        after_step=lambda stepped: seen.append(stepped.model.layer.weight.detach().clone())
    )
    built = trainer(record)
    average = WeightAverage(built.model, 0.5)
    built.register_hooks([AverageWeights(average)])
    built.train(0, 3)
    expected = seen[0]
    for count, weight in enumerate(seen[1:], 1):
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * weight
    torch.testing.assert_close(average.module.layer.weight.detach(), expected)


def test_pace_and_shares_are_on_record() -> None:
    from mrssl.engines.detectron2.hooks import Throughput

    built = trainer(Throughput(4))
    built.train(0, 4)
    for name in ("images_per_second", "data_share", "overhead_share"):
        values = [value for value, _ in built.storage.history(name).values()]
        assert len(values) == 3  # an iteration's figures are known at the next
        assert all(value >= 0 for value in values)
    shares = built.storage.latest()
    assert shares["data_share"][0] + shares["overhead_share"][0] <= 1


def test_a_fault_in_the_first_iterations_is_not_hidden_by_the_printer() -> None:
    from detectron2.engine import hooks

    from mrssl.engines.detectron2.event_writers import ProgressPrinter

    def fail(stepped: Any) -> None:
        if stepped.iter == 1:
            raise OSError("the fault")

    printer = hooks.PeriodicWriter([ProgressPrinter(9)], period=1)
    built = trainer(printer, hooks.CallbackHook(after_step=fail))
    with pytest.raises(OSError, match="the fault"):
        built.train(0, 9)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_and_a_log_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    from detectron2.engine import hooks

    from mrssl.engines.detectron2.event_writers import ProgressPrinter, progress_writer

    assert isinstance(progress_writer(9), ProgressPrinter)  # no terminal here
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    writer = progress_writer(6, start_iteration=2)
    trainer(hooks.PeriodicWriter([writer], period=3)).train(2, 6)
    assert "6/6" in terminal.getvalue()
    assert "7/6" not in terminal.getvalue()
    assert "total_loss" in terminal.getvalue()


def test_a_better_model_than_the_last_checkpoint_knew_of_survives_a_resume(tmp_path: Path) -> None:
    """The order of ``DefaultTrainer``: checkpoint, evaluation, and what is registered after it."""
    from detectron2.engine import hooks

    from mrssl.engines.detectron2.checkpointing import MRICheckpointer
    from mrssl.engines.detectron2.hooks import BestCheckpointer

    def train(values: list[float], start: int) -> BestCheckpointer:
        built = trainer()
        model = nn.ModuleDict({"backbone": nn.ModuleDict({"fpn_lateral2": nn.Linear(1, 1)})})
        files = MRICheckpointer(model, str(tmp_path), trainer=built)
        best = BestCheckpointer("dice/dice", files.save, patience=9)
        built.register_hooks([hooks.PeriodicCheckpointer(files, 1), scores(values), best])
        files.resume_or_load("", resume=start > 0)
        built.train(start, start + len(values))
        return best

    train([0.5, 0.9], 0)
    (tmp_path / "model_final.pth").unlink()  # as after a kill
    (tmp_path / "last_checkpoint").write_text("model_0000001.pth")
    best = train([0.85], 2)
    assert best.state_dict() == {"best": 0.9, "evaluations_since_best": 1}
    assert torch.load(tmp_path / "model_best.pth", weights_only=True)["iteration"] == 1


def test_a_metric_that_never_came_is_told(caplog: pytest.LogCaptureFixture) -> None:
    from mrssl.engines.detectron2.hooks import BestCheckpointer

    trainer(scores([0.1, 0.2]), BestCheckpointer("dice/dise", lambda *a, **k: None)).train(0, 2)
    assert [r.message for r in caplog.records if "dice/dise" in r.message] == [
        "no dice/dise in this run: no best model was kept"
    ]


@pytest.mark.parametrize(("fails_at", "evaluated"), [(None, 1), (2, 0)])
def test_a_loop_that_fails_in_its_last_iteration_is_not_evaluated(
    fails_at: int | None, evaluated: int
) -> None:
    from detectron2.engine import hooks

    from mrssl.engines.detectron2.hooks import Evaluation

    def fail(iteration: int) -> None:
        if iteration == fails_at:
            raise FloatingPointError

    seen: list[int] = []
    built = trainer(
        hooks.CallbackHook(after_step=lambda t: fail(t.iter)),
        Evaluation(0, lambda: seen.append(1) or {}),
    )
    try:
        built.train(0, 3)
    except FloatingPointError:
        assert fails_at is not None
    assert len(seen) == evaluated
