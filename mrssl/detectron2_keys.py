"""The keys of Detectron2 that the embedded engine understands, with Detectron2's defaults."""

from __future__ import annotations

from fvcore.common.config import CfgNode as CN


def detectron2_keys() -> CN:
    """A new configuration of Detectron2's own keys.

    Only those that the torchvision engine acts on are here, so that a key it would ignore is an
    error and not a surprise; and three that say what it does anyway, for Detectron2's sake:
    ``VERSION``, ``INPUT.FORMAT`` and ``INPUT.MASK_FORMAT``.
    """
    c = CN()
    c.VERSION = 2
    c.MODEL = CN()
    c.MODEL.DEVICE = "cuda"
    c.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    c.MODEL.WEIGHTS = ""
    c.MODEL.MASK_ON = False
    c.MODEL.PIXEL_MEAN = [103.530, 116.280, 123.675]
    c.MODEL.PIXEL_STD = [1.0, 1.0, 1.0]

    c.MODEL.BACKBONE = CN({"NAME": "build_resnet_backbone", "FREEZE_AT": 2})
    c.MODEL.RESNETS = CN(
        {
            "DEPTH": 50,
            "OUT_FEATURES": ["res4"],
            "NORM": "FrozenBN",
            "STRIDE_IN_1X1": True,
            "RES2_OUT_CHANNELS": 256,
            "STEM_OUT_CHANNELS": 64,
        }
    )
    c.MODEL.FPN = CN({"IN_FEATURES": [], "OUT_CHANNELS": 256, "NORM": ""})
    c.MODEL.ANCHOR_GENERATOR = CN(
        {"SIZES": [[32, 64, 128, 256, 512]], "ASPECT_RATIOS": [[0.5, 1.0, 2.0]]}
    )
    c.MODEL.PROPOSAL_GENERATOR = CN({"NAME": "RPN"})
    c.MODEL.RPN = CN(
        {
            "IN_FEATURES": ["res4"],
            "IOU_THRESHOLDS": [0.3, 0.7],
            "BATCH_SIZE_PER_IMAGE": 256,
            "POSITIVE_FRACTION": 0.5,
            "PRE_NMS_TOPK_TRAIN": 12000,
            "PRE_NMS_TOPK_TEST": 6000,
            "POST_NMS_TOPK_TRAIN": 2000,
            "POST_NMS_TOPK_TEST": 1000,
            "NMS_THRESH": 0.7,
        }
    )
    c.MODEL.ROI_HEADS = CN(
        {
            "NAME": "Res5ROIHeads",
            "NUM_CLASSES": 80,
            "IN_FEATURES": ["res4"],
            "IOU_THRESHOLDS": [0.5],
            "BATCH_SIZE_PER_IMAGE": 512,
            "POSITIVE_FRACTION": 0.25,
            "SCORE_THRESH_TEST": 0.05,
            "NMS_THRESH_TEST": 0.5,
        }
    )
    c.MODEL.ROI_BOX_HEAD = CN(
        {
            "NAME": "",
            "NUM_FC": 0,
            "FC_DIM": 1024,
            "POOLER_RESOLUTION": 14,
            "POOLER_SAMPLING_RATIO": 0,
            "POOLER_TYPE": "ROIAlignV2",
        }
    )
    c.MODEL.ROI_MASK_HEAD = CN(
        {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": 0,
            "CONV_DIM": 256,
            "NORM": "",
            "POOLER_RESOLUTION": 14,
            "POOLER_SAMPLING_RATIO": 0,
            "POOLER_TYPE": "ROIAlignV2",
        }
    )

    c.INPUT = CN(
        {
            "MIN_SIZE_TRAIN": (800,),
            "MAX_SIZE_TRAIN": 1333,
            "MIN_SIZE_TEST": 800,
            "MAX_SIZE_TEST": 1333,
            "RANDOM_FLIP": "horizontal",
            "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
            "FORMAT": "BGR",
            "MASK_FORMAT": "polygon",
        }
    )
    c.DATASETS = CN({"TRAIN": (), "TEST": ()})
    c.DATALOADER = CN({"NUM_WORKERS": 4, "FILTER_EMPTY_ANNOTATIONS": True})

    c.SOLVER = CN(
        {
            "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
            "MAX_ITER": 40000,
            "BASE_LR": 0.001,
            "BASE_LR_END": 0.0,
            "MOMENTUM": 0.9,
            "WEIGHT_DECAY": 0.0001,
            "WEIGHT_DECAY_NORM": 0.0,
            "GAMMA": 0.1,
            "STEPS": (30000,),
            "WARMUP_FACTOR": 1.0 / 1000,
            "WARMUP_ITERS": 1000,
            "CHECKPOINT_PERIOD": 5000,
            "IMS_PER_BATCH": 16,
        }
    )
    c.SOLVER.CLIP_GRADIENTS = CN(
        {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0}
    )
    c.SOLVER.AMP = CN({"ENABLED": False})
    c.TEST = CN({"EVAL_PERIOD": 0, "DETECTIONS_PER_IMAGE": 100})
    c.OUTPUT_DIR = "./output"
    c.SEED = -1
    return c


__all__ = ["detectron2_keys"]
