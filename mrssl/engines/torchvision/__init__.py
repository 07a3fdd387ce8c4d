"""The embedded engine: Mask R-CNN on torchvision, for a machine that has only what pip installs."""

from mrssl.engines.torchvision.model import MaskRCNN, build_model
from mrssl.engines.torchvision.run import evaluate_only, launch, load_model, main
from mrssl.engines.torchvision.trainer import Trainer

__all__ = [
    "MaskRCNN",
    "Trainer",
    "build_model",
    "evaluate_only",
    "launch",
    "load_model",
    "main",
]
