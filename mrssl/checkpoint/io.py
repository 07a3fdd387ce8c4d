"""Checkpoint files: tensors and plain types only, written whole or not at all, read without code.

A file is a dictionary: ``"model"`` holds tensors by Detectron2's names, ``"mrssl"`` the
:class:`~mrssl.checkpoint.provenance.Provenance` as plain types, and whatever else training needs
to resume (``"optimizer"``, ``"scheduler"``, ``"iteration"``, ...). Stock Detectron2 and torchvision
programs read ``"model"`` and ignore the rest.
"""

from __future__ import annotations

import errno
import os
import pickle
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrssl.checkpoint.names import to_detectron2
from mrssl.checkpoint.provenance import Provenance
from mrssl.errors import MrsslError, one_line
from mrssl.files import replacing

# Exact types: a subclass such as numpy.float64 would be pickled by reference to its own class.
_SCALARS = (type(None), bool, int, float, str, bytes)
_MAPPINGS = (dict, OrderedDict, Counter)  # schedulers of torch keep their milestones in a Counter
_ARCHIVE_MAGIC = b"PK\x03\x04"


class CheckpointError(MrsslError):
    """A checkpoint file that cannot be read, written or understood; the message names it."""


# -- writing --------------------------------------------------------------------------------------


def save_checkpoint(
    path: str | os.PathLike[str], checkpoint: Mapping[str, Any], *, verify: bool = False
) -> None:
    """Write ``checkpoint`` to ``path``, atomically.

    Args:
        path: the file; its folder is made if absent.
        checkpoint: tensors and plain types (None, bool, int, float, str, bytes, lists, tuples,
            dictionaries) in any nesting. Numpy scalars become Python's.
        verify: read the file back, before it takes its name, and compare it bit for bit.

    Raises:
        TypeError: something else is in it; the message says where. Nothing is written.
        CheckpointError: the file cannot be written, or does not read back as it was.
    """
    plain = {key: _plain(value, str(key)) for key, value in checkpoint.items()}
    try:
        with replacing(path) as file:
            torch.save(plain, file)
            if verify:
                file.flush()
                written = torch.load(file.name, map_location="cpu", weights_only=True)
                if not same_content(written, plain):
                    raise CheckpointError(f"{path}: does not read back as it was written")
    except RuntimeError as error:  # what torch's archive writer makes of a full disk, say
        fault = _system_error(error)
        if fault is None:  # a loader's worker has died, say: that can be raised anywhere
            raise
        raise CheckpointError(f"{path}: cannot be written ({fault.strerror or fault})") from error
    except MrsslError as error:
        raise CheckpointError(str(error)) from error


def _system_error(error: BaseException | None) -> OSError | None:
    """What the system said, while ``error`` came about."""
    while error is not None and not isinstance(error, OSError):
        error = error.__context__
    return error


