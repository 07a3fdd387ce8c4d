"""Memory of a loader worker that makes distorted slices, and whether it grows with their number."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark_steps import make_mapper
from mrssl.data.loader import PositionSampler, SampleStream, build_loader

_ROLLUP = Path("/proc/self/smaps_rollup")
_FIELDS = ("Rss", "Private_Clean", "Private_Dirty")


def memory_of_this_process(samples: Any = None) -> dict[str, float]:
    """``resident`` and ``private`` memory in MiB; a collate function, to be called in a worker.

    Resident memory counts the libraries' pages and what a forked worker shares with its parent;
    private memory is what the worker itself costs.
    """
    lines = (line.split() for line in _ROLLUP.read_text(encoding="ascii").splitlines()[1:])
    kib = {name.rstrip(":"): int(value) for name, value, *_ in lines}
    rss, *private = (kib[field] / 1024 for field in _FIELDS)
    return {"resident": rss, "private": sum(private)}


def worker_memory(cfg: Any, *, size: int = 256, samples: int = 6000) -> dict[str, float] | None:
    """Let one worker make samples of the pretext, and watch its memory.

    Args:
        cfg: a configuration of the pretext.
        size: side of the slices in pixels.
        samples: made by the worker.

    Returns:
        ``resident_mib`` and ``private_mib`` at the end, and ``growth_mib``: resident memory at the
        end less that after a third of the samples (private memory grows without any allocation,
        as pages shared with the parent are written to). None where the system does not tell.
    """
    if not _ROLLUP.exists():
        return None
    mapper, records = make_mapper(cfg, size)
    mapper.min_sizes = (0,)
    batch = 10
    loader = build_loader(
        SampleStream(records, mapper, seed=0, batch_size=batch),
        batch_size=batch,
        sampler=PositionSampler(batch),
        num_workers=1,
        collate=memory_of_this_process,
    )
    seen = []
    for _, memory in zip(range(max(samples // batch, 3)), loader, strict=False):
        seen.append(memory)
    settled, last = seen[len(seen) // 3], seen[-1]
    return {
        "samples": len(seen) * batch,
        "resident_mib": last["resident"],
        "private_mib": last["private"],
        "growth_mib": last["resident"] - settled["resident"],
    }
