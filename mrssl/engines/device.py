"""The device that a process of a run computes on."""

from __future__ import annotations

import os

import torch
from fvcore.common.config import CfgNode

from mrssl.config import ConfigError, with_values


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


__all__ = ["with_device"]
