"""The device that a process of a run computes on."""

from __future__ import annotations

import os

import torch
from fvcore.common.config import CfgNode

from mrssl.config import ConfigError, with_values
from mrssl.errors import one_line


def with_device(cfg: CfgNode) -> CfgNode:
    """``cfg`` with the device that is there: of several GPUs this process's, without any the CPU.

    Raises:
        ConfigError: ``MODEL.DEVICE`` names none, or one that is not there.
    """
    try:
        kind = torch.device(cfg.MODEL.DEVICE).type
    except RuntimeError as error:
        raise ConfigError(
            f"MODEL.DEVICE {cfg.MODEL.DEVICE!r}: no device; 'cuda' and 'cpu' are"
        ) from error
    if kind != "cuda":
        try:
            torch.zeros(1, device=cfg.MODEL.DEVICE)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise ConfigError(
                f"MODEL.DEVICE {cfg.MODEL.DEVICE!r}: is not there ({one_line(error)})"
            ) from error
        return cfg
    if not torch.cuda.is_available():
        cfg = with_values(cfg, {"MODEL.DEVICE": "cpu"})
    elif "LOCAL_RANK" in os.environ:
        cfg = with_values(cfg, {"MODEL.DEVICE": f"cuda:{os.environ['LOCAL_RANK']}"})
    index = torch.device(cfg.MODEL.DEVICE).index
    if index is not None:
        if index >= (count := torch.cuda.device_count()):
            raise ConfigError(f"MODEL.DEVICE {cfg.MODEL.DEVICE!r}: this machine has {count} GPUs")
        torch.cuda.set_device(index)  # memory is asked of, and waited for, the current one
    return cfg


def told_device(cfg: CfgNode) -> str:
    """What a run computes on, for its first lines; and why, where a GPU may have been expected."""
    device = str(cfg.MODEL.DEVICE)
    if device == "cpu" and not torch.cuda.is_available():
        why = "finds no GPU" if torch.version.cuda else "is built without CUDA"
        return f"device: cpu (torch {torch.__version__} {why})"
    return f"device: {device}"


__all__ = ["told_device", "with_device"]