def _plain(value: Any, where: str) -> Any:
    """``value`` without anything that only code could rebuild."""
    if type(value) in _SCALARS:
        return value
    if isinstance(value, np.generic):
        return _plain(value.item(), where)
    if isinstance(value, Tensor):
        detached = value.detach()
        if type(detached) is Tensor:
            return detached
    elif type(value) in _MAPPINGS:
        # type(value)() rather than a dictionary: torch's own loaders call a Counter's methods
        plain = type(value)()
        for key, item in value.items():
            plain[_plain(key, where)] = _plain(item, f"{where}.{key}")
        return plain
    elif type(value) in (list, tuple, torch.Size):
        items = [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
        return items if type(value) is list else tuple(items)
    raise TypeError(
        f"checkpoint entry {where} is a {type(value).__module__}.{type(value).__qualname__}; "
        "only tensors and plain types can be saved"
    )


def same_content(a: Any, b: Any) -> bool:
    """Whether two checkpoints, or parts of them, are equal in every bit (a NaN equals itself)."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(_bytes(a), _bytes(b))
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(same_content(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(same_content(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and (a == b or a != a)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


# -- reading --------------------------------------------------------------------------------------


def load_checkpoint(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> dict[str, Any]:
    """Read a checkpoint of this package, of stock Detectron2 or of torchvision, to the CPU.

    A bare state dictionary is taken as ``{"model": state}``. The naming is told by the names
    themselves; a torchvision ResNet alone (as for ImageNet) becomes a backbone, its classifier is
    left out. Nothing in the file is executed, unless ``allow_pickle`` says so.

    Args:
        path: the file.
        allow_pickle: read a Detectron2 ``.pkl`` too. UNSAFE: a pickle can run any program while it
            is read. For files from a source that you would run a program from.

    Returns:
        The file's dictionary, ``"model"`` in Detectron2's names; ``"mrssl"``, if present, is
        known to be a valid provenance.

    Raises:
        CheckpointError: the file is missing, truncated, not a checkpoint, holds code, or its
            names are of neither naming.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    loaded = _unpickle(path, allow=allow_pickle) if path.suffix == ".pkl" else _load(path)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a state dictionary")
    if not isinstance(loaded.get("model"), dict):
        loaded = {"model": loaded}
    try:
        loaded["model"] = _canonical(_checked(loaded["model"]))
        if "mrssl" in loaded:
            Provenance.from_dict(loaded["mrssl"])
    except MrsslError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return loaded


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes torch and pickle raise nearly anything
        raise CheckpointError(f"{path}: {_fault(path, error)}") from error


def _fault(path: Path, error: Exception) -> str:
    """What is wrong with a file that torch does not load."""
    # EINVAL: torch looked for the end of an archive before the start of a cut file
    if isinstance(error, OSError) and error.errno != errno.EINVAL:
        return f"cannot be read ({error.strerror or error})"
    if isinstance(error, pickle.UnpicklingError) and "global" in str(error).lower():
        return (
            "refused: holds Python objects that would run code when read; "
            "only tensors and plain types are read"
        )
    with open(path, "rb") as file:
        magic = file.read(len(_ARCHIVE_MAGIC))
    if magic != _ARCHIVE_MAGIC:
        return "not a PyTorch checkpoint"
    return "a damaged checkpoint" if zipfile.is_zipfile(path) else "a truncated checkpoint"


def _unpickle(path: Path, *, allow: bool) -> Any:
    if not allow:
        raise CheckpointError(
            f"{path}: a pickle can run code when it is read; allow it explicitly "
            "(allow_pickle) only if you trust where it comes from"
        )
    try:
        with open(path, "rb") as file:
            loaded = pickle.load(file, encoding="latin1")
    except Exception as error:
        raise CheckpointError(f"{path}: not a readable pickle ({one_line(error)})") from error
    if isinstance(loaded, dict) and isinstance(loaded.get("model"), dict):
        loaded["model"] = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
            for name, value in loaded["model"].items()
        }
    return loaded


def _checked(state: dict[Any, Any]) -> dict[str, Tensor]:
    """A state of ordinary tensors by printable names, without the prefix of a parallel wrapper."""
    if not state:
        raise CheckpointError("holds no tensors")
    for name, tensor in state.items():
        if not (isinstance(name, str) and name.isprintable()):
            raise CheckpointError(f"the state holds an entry that is not a name: {name!a}")
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{name} is a {type(tensor).__name__}, not a tensor")
        # a view with stride 0 can claim more elements than any memory holds
        if (
            tensor.layout is not torch.strided
            or tensor.is_quantized
            or tensor.is_complex()
            or tensor.device.type != "cpu"
            or tensor.nbytes > tensor.untyped_storage().nbytes()
        ):
            raise CheckpointError(f"{name} is not an ordinary dense tensor")
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)


# -- which naming ---------------------------------------------------------------------------------

_DETECTRON2 = ("backbone.bottom_up.", "backbone.fpn_", "proposal_generator.")
_TORCHVISION = ("backbone.body.", "backbone.fpn.", "rpn.head.", "roi_heads.mask_predictor.")
# What stands in old files and in no model's state today.
_OBSOLETE = ("proposal_generator.anchor_generator.cell_anchors.", "pixel_mean", "pixel_std")


def _canonical(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` in Detectron2's names, from either naming or from a bare ResNet of either."""
    if "layer1.0.conv1.weight" in state:
        state = {
            f"backbone.body.{name}": tensor
            for name, tensor in state.items()
            if not name.startswith("fc.")
        }
    elif "res2.0.conv1.weight" in state:
        state = {f"backbone.bottom_up.{name}": tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not name.startswith(_OBSOLETE)}
    detectron2 = any(name.startswith(_DETECTRON2) for name in state)
    torchvision = any(name.startswith(_TORCHVISION) for name in state)
    if detectron2 == torchvision:
        which = "both" if detectron2 else "neither"
        raise CheckpointError(
            f"its names are {which} Detectron2's and torchvision's Mask R-CNN on a ResNet-FPN "
            f"(the first is {next(iter(state), None)!a})"
        )
    return to_detectron2(state) if torchvision else state
