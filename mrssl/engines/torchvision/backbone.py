"""ResNet-FPN from Detectron2's keys, on torchvision's modules."""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from mrssl.config import check_fixed
from mrssl.errors import MrsslError
from mrssl.modeling.layers import get_norm

DEPTHS = (18, 34, 50, 101)
#: Detectron2's names of the pyramid levels, by torchvision's.
LEVELS = {"0": "p2", "1": "p3", "2": "p4", "3": "p5", "pool": "p6"}
#: What ``FREEZE_AT`` counts, by torchvision's names: stem, res2, ..., res5.
STAGES = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",))
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}
_STAGES_OUT = ["res2", "res3", "res4", "res5"]
#: Keys that could be otherwise in Detectron2.
FIXED = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.OUT_FEATURES": _STAGES_OUT,
    "MODEL.FPN.IN_FEATURES": _STAGES_OUT,
}


class ResNetFPN(BackboneWithFPN):
    """Like its base, but the levels carry Detectron2's names p2 ... p6."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Float (B, 3, H, W) -> level name -> float (B, C, H / stride, W / stride)."""
        features = super().forward(x)
        return OrderedDict((LEVELS[name], level) for name, level in features.items())


def build_backbone(cfg: CfgNode) -> ResNetFPN:
    """Build what ``build_resnet_fpn_backbone`` builds in Detectron2.

    Raises:
        MrsslError: a key has a value that this engine does not offer.
    """
    nodes = cfg.MODEL.RESNETS
    if nodes.DEPTH not in DEPTHS:
        raise MrsslError(f"MODEL.RESNETS.DEPTH {nodes.DEPTH}: the torchvision engine has {DEPTHS}")
    width = 64 if nodes.DEPTH < 50 else 256
    check_fixed(cfg, {"MODEL.RESNETS.RES2_OUT_CHANNELS": width}, engine="the torchvision engine")
    if nodes.STRIDE_IN_1X1 and nodes.DEPTH >= 50:
        raise MrsslError("MODEL.RESNETS.STRIDE_IN_1X1 must be False in the torchvision engine")
    body = getattr(resnet, f"resnet{nodes.DEPTH}")(
        weights=None, norm_layer=partial(get_norm, nodes.NORM)
    )
    freeze(body, cfg.MODEL.BACKBONE.FREEZE_AT)
    widest = body.fc.in_features
    fpn_norm = cfg.MODEL.FPN.NORM
    return ResNetFPN(
        body,
        return_layers={f"layer{i + 1}": str(i) for i in range(4)},
        in_channels_list=[widest // 8, widest // 4, widest // 2, widest],
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm_layer=partial(get_norm, fpn_norm) if fpn_norm else None,
    )


def freeze(body: resnet.ResNet, stages: int) -> None:
    """Freeze the first ``stages`` of stem, res2, res3, ..., in place, as Detectron2 does.

    They get no gradient, and their batch normalisation keeps its statistics; names stay.
    """
    for name in [name for stage in STAGES[:stages] for name in stage]:
        setattr(body, name, _with_frozen_norms(getattr(body, name).requires_grad_(False)))


def _with_frozen_norms(module: nn.Module) -> nn.Module:
    """As Detectron2's ``FrozenBatchNorm2d.convert_frozen_batchnorm``."""
    if isinstance(module, nn.BatchNorm2d):
        frozen = get_norm("FrozenBN", module.num_features)
        frozen.load_state_dict(module.state_dict())
        return frozen
    for name, child in module.named_children():
        setattr(module, name, _with_frozen_norms(child))
    return module
