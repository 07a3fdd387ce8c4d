"""The Detectron2 extension. Importing it registers the heads; ``add_mrssl_config`` the keys."""

from mrssl.config import add_mrssl_config
from mrssl.engines.detectron2.catalog import load_registered, register_mri
from mrssl.engines.detectron2.checkpointing import MRICheckpointer
from mrssl.engines.detectron2.config import get_cfg
from mrssl.engines.detectron2.dataset_mapper import MRIDatasetMapper, annotate
from mrssl.engines.detectron2.evaluation import (
    DistortionEvaluator,
    RestorationEvaluator,
    SliceDatasetEvaluator,
    VolumeEvaluator,
    restore,
)
from mrssl.engines.detectron2.mask_head import ImprovedMaskHead
from mrssl.engines.detectron2.roi_heads import DistortionROIHeads
from mrssl.engines.detectron2.run import launch
from mrssl.engines.detectron2.trainer import MRITrainer

__all__ = [
    "DistortionEvaluator",
    "DistortionROIHeads",
    "ImprovedMaskHead",
    "MRICheckpointer",
    "MRIDatasetMapper",
    "MRITrainer",
    "RestorationEvaluator",
    "SliceDatasetEvaluator",
    "VolumeEvaluator",
    "add_mrssl_config",
    "annotate",
    "get_cfg",
    "launch",
    "load_registered",
    "register_mri",
    "restore",
]
