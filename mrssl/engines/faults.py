"""What a run says when its data break it, and a dump from which the batch can be made again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from fvcore.common.config import CfgNode

from mrssl.config import with_new_keys
from mrssl.data.datasets import Dataset, load_dataset
from mrssl.data.donors import slice_name
from mrssl.engines.datasets import RunData
from mrssl.engines.distributed import gather_objects, get_rank
from mrssl.errors import MrsslError
from mrssl.evaluation import write_results
from mrssl.files import read_json


class NonFiniteError(MrsslError):
    """A loss or a gradient is NaN or infinite; the message names the batch and its dump."""


def check_finite(
    values: Mapping[str, float], batch: Sequence[Mapping[str, Any]], *, iteration: int, cfg: CfgNode
) -> None:
    """Stop where a value is not finite, and leave a dump of the batch in ``OUTPUT_DIR``.

    Args:
        values: losses by name.
        batch: inputs of the model, with what
            :class:`~mrssl.data.loader.SampleStream` adds to samples.
        iteration: counted from 0.
        cfg: of the run.

    Raises:
        NonFiniteError: one is not.
    """
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if not bad:
        return
    what = f"iteration {iteration}: {', '.join(bad)} is not finite"
    slices = ", ".join(describe_slice(x) for x in batch)
    path = Path(cfg.OUTPUT_DIR) / f"nonfinite_{iteration:07d}_rank{get_rank()}.json"
    dump = {
        "fault": what,
        "losses": dict(values),
        "slices": [_slice_facts(x) for x in batch],
        "config": cfg.dump(),
    }
    try:
        write_results(dump, path)
        where = f"tools/replay_batch.py {path} makes it again"
    except MrsslError as error:  # the fault matters more than its dump
        where = f"no dump: {error}"
    raise NonFiniteError(f"{what} on {slices} ({where})")


def describe_slice(model_input: Mapping[str, Any]) -> str:
    """Where an input comes from and how it was distorted, in a few words."""
    name = slice_name(model_input)
    applied = [
        f"{step['name']} {step['params'].get('severity', 0):.2f}"
        for record in model_input.get("records", ())
        for step in record["distortions"]
    ]
    return f"{name} ({', '.join(applied)})" if applied else name


def _slice_facts(model_input: Mapping[str, Any]) -> dict[str, Any]:
    image = model_input["image"]
    kept = ("position", "file_name", "series", "slice_index", "image_id", "records")
    facts = {key: model_input[key] for key in kept if key in model_input}
    return facts | {
        "image_is_finite": bool(torch.isfinite(image).all()),
        "image_range": [float(image.min()), float(image.max())],
    }


def replay_batch(
    path: str | Path, *, load: Callable[..., Dataset] = load_dataset
) -> list[dict[str, Any]]:
    """Make the samples of a dumped batch again, bit for bit, from the data and the configuration.

    Args:
        path: of a dump that :func:`check_finite` left.
        load: describes one data set; for names that only an engine knows.

    Returns:
        Samples of the core's mapper, in the batch's order.

    Raises:
        MrsslError: no such dump, or the data are no longer what they were.
    """
    content = read_json(Path(path))
    try:
        cfg = with_new_keys(CfgNode.load_cfg(content["config"]))
        slices = [(entry["position"], entry["file_name"]) for entry in content["slices"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise MrsslError(f"{path}: not a dump of a batch") from error
    stream = RunData(cfg, seed=max(cfg.SEED, 0), load=load).train_stream()
    samples = [stream[position] for position, _ in slices]
    for sample, (position, name) in zip(samples, slices, strict=True):
        if sample["file_name"] != name:
            raise MrsslError(
                f"{path}: the data have changed: position {position} was {name}, "
                f"and is {sample['file_name']}"
            )
    return samples


class SkippedSlices:
    """The slices that could not be read: counted while training, listed at its end.

    Args:
        total: slices of the data set.
        share: of them that may be skipped.
    """

    def __init__(self, total: int, share: float) -> None:
        self.limit = int(share * total)
        self.reasons: dict[str, str] = {}

    def note(self, batch: Sequence[Mapping[str, Any]]) -> None:
        """Take in what was skipped to make a batch.

        Raises:
            MrsslError: more than may be.
        """
        for model_input in batch:
            self.reasons |= dict(model_input.get("skipped", ()))
        if len(self.reasons) > self.limit:
            name, reason = list(self.reasons.items())[-1]
            raise MrsslError(
                f"{len(self.reasons)} slices cannot be read, MRSSL.DATA.MAX_UNREADABLE allows "
                f"{self.limit}; the last is {name}: {reason}"
            )

    def lines(self) -> list[str]:
        """One line a slice that any process skipped; all must ask."""
        everyone: dict[str, str] = {}
        for reasons in gather_objects(self.reasons):
            everyone |= reasons
        return [f"skipped {name}: {reason}" for name, reason in sorted(everyone.items())]


__all__ = [
    "NonFiniteError",
    "SkippedSlices",
    "check_finite",
    "describe_slice",
    "replay_batch",
]
