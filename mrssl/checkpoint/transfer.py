"""Load a checkpoint into a model: what fits, with a report of all that happened; or all of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from mrssl.checkpoint.groups import GROUPS, group_of, groups_to_load
from mrssl.checkpoint.io import CheckpointError, load_checkpoint
from mrssl.checkpoint.names import NAMINGS, Naming, detectron2_name, rename, to_torchvision
from mrssl.checkpoint.provenance import Provenance
from mrssl.errors import MrsslError

# Bookkeeping of BatchNorm that nothing here computes with; files have it or not.
_COUNTER = ".num_batches_tracked"


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor. Names are the model's own; ``str()`` gives a table.

    Attributes:
        names: the naming of the model, "torchvision" or "detectron2".
        loaded: tensors that were copied into the model.
        new: tensors of the model that keep their initialisation: not in the checkpoint, outside
            the scope, or dependent on the classes.
        dropped: tensors of the checkpoint that were not used.
        mismatched: tensors in both and of different shape: (name, the checkpoint's shape, the
            model's shape). They keep their initialisation, and are counted neither as new nor as
            dropped.
        notes: further things worth knowing, one a line.
    """

    names: Naming
    loaded: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, dict[str, int]]:
        """Numbers of tensors: ``{group: {"loaded", "new", "dropped", "mismatched"}}``."""
        kinds = {
            "loaded": self.loaded,
            "new": self.new,
            "dropped": self.dropped,
            "mismatched": [name for name, _, _ in self.mismatched],
        }
        counts = {group: dict.fromkeys(kinds, 0) for group in GROUPS}
        for kind, members in kinds.items():
            for name in members:
                counts[group_of(detectron2_name(name, self.names))][kind] += 1
        return {group: row for group, row in counts.items() if any(row.values())}

    def __str__(self) -> str:
        """A table of numbers of tensors by group, the mismatched shapes and the notes."""
        counts = self.counts()
        rows = [(group, *row.values()) for group, row in counts.items()]
        rows.append(("all", *(sum(column) for column in zip(*(r[1:] for r in rows), strict=True))))
        lines = [tabulate(rows, headers=("group", "loaded", "new", "dropped", "mismatched"))]
        lines += [
            f"mismatched: {name}: {list(there)} in the checkpoint, {list(here)} in the model"
            for name, there, here in self.mismatched
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def load_for_transfer(
    model: nn.Module,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any],
    *,
    scope: str,
    reinit: Sequence[str] = (),
    names: Naming = "detectron2",
    type_names: Sequence[str] | None = None,
    where: str = "the checkpoint",
) -> LoadReport:
    """Copy into ``model`` what ``checkpoint`` has for it within ``scope``.

    The predictors, whose shape depends on the classes, are always new. The distortion types' head
    is loaded only between models that name the same types in the same order.

    Args:
        model: the model, bare or in a ``DistributedDataParallel``; changed in place.
        checkpoint: a file, or what :func:`~mrssl.checkpoint.io.load_checkpoint` returned.
        scope: "backbone", "fpn", "rpn" or "detector"; each contains the one before.
        reinit: groups within the scope that keep the model's initialisation, by the names that
            the report has for them.
        names: the naming of ``model``.
        type_names: the distortion types of ``model``; None if it has none.
        where: what messages call a ``checkpoint`` that is not a file: where it was read from.

    Raises:
        MrsslError: the file cannot be used, the scope or a group is unknown, a tensor to be loaded
            is not finite, or not one tensor fits.
    """
    where, state, provenance = _opened(checkpoint, where)
    groups = groups_to_load(scope, reinit)
    if not type_names or tuple(type_names) != provenance.type_names:
        groups -= {"type_head"}
    source = _in_naming({n: t for n, t in state.items() if group_of(n) in groups}, names, where)
    target = _state_of(model)
    shared = [n for n in target if n in source]
    fitting = [n for n in shared if source[n].shape == target[n].shape]
    if not fitting:
        raise CheckpointError(
            f"{where}: not one of its {len(state)} tensors fits the model within scope {scope!r}"
        )
    _copy(target, source, fitting, where)
    given = [
        name if names == "detectron2" else rename(name, "detectron2") or name for name in state
    ]
    new = tuple(n for n in target if n not in source and not n.endswith(_COUNTER))
    dropped = tuple(n for n in given if n not in shared and not n.endswith(_COUNTER))
    return LoadReport(
        names=names,
        loaded=tuple(fitting),
        new=new,
        dropped=dropped,
        mismatched=tuple(
            (n, tuple(source[n].shape), tuple(target[n].shape)) for n in shared if n not in fitting
        ),
        notes=tuple(_norm_notes(fitting, new, dropped, names)),
    )


