"""Detectron2's configuration with the node ``MRSSL`` in it."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_cfg
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)

from mrssl.config import ConfigError, add_mrssl_config, check_norms

#: By the keys under ``MODEL`` that choose from them.
_REGISTRIES = {
    "META_ARCHITECTURE": META_ARCH_REGISTRY,
    "BACKBONE.NAME": BACKBONE_REGISTRY,
    "ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
}

#: What Detectron2's tables of ResNets and normalisations hold.
_DEPTHS = (18, 34, 50, 101, 152)
_NORMS = ("", "BN", "SyncBN", "FrozenBN", "GN", "nnSyncBN", "naiveSyncBN", "naiveSyncBN_N", "LN")


def get_cfg() -> CfgNode:
    """Every key of Detectron2 with its defaults, and ``MRSSL``.

    It takes every file that :func:`mrssl.config.get_cfg` takes.
    """
    cfg = detectron2_cfg()
    add_mrssl_config(cfg)
    return cfg


def check_names(cfg: CfgNode) -> None:
    """See that Detectron2 knows what the keys of the model's parts name.

    Raises:
        ConfigError: it does not; else that would show once all data are described.
    """
    for key, registry in _REGISTRIES.items():
        node = cfg.MODEL
        for part in key.split("."):
            node = node[part]
        unused = node == "" or (key == "ROI_MASK_HEAD.NAME" and not cfg.MODEL.MASK_ON)
        if not unused and node not in registry:
            known = ", ".join(sorted(name for name, _ in registry))
            raise ConfigError(f"MODEL.{key} {node!r}: Detectron2 knows {known}")
    if cfg.MODEL.RESNETS.DEPTH not in _DEPTHS:
        known = ", ".join(map(str, _DEPTHS))
        raise ConfigError(f"MODEL.RESNETS.DEPTH {cfg.MODEL.RESNETS.DEPTH}: Detectron2 has {known}")
    check_norms(cfg, _NORMS, engine="Detectron2")
