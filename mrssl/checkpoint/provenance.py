"""What a checkpoint says about itself: the input it was trained on, its heads, its data.

Pretrained weights fed with other input statistics than their own are silently worse. So the
statistics travel with the weights, and :func:`input_differences` names those that differ.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrssl.errors import MrsslError
from mrssl.privacy import cover, folder_alias

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

# Of the configuration's MODEL node: what is of the machine or of the run, not of the model.
_NOT_THE_MODEL = frozenset(("WEIGHTS", "DEVICE"))
# Of INPUT: what a program that shows slices to the model has to do alike.
_INPUT = ("FORMAT", "MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST")
# Which key of MRSSL.DATA holds the parameters of each normalisation.
_NORMALIZATION_RANGE = {"percentile": "PERCENTILES", "zscore": "ZSCORE_RANGE", "window": "WINDOW"}
_MAX_DEPTH = 8


@dataclass(frozen=True)
class Provenance:
    """The ``"mrssl"`` entry of a checkpoint. An empty or None field is one that is not known.

    Attributes:
        version: of the ``mrssl`` that wrote the file.
        task: "pretrain" or "finetune".
        pixel_mean: subtracted from the three channels, of input in [0, 255].
        pixel_std: then divided by, of the same unit.
        input_format: ``INPUT.FORMAT``.
        normalization: how intensities were mapped to [0, 1]: "percentile", "zscore" or "window".
        normalization_range: the parameters of that, as in ``MRSSL.DATA``.
        neighbor_step: distance of the slices in the outer channels from the middle one, in slices.
        slice_axis: ``MRSSL.DATA.SLICE_AXIS``.
        planes: in which the training slices lie, of "sagittal", "coronal" and "axial".
        type_names: distortion types, in the order of the type logits.
        class_names: classes, in the order of the class logits.
        class_values: label value, or values, of each class.
        roi_heads: ``MODEL.ROI_HEADS.NAME``.
        backbone_depth: layers of the ResNet.
        backbone_norm: ``MODEL.RESNETS.NORM``.
        data: names of the training data sets, without their folders; a folder of scans that no
            ``dataset.json`` names goes by an alias, since it might bear a patient's name.
        intensities: between which raw intensities they lie, see
            :func:`mrssl.data.statistics.intensity_summary`.
        class_layout: where the classes lie to each other, see
            :meth:`mrssl.structures.ClassLayout.to_dict`.
        iteration: optimiser steps taken.
        model_config: the ``MODEL`` node, sizes and format of ``INPUT`` and
            ``TEST.DETECTIONS_PER_IMAGE`` as plain types, with stock Detectron2's keys;
            :mod:`mrssl.checkpoint.export` writes it beside an export.
    """

    version: str = ""
    task: str = ""
    pixel_mean: tuple[float, ...] = ()
    pixel_std: tuple[float, ...] = ()
    input_format: str = ""
    normalization: str = ""
    normalization_range: tuple[float, ...] = ()
    neighbor_step: int | None = None
    slice_axis: str = ""
    planes: tuple[str, ...] = ()
    type_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    class_values: tuple[int | tuple[int, ...], ...] = ()
    roi_heads: str = ""
    backbone_depth: int | None = None
    backbone_norm: str = ""
    data: tuple[str, ...] = ()
    intensities: dict[str, Any] = field(default_factory=dict)
    class_layout: dict[str, Any] = field(default_factory=dict)
    iteration: int | None = None
    model_config: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_config(
        cls,
        cfg: CfgNode,
        *,
        task: str,
        class_names: Sequence[str],
        class_values: Sequence[int | tuple[int, ...]] = (),
        type_names: Sequence[str] = (),
        intensities: Mapping[str, Any] | None = None,
        class_layout: Mapping[str, Any] | None = None,
        marks: Set[str] = frozenset(),
        planes: Sequence[str] = (),
        iteration: int | None = None,
    ) -> Provenance:
        """The provenance of a model built from ``cfg`` (either engine's, ``MRSSL`` included).

        Of the data's names, what the ``marks`` of their patients recognise is covered.

        Raises:
            MrsslError: a checkpoint that says this of itself could not be read; the message names
                the field.
        """
        import mrssl

        made = cls(
            version=mrssl.__version__,
            task=task,
            **_input_statistics(cfg),
            type_names=tuple(type_names),
            class_names=tuple(class_names),
            class_values=tuple(class_values),
            roi_heads=cfg.MODEL.ROI_HEADS.NAME,
            backbone_depth=cfg.MODEL.RESNETS.DEPTH,
            backbone_norm=cfg.MODEL.RESNETS.NORM,
            data=tuple(_printable(cover(_data_name(n), marks)) for n in cfg.DATASETS.TRAIN),
            intensities=_plain(intensities or {}),
            class_layout=_plain(class_layout or {}),
            planes=tuple(planes),
            iteration=iteration,
            model_config={
                "MODEL": _plain(
                    {key: cfg.MODEL[key] for key in cfg.MODEL if key not in _NOT_THE_MODEL}
                ),
                "INPUT": _plain({key: cfg.INPUT[key] for key in _INPUT}),
                "TEST": {"DETECTIONS_PER_IMAGE": cfg.TEST.DETECTIONS_PER_IMAGE},
            },
        )
        return cls.from_dict(made.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain types only (lists, not tuples), fit for a checkpoint and for JSON."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    @classmethod
    def from_dict(cls, entries: object) -> Provenance:
        """The inverse of :meth:`to_dict`, for an entry of a file that is not to be trusted.

        Fields that are absent stay unknown; fields that this version does not know are ignored.

        Raises:
            MrsslError: an entry has another type than its field, or the values are of other classes
                than the names; the message names it.
        """
        if not isinstance(entries, Mapping):
            raise MrsslError(f"its provenance is a {type(entries).__name__}, not a dictionary")
        known: dict[str, Any] = {
            name: check(f"provenance field {name}", entries[name])
            for name, check in _CHECKS.items()
            if name in entries
        }
        if known.get("class_values") and len(known["class_values"]) != len(
            known.get("class_names", ())
        ):
            raise MrsslError("provenance field class_values: as many as class_names are meant")
        return cls(**known)


def input_differences(provenance: Provenance, cfg: CfgNode) -> list[str]:
    """Name each input statistic in which ``cfg`` differs from what a checkpoint was trained with.

    Args:
        provenance: the checkpoint's.
        cfg: the configuration of the coming run; a stock Detectron2 one, without ``MRSSL``, is
            compared as far as it goes.

    Returns:
        One line a difference, with the configuration's key and both values; empty if all that is
        known agrees.
    """
    lines = []
    for name, here in _input_statistics(cfg).items():
        there = getattr(provenance, name)
        if there in ("", (), None) or _agree(there, here):
            continue
        key = _KEYS[name]
        if name == "normalization_range":
            key = f"MRSSL.DATA.{_NORMALIZATION_RANGE[cfg.MRSSL.DATA.NORMALIZATION]}"
        lines.append(f"{key}: {_TRAINED_WITH} {there}, now it is {here}")
    trained = provenance.model_config.get("INPUT")
    for key in _TEST_SIZES:
        there, here = trained.get(key) if isinstance(trained, dict) else None, cfg.INPUT[key]
        if there not in (None, here):
            lines.append(f"INPUT.{key}: {_TRAINED_WITH} {there}, now it is {here}")
    return lines


_KEYS = {
    "pixel_mean": "MODEL.PIXEL_MEAN",
    "pixel_std": "MODEL.PIXEL_STD",
    "input_format": "INPUT.FORMAT",
    "normalization": "MRSSL.DATA.NORMALIZATION",
    "normalization_range": "MRSSL.DATA",  # the key there depends on the normalisation
    "neighbor_step": "MRSSL.DATA.NEIGHBOR_STEP",
    "slice_axis": "MRSSL.DATA.SLICE_AXIS",
}
_TEST_SIZES = ("MIN_SIZE_TEST", "MAX_SIZE_TEST")
_TRAINED_WITH = "the checkpoint was trained with"


def _input_statistics(cfg: CfgNode) -> dict[str, Any]:
    """The fields of :class:`Provenance` that describe the input, as far as ``cfg`` has them."""
    statistics: dict[str, Any] = {
        "pixel_mean": tuple(float(x) for x in cfg.MODEL.PIXEL_MEAN),
        "pixel_std": tuple(float(x) for x in cfg.MODEL.PIXEL_STD),
        "input_format": cfg.INPUT.FORMAT,
    }
    if "MRSSL" in cfg:
        data = cfg.MRSSL.DATA
        statistics["normalization"] = data.NORMALIZATION
        if key := _NORMALIZATION_RANGE.get(data.NORMALIZATION):
            statistics["normalization_range"] = tuple(float(x) for x in data[key])
        statistics["neighbor_step"] = data.NEIGHBOR_STEP
        statistics["slice_axis"] = data.SLICE_AXIS
    return statistics


def _agree(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return len(a) == len(b) and all(
            math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for x, y in zip(a, b, strict=True)
        )
    return bool(a == b)


def _data_name(name: str) -> str:
    """A data set's name without the folders above it, which are of the machine and its user."""
    parts = Path(name).parts
    described = bool(parts) and parts[-1].startswith("dataset.json")  # says nothing by itself
    # os.path: a name that lists a hundred subjects is longer than any file's, a fault to pathlib.
    if (
        not described
        and os.path.isdir(name)
        and not os.path.isfile(os.path.join(name, "dataset.json"))
    ):
        return folder_alias(name)
    return "/".join(parts[-2:] if described else parts[-1:])


def _printable(text: str) -> str:
    """``text`` with a question mark for what no terminal shows, as of a name in another coding."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


# -- checks of what a file claims ------------------------------------------------------------------


def _text(where: str, value: object) -> str:
    # printable: the text goes to terminals and into logs
    if not isinstance(value, str) or not value.isprintable():
        raise MrsslError(f"{where}: a line of text is meant, not {type(value).__name__}")
    return value


def _whole(where: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise MrsslError(f"{where}: a whole number is meant, not {type(value).__name__}")
    return value


def _count(where: str, value: object) -> int | None:
    return None if value is None else _whole(where, value)


def _number(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise MrsslError(f"{where}: finite numbers are meant")
    return float(value)


def _items(where: str, value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise MrsslError(f"{where}: a list is meant, not {type(value).__name__}")
    return value


def _texts(where: str, value: object) -> tuple[str, ...]:
    return tuple(_text(where, item) for item in _items(where, value))


def _numbers(where: str, value: object) -> tuple[float, ...]:
    return tuple(_number(where, item) for item in _items(where, value))


def _label_values(where: str, value: object) -> tuple[int | tuple[int, ...], ...]:
    return tuple(
        tuple(_whole(where, label) for label in item)
        if isinstance(item, list | tuple)
        else _whole(where, item)
        for item in _items(where, value)
    )


def _config(where: str, value: object, depth: int = 0) -> Any:
    """Nested dictionaries and lists of texts and numbers, not deeper than a configuration is."""
    if depth > _MAX_DEPTH:
        raise MrsslError(f"{where}: nested too deep")
    if isinstance(value, Mapping):
        return {_text(where, key): _config(where, item, depth + 1) for key, item in value.items()}
    if depth == 0:
        raise MrsslError(f"{where}: a dictionary is meant, not {type(value).__name__}")
    if isinstance(value, list | tuple):
        return [_config(where, item, depth + 1) for item in value]
    if isinstance(value, str):
        return _text(where, value)
    if value is None or isinstance(value, bool):
        return value
    return value if isinstance(value, int) else _number(where, value)


_CHECKS = {
    "version": _text,
    "task": _text,
    "pixel_mean": _numbers,
    "pixel_std": _numbers,
    "input_format": _text,
    "normalization": _text,
    "normalization_range": _numbers,
    "neighbor_step": _count,
    "slice_axis": _text,
    "planes": _texts,
    "type_names": _texts,
    "class_names": _texts,
    "class_values": _label_values,
    "roi_heads": _text,
    "backbone_depth": _count,
    "backbone_norm": _text,
    "data": _texts,
    "intensities": _config,
    "class_layout": _config,
    "iteration": _count,
    "model_config": _config,
}
