"""Optimiser and learning-rate schedule from Detectron2's ``SOLVER`` keys, for both engines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from torch import nn

from mrssl.checkpoint import CheckpointError
from mrssl.checkpoint.groups import TOP, height_of
from mrssl.checkpoint.names import detectron2_name
from mrssl.errors import MrsslError

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def build_optimizer(
    cfg: CfgNode, model: nn.Module, transferred: Collection[str] = ()
) -> torch.optim.Optimizer:
    """SGD (as Detectron2) or AdamW over the parameters that need gradients.

    Norm layers get ``SOLVER.WEIGHT_DECAY_NORM``, parameters named in ``transferred`` a learning
    rate of ``MRSSL.TRANSFER.LR_FACTOR`` times the base, and ``MRSSL.TRANSFER.LAYER_DECAY`` times
    that for each stage below the heads (as Bao et al., BEiT, 2022).

    Args:
        cfg: the configuration.
        model: its parameters' names are compared with ``transferred``.
        transferred: names of the parameters that were loaded from a pretrained checkpoint.

    Raises:
        MrsslError: an optimiser of another name.
    """
    node, transfer = cfg.SOLVER, cfg.MRSSL.TRANSFER
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False):
            if not parameter.requires_grad:
                continue
            decay = node.WEIGHT_DECAY_NORM if isinstance(module, _NORMS) else node.WEIGHT_DECAY
            factor = 1.0
            if name in transferred:
                below = TOP - height_of(detectron2_name(name, "torchvision"))
                factor = transfer.LR_FACTOR * transfer.LAYER_DECAY**below
            groups.setdefault((decay, factor), []).append(parameter)
    params = [
        {"params": group, "weight_decay": decay, "lr": node.BASE_LR * factor}
        for (decay, factor), group in groups.items()
    ]
    kind = cfg.MRSSL.SOLVER.OPTIMIZER
    if kind == "SGD":
        return torch.optim.SGD(params, lr=node.BASE_LR, momentum=node.MOMENTUM)
    if kind == "ADAMW":
        return torch.optim.AdamW(params, lr=node.BASE_LR, fused=True)  # a twentieth of a step less
    raise MrsslError(f"MRSSL.SOLVER.OPTIMIZER {kind!r}: known are 'SGD' and 'ADAMW'")


def check_resumable(
    optimizer: torch.optim.Optimizer, saved: Mapping[str, Any], *, where: str
) -> None:
    """See that an optimiser's state is that of one like ``optimizer``, before it is loaded.

    Loading takes the rates of the saved state, whatever the configuration says. See first that the
    model is the same (:func:`mrssl.checkpoint.load_strict`): that of another has other parameters.

    Args:
        optimizer: of the configuration.
        saved: its ``state_dict()`` as a checkpoint has it.
        where: what messages call the checkpoint.

    Raises:
        CheckpointError: it is not; the line names the keys that decide on what differs.
    """
    before, now = saved["param_groups"], optimizer.state_dict()["param_groups"]
    if ("betas" in before[0]) != ("betas" in now[0]):
        keys = "MRSSL.SOLVER.OPTIMIZER"
    elif _parameters(before) != _parameters(now):
        keys = "MODEL.BACKBONE.FREEZE_AT, MODEL.RESNETS.NORM, MODEL.FPN.NORM"
    elif {group["weight_decay"] for group in before} != {group["weight_decay"] for group in now}:
        keys = "SOLVER.WEIGHT_DECAY, SOLVER.WEIGHT_DECAY_NORM"
    elif [len(group["params"]) for group in before] != [len(group["params"]) for group in now]:
        keys = "MRSSL.TRANSFER.LR_FACTOR, MRSSL.TRANSFER.LAYER_DECAY"
    elif _rates(before) != _rates(now):
        keys = "SOLVER.BASE_LR, MRSSL.TRANSFER.LR_FACTOR, MRSSL.TRANSFER.LAYER_DECAY"
    elif before[0].get("momentum") != now[0].get("momentum"):
        keys = "SOLVER.MOMENTUM"
    else:
        return
    raise CheckpointError(
        f"{where}: was trained with other {keys}; a run goes on with what it began with"
    )


def _parameters(groups: Sequence[Mapping[str, Any]]) -> int:
    return sum(len(group["params"]) for group in groups)


def _rates(groups: Sequence[Mapping[str, Any]]) -> list[float]:
    """The learning rate of each group before any schedule, which notes it."""
    return [group.get("initial_lr", group["lr"]) for group in groups]


def build_schedule(cfg: CfgNode) -> ParamScheduler:
    """Factor on the base learning rate over the share in [0, 1) of the iterations done.

    Raises:
        MrsslError: a scheduler of another name, or steps out of order.
    """
    node = cfg.SOLVER
    last = max(node.MAX_ITER, 1)
    if node.LR_SCHEDULER_NAME == "WarmupMultiStepLR":
        steps = [s for s in node.STEPS if s < last]
        if list(steps) != sorted(set(steps)):
            raise MrsslError(f"SOLVER.STEPS {node.STEPS} are not in ascending order")
        schedule: ParamScheduler = MultiStepParamScheduler(
            [node.GAMMA**k for k in range(len(steps) + 1)], num_updates=last, milestones=steps
        )
    elif node.LR_SCHEDULER_NAME == "WarmupCosineLR":
        schedule = CosineParamScheduler(1.0, node.BASE_LR_END / node.BASE_LR)
    else:
        raise MrsslError(
            f"SOLVER.LR_SCHEDULER_NAME {node.LR_SCHEDULER_NAME!r}: known are 'WarmupMultiStepLR' "
            "and 'WarmupCosineLR'"
        )
    share = min(node.WARMUP_ITERS / last, 1.0)
    if share == 0:
        return schedule
    after = schedule(share) if share < 1 else 1.0
    warmup = LinearParamScheduler(node.WARMUP_FACTOR * schedule(0.0), after)
    if share >= 1:
        return warmup
    return CompositeParamScheduler(
        [warmup, schedule], lengths=[share, 1 - share], interval_scaling=["rescaled", "fixed"]
    )


class IterationLR(torch.optim.lr_scheduler.LambdaLR):
    """Set the rates from a fvcore schedule, once an iteration."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: ParamScheduler, max_iter: int):
        super().__init__(optimizer, lambda step: schedule(min(step / max(max_iter, 1), 0.999999)))


