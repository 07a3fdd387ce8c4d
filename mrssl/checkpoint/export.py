"""Turn a checkpoint into one that a stock Detectron2 or torchvision program loads by itself.

The pretext's heads, the optimiser and all other state of training are left out; the provenance
stays. Beside an export for Detectron2 goes a configuration with stock keys only, which builds the
matching model in a program that does not know ``mrssl``.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from tabulate import tabulate
from torch import Tensor

from mrssl.checkpoint.groups import (
    GROUPS,
    PREDICTORS,
    by_group,
    group_of,
    groups_of_scope,
)
from mrssl.checkpoint.io import CheckpointError, load_checkpoint, save_checkpoint
from mrssl.checkpoint.names import NAMINGS, Naming, is_stock, to_torchvision
from mrssl.checkpoint.provenance import Provenance
from mrssl.config import DISTORTION_ROI_HEADS
from mrssl.errors import MrsslError
from mrssl.files import write_text

_COUNTER = ".num_batches_tracked"
_SUFFIXES = (".pth", ".pt")  # Detectron2 reads others (.pkl, .pyth) by other means
# What stands in stock Detectron2 for heads that it does not know.
_STOCK_NAMES = {"ROI_HEADS": "StandardROIHeads", "ROI_MASK_HEAD": "MaskRCNNConvUpsampleHead"}
# ROI heads whose weights fit there. Others, Cascade R-CNN's say, have parts of other names.
_ROI_HEADS = ("StandardROIHeads", DISTORTION_ROI_HEADS)
# Parts of which stock Detectron2 builds whatever the configuration says.
_DETECTRON2S = frozenset(GROUPS[: GROUPS.index("mask_head") + 1])


@dataclass(frozen=True)
class ExportReport:
    """What an export holds and what it leaves out; ``str()`` gives a table.

    Attributes:
        output: the file written.
        config: the configuration written beside it, or None.
        to: the naming of the file.
        kept: names of tensors in the file, by group, in Detectron2's naming.
        dropped: names of tensors left out, likewise.
        notes: further things worth knowing, one a line.
    """

    output: Path
    config: Path | None
    to: Naming
    kept: dict[str, list[str]]
    dropped: dict[str, list[str]]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        """A table of numbers of tensors by group, the notes, and the files written."""
        rows = [
            (group, len(self.kept.get(group, ())), len(self.dropped.get(group, ())))
            for group in GROUPS
            if group in self.kept or group in self.dropped
        ]
        rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
        lines = [tabulate(rows, headers=("group", "kept", "dropped"))]
        lines += [f"note: {note}" for note in self.notes]
        lines.append(f"wrote {self.output} (names of {self.to})")
        if self.config is not None:
            lines.append(f"wrote {self.config} (builds the model in stock Detectron2)")
        return "\n".join(lines)


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    to: Naming,
    scope: str = "detector",
    predictors: bool = True,
    allow_pickle: bool = False,
) -> ExportReport:
    """Export ``checkpoint`` to ``output``, read it back and compare it bit for bit.

    The file is ``{"model": tensors in the naming asked for, "mrssl": provenance}``. A backbone in
    torchvision's naming loads into ``torchvision.models.resnet18`` and its kin once
    ``backbone.body.`` is cut off the names.

    Args:
        checkpoint: a file that :func:`~mrssl.checkpoint.io.load_checkpoint` reads.
        output: the file to write, ending in ``.pth`` or ``.pt``.
        to: "detectron2" or "torchvision".
        scope: "backbone", "fpn", "rpn" or "detector"; each contains the one before.
        predictors: keep what predicts per class; without them a program with other classes loads
            the file without a mismatch.
        allow_pickle: as for :func:`~mrssl.checkpoint.io.load_checkpoint`; unsafe.

    Raises:
        MrsslError: a file cannot be read or written, nothing of the scope is in it, or it is to go
            to Detectron2 and is of a model whose configuration cannot be written.
    """
    source, output = Path(checkpoint), Path(output)
    if to not in NAMINGS:
        raise MrsslError(f"to {to!r}: one of {', '.join(get_args(Naming))} is meant")
    if output.suffix not in _SUFFIXES:
        raise CheckpointError(f"{output}: the name must end in {' or '.join(_SUFFIXES)}")
    loaded = load_checkpoint(source, allow_pickle=allow_pickle)
    if output.exists() and output.samefile(source):
        raise CheckpointError(f"{output}: is the checkpoint itself; export to another file")
    provenance = Provenance.from_dict(loaded.get("mrssl", {}))
    kept, notes = _select(loaded["model"], scope, predictors, to)
    if to == "torchvision" and _strides_in_1x1(provenance):
        notes.append("the bottlenecks stride in their 1x1 convolution, torchvision's in the 3x3")
    if not kept:
        raise CheckpointError(f"{source}: nothing in it belongs to scope {scope!r}")

    try:
        state = to_torchvision(kept) if to == "torchvision" else kept
        stock = stock_config(provenance) if to == "detectron2" else None
    except MrsslError as error:
        raise CheckpointError(f"{source}: {error}") from error
    exported: dict[str, Any] = {"model": state}
    if "mrssl" in loaded:
        exported["mrssl"] = provenance.to_dict()
    save_checkpoint(output, exported, verify=True)
    config = _write_config(output, stock) if stock is not None else None
    dropped = [n for n in loaded["model"] if n not in kept and not n.endswith(_COUNTER)]
    return ExportReport(output, config, to, by_group(kept), by_group(dropped), tuple(notes))


def _select(
    state: dict[str, Tensor], scope: str, predictors: bool, to: Naming
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of ``scope`` that the stock model has, and remarks about those it has not.

    Detectron2's has all that the configuration beside the export builds: convolutions in the box
    head, say, for which torchvision has no name.
    """
    groups = set(groups_of_scope(scope))
    notes = []
    if any(group_of(n) == "mask_head" and not is_stock(n) for n in state):
        # what it shares with the stock head by name, it does not share by shape
        groups -= {"mask_head", "mask_predictor"}
        notes.append("the mask head is not the stock one and was dropped: it will be new")
    if not predictors:
        groups -= PREDICTORS
    kept = {
        # The counters would be unknown to a frozen normalisation, and no other needs them.
        n: tensor
        for n, tensor in state.items()
        if group_of(n) in groups
        and (is_stock(n) or (to == "detectron2" and group_of(n) in _DETECTRON2S))
        and not n.endswith(_COUNTER)
    }
    return kept, notes


