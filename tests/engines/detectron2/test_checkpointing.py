from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrssl.checkpoint import CheckpointError

from .conftest import MakeConfig

pytestmark = pytest.mark.detectron2


@pytest.fixture
def model(make_config: MakeConfig, tmp_path: Path) -> Any:
    from detectron2.modeling import build_model

    return build_model(make_config("pretrain", tmp_path))


def checkpointer(model: Any, folder: Path, **options: Any) -> Any:
    from mrssl.engines.detectron2 import MRICheckpointer

    return MRICheckpointer(model, str(folder), **options)


class Counter:
    """Something with a state, as trainers are."""

    def __init__(self) -> None:
        self.value = 0

    def state_dict(self) -> dict[str, int]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.value = state["value"]


def test_what_is_saved_loads_without_running_code(model: Any, tmp_path: Path) -> None:
    counter = Counter()
    counter.value = 7
    files = checkpointer(model, tmp_path, trainer=counter, describe=lambda: {"mrssl": {}})
    files.save("model_0000001", iteration=1)
    content = torch.load(tmp_path / "model_0000001.pth", weights_only=True)
    assert {"model", "mrssl", "trainer", "iteration"} == set(content)
    with torch.no_grad():
        next(model.parameters()).add_(1.0)
    counter.value = 0
    rest = files.resume()
    assert rest["iteration"] == 1
    assert counter.value == 7
    assert torch.equal(next(model.parameters()), next(iter(content["model"].values())))


def test_what_only_code_could_rebuild_is_not_saved(model: Any, tmp_path: Path) -> None:
    files = checkpointer(model, tmp_path)
    with pytest.raises(TypeError, match="extra"):
        files.save("model_0000001", extra=Counter())
    assert not list(tmp_path.glob("*.pth"))


@pytest.mark.parametrize("name", ["model_0000002", "epoch_3"])
def test_a_training_loop_of_ones_own_is_resumed(model: Any, tmp_path: Path, name: str) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    checkpointer(model, tmp_path, optimizer=optimizer).save(name)
    other = torch.optim.SGD(model.parameters(), lr=0.1)
    again = checkpointer(model, tmp_path, optimizer=other)
    assert again.has_checkpoint()
    again.resume_or_load("", resume=True)
    assert other.param_groups[0]["lr"] == 0.5


def test_the_best_is_not_the_last_and_old_ones_go(model: Any, tmp_path: Path) -> None:
    files = checkpointer(model, tmp_path, keep=2, trainer=Counter())
    for iteration in range(3):
        files.save(f"model_{iteration:07d}", iteration=iteration)
    files.save("model_best", iteration=0)
    assert {p.name for p in tmp_path.glob("*.pth")} == {
        "model_0000001.pth", "model_0000002.pth", "model_best.pth",
    }  # fmt: skip
    assert files.get_checkpoint_file().endswith("model_0000002.pth")


def test_a_run_that_went_on_past_its_end_resumes_where_it_got_to(
    model: Any, tmp_path: Path
) -> None:
    files = checkpointer(model, tmp_path, trainer=Counter())
    files.save("model_final", iteration=3)
    files.save("model_0000005", iteration=5)
    assert files.get_checkpoint_file().endswith("model_0000005.pth")


def test_another_model_is_an_error_to_load_and_a_report_to_transfer(
    make_config: MakeConfig, model: Any, tmp_path: Path
) -> None:
    from detectron2.modeling import build_model

    checkpointer(model, tmp_path).save("model_final", iteration=1)
    path = str(tmp_path / "model_final.pth")
    other = build_model(make_config("finetune", tmp_path, "MODEL.ROI_HEADS.NUM_CLASSES", 2))
    with pytest.raises(CheckpointError, match=r"model_final\.pth.*another model"):
        checkpointer(other, tmp_path).load(path)
    report, _ = checkpointer(other, tmp_path).transfer(path, scope="detector")
    counts = report.counts()
    assert counts["backbone"]["new"] == 0
    assert {group for group, row in counts.items() if row["new"]} == {
        "box_predictor", "mask_predictor",
    }  # fmt: skip
    source, target = model.state_dict(), other.state_dict()
    assert all(torch.equal(source[name], target[name]) for name in report.loaded)


def test_a_missing_file_is_named(model: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.pth"):
        checkpointer(model, tmp_path).load(str(tmp_path / "nowhere.pth"))


def test_a_pickle_is_read_only_where_that_is_said(model: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.pkl"
    state = {name: tensor.numpy().copy() for name, tensor in model.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": state, "__author__": "someone"}))
    with pytest.raises(CheckpointError, match="can run code"):
        checkpointer(model, tmp_path).load(str(path))
    name, parameter = next(iter(model.named_parameters()))
    with torch.no_grad():
        parameter.zero_()
    checkpointer(model, tmp_path, allow_pickle=True).load(str(path))
    np.testing.assert_array_equal(parameter.detach().numpy(), state[name])


def test_stock_detectron2_reads_it(model: Any, tmp_path: Path) -> None:
    from detectron2.checkpoint import DetectionCheckpointer

    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checkpointer(model, tmp_path).save("model_final", iteration=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    DetectionCheckpointer(model).load(str(tmp_path / "model_final.pth"))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_weights_alone_bring_no_best_score(model: Any, tmp_path: Path) -> None:
    """The best model of an earlier run in the folder is as far as its weights."""
    from mrssl.engines.detectron2.hooks import BestCheckpointer

    class Trainer:
        def __init__(self) -> None:
            self._hooks = [BestCheckpointer("dice/dice", lambda *a, **k: None)]

        def state_dict(self) -> dict[str, Any]:
            return {"hooks": {"BestCheckpointer": {"best": 0.9, "evaluations_since_best": 0}}}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    checkpointer(model, tmp_path, trainer=Trainer()).save("model_best", iteration=3)
    for load, best in ((False, None), (True, 0.9)):
        new = Trainer()
        files = checkpointer(model, tmp_path, trainer=new)
        files.load(str(tmp_path / "model_best.pth"), **({} if load else {"checkpointables": []}))
        assert new._hooks[0].best == best