def clip_gradients(cfg: CfgNode, parameters: Sequence[nn.Parameter]) -> float:
    """Clip in place by ``SOLVER.CLIP_GRADIENTS``, whose types mean what they mean in Detectron2.

    "value" clips every number, "norm" each parameter by its own norm and "full_model", a word of
    Detectron2's projects, all by the norm over them.

    Args:
        cfg: the configuration.
        parameters: that have gradients.

    Returns:
        The Euclidean norm over all gradients, as it was before.

    Raises:
        MrsslError: a clip type of another name.
    """
    node = cfg.SOLVER.CLIP_GRADIENTS
    of_model = node.CLIP_TYPE == "full_model"
    if node.ENABLED and of_model and node.NORM_TYPE == 2:  # every gradient is read but once
        return float(nn.utils.clip_grad_norm_(parameters, node.CLIP_VALUE))
    norms = [p.grad.norm() for p in parameters if p.grad is not None]
    norm = float(torch.stack(norms).norm())
    if node.ENABLED and of_model:
        nn.utils.clip_grad_norm_(parameters, node.CLIP_VALUE, node.NORM_TYPE)
    elif node.ENABLED and node.CLIP_TYPE == "norm":
        for parameter in parameters:
            nn.utils.clip_grad_norm_(parameter, node.CLIP_VALUE, node.NORM_TYPE)
    elif node.ENABLED and node.CLIP_TYPE == "value":
        nn.utils.clip_grad_value_(parameters, node.CLIP_VALUE)
    elif node.ENABLED:
        raise MrsslError(f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE {node.CLIP_TYPE!r} is unknown")
    return norm


def mixed_precision(
    cfg: CfgNode, device: torch.device, *, bfloat16: bool = True
) -> tuple[Callable[[], AbstractContextManager[None]], torch.amp.GradScaler | None]:
    """What ``SOLVER.AMP`` asks for: a factory of autocast contexts, and a scaler for float16.

    "auto" leaves everything in float32 on a CPU that has no matrix instructions for bfloat16 (AMX):
    it is faster there.

    Args:
        cfg: the configuration.
        device: of the model.
        bfloat16: whether "auto" takes it on a GPU that has it. For a model that hands box
            coordinates over in the precision of its features float16 is better there: bfloat16
            knows whole pixels only from 128 on, and to pool in float32 is slower. A CPU has no
            such choice.

    Raises:
        MrsslError: a precision of another name.
    """
    name = cfg.MRSSL.SOLVER.AMP_DTYPE
    if name not in ("auto", "bfloat16", "float16"):
        raise MrsslError(f"MRSSL.SOLVER.AMP_DTYPE {name!r}: 'auto', 'bfloat16' or 'float16'")
    if not cfg.SOLVER.AMP.ENABLED or (name == "auto" and not _pays(device)):
        return nullcontext, None
    half = device.type == "cuda" and not (
        bfloat16 and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    half = name == "float16" or (name == "auto" and half)
    dtype = torch.float16 if half else torch.bfloat16

    def context() -> AbstractContextManager[None]:
        return torch.autocast(device.type, dtype)

    return context, torch.amp.GradScaler(device.type) if half else None


def _pays(device: torch.device) -> bool:
    """Whether half precision is faster there: of CPUs, on those that multiply bfloat16 matrices.

    Others emulate it, or (AVX512-BF16 without AMX) lose in casts what they gain.
    """
    if device.type != "cpu":
        return True
    if not hasattr(torch.cpu, "get_capabilities"):  # before torch 2.11
        return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
