"""The Detectron2 part of ``benchmark_speed.py``, for where Detectron2 is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark_steps import Measured, load_weights, make_mapper, ratio, step_of
from mrssl.config import load_cfg, with_values


def benchmark_detectron2(
    config_file: str | Path,
    opts: Sequence[str] = (),
    *,
    rounds: int = 8,
    weights: Path | None = None,
) -> dict[str, Any]:
    """Our pretraining model beside Detectron2's stock Mask R-CNN, from equal weights.

    Args:
        config_file: a pretraining configuration.
        opts: overrides, ``KEY VALUE ...``.
        rounds: pairs of runs.
        weights: a pretraining checkpoint; None for untrained models.

    Returns:
        ``step_ratio_detectron2`` and ``inference_ratio_detectron2`` (ours / stock), and the
        seconds and, on a GPU, peaks of memory in GiB behind them.
    """
    from detectron2.modeling import build_model
    from detectron2.utils.events import EventStorage

    from mrssl.engines.detectron2 import MRIDatasetMapper, get_cfg
    from mrssl.engines.detectron2.step import pool_exactly

    device = "cuda" if torch.cuda.is_available() else "cpu"
    cfg = load_cfg(config_file, ["MODEL.DEVICE", device, *opts], cfg=get_cfg())
    stock_cfg = with_values(cfg, {"MODEL.ROI_HEADS.NAME": "StandardROIHeads"})
    mapper, records = make_mapper(cfg, max(cfg.INPUT.MIN_SIZE_TRAIN))
    to_input = MRIDatasetMapper(mapper)
    batch = [to_input(record, epoch=0) for record in records[: cfg.SOLVER.IMS_PER_BATCH]]
    ours, stock = build_model(cfg), build_model(stock_cfg)
    load_weights(ours, weights)
    stock.load_state_dict(ours.state_dict(), strict=False)
    pool_exactly(ours)  # as MRITrainer's step has it
    with EventStorage():
        step = ratio(
            step_of(cfg, ours.train(), lambda: ours(batch), bfloat16=False),
            step_of(cfg, stock.train(), lambda: stock(batch), bfloat16=False),
            rounds,
        )
    ours.eval(), stock.eval()
    with torch.no_grad():
        inference = ratio(
            Measured(lambda: ours(batch), ours), Measured(lambda: stock(batch), stock), rounds
        )
    return {
        "step_ratio_detectron2": step.pop("ratio"),
        "step_detectron2": step,
        "inference_ratio_detectron2": inference.pop("ratio"),
        "inference_detectron2": inference,
    }