def _strides_in_1x1(provenance: Provenance) -> bool:
    model = provenance.model_config.get("MODEL")
    resnets = model.get("RESNETS") if isinstance(model, dict) else None
    if not isinstance(resnets, dict) or (provenance.backbone_depth or 0) < 50:
        return False
    return bool(resnets.get("STRIDE_IN_1X1", False))


def stock_config(provenance: Provenance) -> dict[str, Any] | None:
    """A configuration that stock Detectron2 builds the model from.

    Args:
        provenance: of the checkpoint.

    Returns:
        Plain types; None if no configuration is recorded.

    Raises:
        CheckpointError: of ROI heads that ``StandardROIHeads`` cannot stand in for.
    """
    if not isinstance(provenance.model_config.get("MODEL"), dict):
        return None
    heads = provenance.model_config["MODEL"].get("ROI_HEADS")
    name = heads.get("NAME", _ROI_HEADS[0]) if isinstance(heads, dict) else _ROI_HEADS[0]
    if name not in _ROI_HEADS:
        known = " and ".join(map(repr, _ROI_HEADS))
        raise CheckpointError(f"MODEL.ROI_HEADS.NAME {name!r}: only {known} can be exported")
    # Of a file from outside nothing else: a `_BASE_` would be followed by whoever reads it.
    nodes = {k: v for k, v in provenance.model_config.items() if k in ("MODEL", "INPUT", "TEST")}
    config = {"VERSION": 2, **copy.deepcopy(nodes)}
    for node, stock in _STOCK_NAMES.items():
        if isinstance(config["MODEL"].get(node), dict):
            config["MODEL"][node]["NAME"] = stock
            if config["MODEL"][node].get("POOLER_TYPE") == "":  # of a head that pools by itself
                config["MODEL"][node]["POOLER_TYPE"] = "ROIAlignV2"
    return config


def _write_config(output: Path, config: dict[str, Any]) -> Path:
    path = output.with_suffix(".yaml")
    text = (
        "# Stock Detectron2's configuration of the model in the checkpoint beside this file:\n"
        f"# set MODEL.WEIGHTS to the path of {output.name}.\n"
        + yaml.safe_dump(config, sort_keys=False, default_flow_style=None)
    )
    write_text(path, text)
    return path
