"""The embedded engine: Mask R-CNN on torchvision, for a machine that has only what pip installs."""

from mrssl.engines.torchvision.launch import launch
from mrssl.engines.torchvision.main import main
from mrssl.engines.torchvision.model import MaskRCNN, build_model
from mrssl.engines.torchvision.trainer import Trainer

__all__ = ["MaskRCNN", "Trainer", "build_model", "launch", "main"]
