"""A model over the test slices, by Detectron2's loader and ``inference_on_dataset``."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.data import build_detection_test_loader
from detectron2.evaluation import inference_on_dataset
from torch import nn

from mrssl.engines.datasets import TEST_BATCH, RunData
from mrssl.engines.detectron2.dataset_mapper import MRIDatasetMapper
from mrssl.engines.detectron2.evaluation import SliceDatasetEvaluator
from mrssl.engines.distributed import get_rank, get_world_size, share_buffers
from mrssl.engines.output import write_subjects
from mrssl.evaluation import Results


def score(model: nn.Module, data: RunData, evaluator: Any = None) -> Results:
    """Run ``model`` over the test slices of ``data``, by Detectron2's ``inference_on_dataset``."""
    share_buffers(model)
    loader = build_detection_test_loader(
        data.test,
        mapper=MRIDatasetMapper(data.test_mapper, is_train=False),
        sampler=data.test_share(get_rank(), get_world_size()),
        batch_size=TEST_BATCH,
    )
    scoring = data.evaluator() if evaluator is None else None
    with torch.no_grad():
        results = inference_on_dataset(
            model, loader, evaluator if scoring is None else SliceDatasetEvaluator(scoring)
        )
    if scoring is not None:
        write_subjects(data.cfg, scoring)
    return results


__all__ = ["score"]
