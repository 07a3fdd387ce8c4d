"""Run a model over a data set and score it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from mrssl.engines.distributed import gather_on_main, is_main_process, share_buffers
from mrssl.engines.torchvision.batches import to_prediction
from mrssl.evaluation import Evaluator, Results


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: Iterable[tuple[list[dict[str, Any]], list[dict[str, Any]]]],
    evaluator: Evaluator,
    *,
    description: str = "evaluate",
) -> Results:
    """Score ``model`` on the slices of ``loader``; with several processes, on all their slices.

    Args:
        model: put into evaluation mode meanwhile.
        loader: batches of (inputs, ground truth), this process's part of the data set.
        evaluator: reset first.
        description: of the progress bar.

    Returns:
        ``{task: {metric: value}}`` on the main process, ``{}`` on the others.
    """
    training = model.training
    share_buffers(model)
    model.eval()
    evaluator.reset()
    try:
        for inputs, truth in tqdm(
            loader, desc=description, leave=False, disable=None if is_main_process() else True
        ):
            evaluator.process(truth, [to_prediction(output) for output in model(inputs)])
    finally:
        model.train(training)
    states = gather_on_main(evaluator.state())
    if not is_main_process():
        return {}
    evaluator.reset()
    evaluator.merge(states)
    return evaluator.evaluate()
