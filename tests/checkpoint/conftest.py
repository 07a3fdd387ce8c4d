"""Small Mask R-CNNs of both libraries, of the same shape; the fixtures at the end hand them out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import resnet18, resnet34, resnet50, resnet101
from torchvision.ops import FrozenBatchNorm2d

RESNETS = {18: resnet18, 34: resnet34, 50: resnet50, 101: resnet101}
NORMS = {"FrozenBN": FrozenBatchNorm2d, "BN": nn.BatchNorm2d, "GN": partial(nn.GroupNorm, 32)}
CHANNELS, FC_DIM = 32, 24  # small, so that the heads cost nothing beside the backbone


class ThreeFC(TwoMLPHead):
    """A box head with one layer more than torchvision's own."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__(in_channels, dim)
        self.fc8 = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc8(super().forward(x)).relu()


def build_torchvision(
    depth: int = 18,
    norm: str = "FrozenBN",
    *,
    head_norm: str = "",
    classes: int = 3,
    fc: int = 2,
    convs: int = 2,
    seed: int = 1,
) -> MaskRCNN:
    """Of torchvision; ``classes``: without the background, ``head_norm``: in FPN and mask head."""
    with torch.device("meta"):
        body = RESNETS[depth](weights=None, norm_layer=NORMS[norm])
        width = body.inplanes // 8
        heads = NORMS[head_norm] if head_norm else None
        backbone = BackboneWithFPN(
            body,
            {f"layer{i + 1}": str(i) for i in range(4)},
            [width * 2**i for i in range(4)],
            CHANNELS,
            norm_layer=heads,
        )
        model = MaskRCNN(
            backbone,
            box_head={2: TwoMLPHead, 3: ThreeFC}[fc](CHANNELS * 7 * 7, FC_DIM),
            box_predictor=FastRCNNPredictor(FC_DIM, classes + 1),
            mask_head=MaskRCNNHeads(CHANNELS, [CHANNELS] * convs, 1, norm_layer=heads),
            mask_predictor=MaskRCNNPredictor(CHANNELS, CHANNELS, classes + 1),
        )
    # A number a tensor instead of an initialisation, which would take most of the tests' time.
    model = model.to_empty(device="cpu").eval()
    for i, tensor in enumerate(model.state_dict().values()):
        tensor.fill_(seed + i / 1000)
    return model


def describe_detectron2(
    depth: int = 18,
    norm: str = "FrozenBN",
    *,
    head_norm: str = "",
    classes: int = 3,
    fc: int = 2,
    convs: int = 2,
) -> dict[str, Any]:
    """The configuration of the same model, with nothing but stock Detectron2's keys."""
    return {
        "MODEL": {
            "DEVICE": "cpu",
            "META_ARCHITECTURE": "GeneralizedRCNN",
            "MASK_ON": True,
            "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
            "RESNETS": {
                "DEPTH": depth,
                "NORM": norm,
                "STRIDE_IN_1X1": False,
                "RES2_OUT_CHANNELS": 64 if depth < 50 else 256,
                "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
            },
            "FPN": {
                "IN_FEATURES": ["res2", "res3", "res4", "res5"],
                "OUT_CHANNELS": CHANNELS,
                "NORM": head_norm,
            },
            "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]]},
            "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"]},
            "ROI_HEADS": {
                "NAME": "StandardROIHeads",
                "IN_FEATURES": ["p2", "p3", "p4", "p5"],
                "NUM_CLASSES": classes,
            },
            "ROI_BOX_HEAD": {
                "NAME": "FastRCNNConvFCHead",
                "NUM_FC": fc,
                "FC_DIM": FC_DIM,
                "POOLER_RESOLUTION": 7,
            },
            "ROI_MASK_HEAD": {
                "NAME": "MaskRCNNConvUpsampleHead",
                "NUM_CONV": convs,
                "CONV_DIM": CHANNELS,
                "NORM": head_norm,
                "POOLER_RESOLUTION": 14,
            },
        },
        "INPUT": {"FORMAT": "RGB"},
    }


def draw_state(model: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Random numbers in the shapes of the model's state; variances and scales about 1.

    torchvision's unused background rows are zero, as this package's engine has them.
    """
    largest = max(tensor.numel() for tensor in model.state_dict().values())
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(2 * largest, generator=generator)  # drawn once: it is the slow part
    state = {}
    for i, (name, tensor) in enumerate(model.state_dict().items()):
        value = noise[97 * i :][: tensor.numel()].reshape(tensor.shape)
        if name.endswith("num_batches_tracked"):
            value = torch.tensor(7 + i)
        elif tensor.ndim > 1:
            value = value * (1 / tensor[0].numel()) ** 0.5
        elif name.endswith(("running_var", "weight")):
            value = 1 + 0.1 * value.tanh()
        else:
            value = 0.1 * value
        state[name] = value
    for leaf in ("weight", "bias"):
        state[f"roi_heads.box_predictor.bbox_pred.{leaf}"][:4] = 0
        state[f"roi_heads.mask_predictor.mask_fcn_logits.{leaf}"][:1] = 0
    return state


@pytest.fixture(scope="session")
def torchvision_model():
    return build_torchvision


@pytest.fixture(scope="session")
def detectron2_config():
    return describe_detectron2


@pytest.fixture(scope="session")
def random_state():
    return draw_state
