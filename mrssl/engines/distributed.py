"""Several processes as one: what both engines need of ``torch.distributed``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def get_rank() -> int:
    """Rank of this process, 0 where there is only one."""
    return dist.get_rank() if is_distributed() else 0


def get_world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if is_distributed() else 1


def is_main_process() -> bool:
    """Whether this process writes the files."""
    return get_rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """In the block losses are this process's own: others need not do the same at the same time."""
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def mean_count(count: int) -> float:
    """Mean of ``count`` over the processes, at least one over their number; all must ask.

    A loss that each process divides by this, averaged over the processes as the gradients are, is
    the mean over the items of the whole batch, however unevenly they fell (Carion et al. 2020
    normalise by boxes in the same way).
    """
    if is_distributed() and not _ALONE.get():
        total = torch.tensor(float(count), device=_device(), dtype=torch.float64)
        dist.all_reduce(total)
        return max(float(total) / dist.get_world_size(), 1.0 / dist.get_world_size())
    return float(max(count, 1))


def any_process(flag: bool) -> bool:
    """Whether ``flag`` is set on any process; every process must ask."""
    if not is_distributed():
        return flag
    found = torch.tensor(int(flag), device=_device())
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return bool(found)


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def gather_objects(value: Any) -> list[Any]:
    """Every process's ``value``, in the order of the ranks, on every process."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gather_on_main(value: Any) -> list[Any]:
    """Every process's ``value``, in the order of the ranks, on the main process; [] elsewhere."""
    if not is_distributed():
        return [value]
    values: list[Any] | None = [None] * dist.get_world_size() if is_main_process() else None
    dist.gather_object(value, values)
    return values or []


def mean_of_processes(values: Mapping[str, float]) -> dict[str, float]:
    """Mean of each figure over the processes, which all have the same ones in the same order."""
    if not is_distributed():
        return dict(values)
    total = torch.tensor(list(values.values()), device=_device(), dtype=torch.float64)
    dist.all_reduce(total)
    return dict(zip(values, (total / dist.get_world_size()).tolist(), strict=True))


def share_buffers(model: nn.Module) -> None:
    """Give every process the main process's buffers: the running statistics of batch norm.

    Each process gathers its own while training; before an evaluation they must agree, or its
    figures would depend on which process scored which slice.
    """
    if is_distributed():
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def barrier() -> None:
    """Wait until every process has come here."""
    if is_distributed():
        dist.barrier()
