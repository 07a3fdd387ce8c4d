"""A program that knows Detectron2 and nothing of the package whose export it loads.

usage: stock_program.py CONFIG.yaml WEIGHTS.pth IMAGES_FOLDER COCO.json OUTPUT_DIR
"""

from __future__ import annotations

import json
import sys

from detectron2.config import get_cfg
from detectron2.data import build_detection_test_loader
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator, inference_on_dataset
from fvcore.common import checkpoint


class Trainer(DefaultTrainer):
    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return COCOEvaluator(dataset_name, output_dir=cfg.OUTPUT_DIR, use_fast_impl=False)


def main(config: str, weights: str, images: str, annotations: str, output: str) -> None:
    register_coco_instances("slices", {}, annotations, images)
    cfg = get_cfg()
    cfg.merge_from_file(config)  # stock keys only, or this fails
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = weights
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("slices",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (64,), 64
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR = 2, 3, 1e-3
    cfg.OUTPUT_DIR = output

    loaded = {}

    def keep(self, incompatible):
        loaded["missing"] = list(incompatible.missing_keys)
        loaded["unexpected"] = list(incompatible.unexpected_keys)
        loaded["mismatched"] = [name for name, _, _ in incompatible.incorrect_shapes]

    checkpoint.Checkpointer._log_incompatible_keys = keep
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    loader = build_detection_test_loader(cfg, "slices")
    results = inference_on_dataset(
        trainer.model, loader, COCOEvaluator("slices", use_fast_impl=False, output_dir=output)
    )
    report = {
        **loaded,
        "tasks": sorted(results),
        "iterations": trainer.iter,
        "imported": sorted(name for name in sys.modules if name.split(".")[0] == "mrssl"),
    }
    with open(f"{output}/report.json", "w") as file:
        json.dump(report, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
