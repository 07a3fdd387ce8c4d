"""Detectron2's configuration with the node ``MRSSL`` in it."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_cfg

from mrssl.config import add_mrssl_config


def get_cfg() -> CfgNode:
    """Every key of Detectron2 with its defaults, and ``MRSSL``.

    It takes every file that :func:`mrssl.config.get_cfg` takes.
    """
    cfg = detectron2_cfg()
    add_mrssl_config(cfg)
    return cfg


def with_device(cfg: CfgNode) -> CfgNode:
    """``cfg`` with ``MODEL.DEVICE`` "cpu" where it asks for CUDA and there is none."""
    if not cfg.MODEL.DEVICE.startswith("cuda") or torch.cuda.is_available():
        return cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    return cfg
