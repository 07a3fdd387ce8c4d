"""Detectron2's configuration with the node ``MRSSL`` in it."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.config import get_cfg as detectron2_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
)

from mrssl.config import (
    ConfigError,
    add_mrssl_config,
    check_empty_slices,
    check_fixed,
    check_norms,
)
from mrssl.config_values import value_of
from mrssl.engines.pyramid import check_pyramid
from mrssl.errors import MrsslError

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

#: What training and evaluation do in place of what these keys say.
_FIXED_ALWAYS = {
    "MODEL.KEYPOINT_ON": False,
    "MODEL.LOAD_PROPOSALS": False,
    "TEST.AUG.ENABLED": False,
    "TEST.EXPECTED_RESULTS": [],
}

#: And training alone.
_FIXED = {
    "SOLVER.NESTEROV": False,
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.RESCALE_INTERVAL": False,
    "TEST.PRECISE_BN.ENABLED": False,
    "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
}

#: What ``DefaultTrainer`` calls and ``MRITrainer`` does not.
_FACTORIES = (
    "build_model",
    "build_optimizer",
    "build_lr_scheduler",
    "build_train_loader",
    "build_test_loader",
    "build_evaluator",
)


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
        node = value_of(cfg.MODEL, key)
        unused = node == "" or (key == "ROI_MASK_HEAD.NAME" and not cfg.MODEL.MASK_ON)
        if not unused and node not in registry:
            known = ", ".join(sorted(name for name, _ in registry))
            raise ConfigError(f"MODEL.{key} {node!r}: Detectron2 knows {known}")
    if cfg.MODEL.RESNETS.DEPTH not in _DEPTHS:
        known = ", ".join(map(str, _DEPTHS))
        raise ConfigError(f"MODEL.RESNETS.DEPTH {cfg.MODEL.RESNETS.DEPTH}: Detectron2 has {known}")
    check_pyramid(cfg)
    check_norms(cfg, _NORMS, engine="Detectron2")


def check_heeded(cfg: CfgNode, *, training: bool = True) -> None:
    """See that no key asks of the trainer what it does not do.

    ``DATALOADER.ASPECT_RATIO_GROUPING`` is not heeded either way: it tells no training from another
    but by its batches.

    Args:
        cfg: the configuration.
        training: False to look at what evaluation heeds only.

    Raises:
        ConfigError: one does; the line names it.
    """
    check_fixed(cfg, _FIXED_ALWAYS, engine="MRITrainer")
    if not training:
        return
    check_fixed(cfg, _FIXED, engine="MRITrainer")
    solver = cfg.SOLVER
    if solver.WEIGHT_DECAY_BIAS not in (None, solver.WEIGHT_DECAY):
        raise ConfigError(
            f"SOLVER.WEIGHT_DECAY_BIAS {solver.WEIGHT_DECAY_BIAS}: MRITrainer decays biases by "
            "SOLVER.WEIGHT_DECAY"
        )
    check_empty_slices(cfg)


def check_factories(trainer: type) -> None:
    """See that a subclass of ``MRITrainer`` overrides none of the factories that are never called.

    Args:
        trainer: the class.

    Raises:
        MrsslError: it does; the line names it.
    """
    for name in _FACTORIES:
        owner = next(base for base in trainer.__mro__ if name in vars(base))
        if owner is not DefaultTrainer:
            raise MrsslError(
                f"{owner.__name__}.{name}: MRITrainer does not call it; derive from Detectron2's "
                "DefaultTrainer and plug in the parts instead"
            )