def load_strict(
    model: nn.Module,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any],
    *,
    names: Naming = "detectron2",
    where: str = "the checkpoint",
) -> None:
    """Copy ``checkpoint`` into ``model``, which must be the very same model (resume, evaluation).

    Args:
        model: as for :func:`load_for_transfer`.
        checkpoint: as for :func:`load_for_transfer`.
        names: the naming of ``model``.
        where: as for :func:`load_for_transfer`.

    Raises:
        MrsslError: a tensor is missing, too many, or of another shape; the model is unchanged.
    """
    where, state, _ = _opened(checkpoint, where)
    source, target = _in_naming(state, names, where), _state_of(model)
    faults = [f"missing {n}" for n in target if n not in source and not n.endswith(_COUNTER)]
    faults += [f"unknown {n}" for n in source if n not in target and not n.endswith(_COUNTER)]
    shared = [n for n in target if n in source]
    faults += [
        f"{n} is {list(source[n].shape)}, not {list(target[n].shape)}"
        for n in shared
        if source[n].shape != target[n].shape
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CheckpointError(
            f"{where}: is of another model than the configuration's: {', '.join(faults[:3])}{more}"
        )
    _copy(target, source, shared, where)


def _opened(
    checkpoint: str | os.PathLike[str] | Mapping[str, Any], where: str
) -> tuple[str, Mapping[str, Tensor], Provenance]:
    """What to call the checkpoint in messages, its state and its provenance."""
    if not isinstance(checkpoint, Mapping):
        where, checkpoint = os.fspath(checkpoint), load_checkpoint(checkpoint)
    return where, checkpoint["model"], Provenance.from_dict(checkpoint.get("mrssl", {}))


def _in_naming(state: Mapping[str, Tensor], names: Naming, where: str) -> Mapping[str, Tensor]:
    if names not in NAMINGS:
        raise ValueError(f"names={names!r}: one of {NAMINGS} is meant")
    try:
        return to_torchvision(state) if names == "torchvision" else state
    except MrsslError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _state_of(model: nn.Module) -> dict[str, Tensor]:
    """The live tensors of the model inside any parallel wrapper: writing to them sets the model."""
    if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
        model = model.module
    return model.state_dict()


def _copy(
    target: Mapping[str, Tensor], source: Mapping[str, Tensor], names: Sequence[str], where: str
) -> None:
    # Copied one by one and not by Module.load_state_dict: on a partial state without version
    # numbers, the frozen normalisations of both libraries would add or reset statistics.
    for name in names:
        if not torch.isfinite(source[name]).all():
            raise CheckpointError(f"{where}: {name} holds NaN or infinity")
    with torch.no_grad():
        for name in names:
            target[name].copy_(source[name])


def _norm_notes(
    loaded: Sequence[str], new: Sequence[str], dropped: Sequence[str], names: Naming
) -> list[str]:
    """GroupNorm and BatchNorm name their scale and shift alike, and do not mean the same."""
    notes = []
    for tensors, having, lacking in (
        (dropped, "checkpoint", "model"),
        (new, "model", "checkpoint"),
    ):
        statistics = {n.removesuffix("running_var") for n in tensors if n.endswith(".running_var")}
        mixed = [n for n in loaded if n.removesuffix("weight") in statistics]
        groups = dict.fromkeys(group_of(detectron2_name(n, names)) for n in mixed)
        notes += [
            f"{group}: the {having} normalises by running statistics and the {lacking} does not; "
            "scale and shift were loaded all the same"
            for group in groups
        ]
    return notes
