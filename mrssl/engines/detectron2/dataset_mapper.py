"""The core's mapper as a Detectron2 ``DatasetMapper``: dataset dict -> input of the model.

Shape letters: N instances, H, W the slice as the network sees it, K distortion types.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import DatasetCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances

from mrssl.config import ConfigError, is_pretraining
from mrssl.data import dataset_options, load_dataset
from mrssl.data.labels import ClassValues, annotations_of_slice
from mrssl.data.loader import STREAM_KEYS
from mrssl.data.mapper import METADATA, SliceMapper
from mrssl.data.records import PackedRecords
from mrssl.engines.classes import check_same_classes
from mrssl.engines.detectron2.catalog import load_classes
from mrssl.engines.samples import ground_truth, restoration_targets, slice_position


class MRIDatasetMapper:
    """Read, normalise, stack, resize, augment or distort a slice; for any loader of Detectron2.

    The sample follows from the seed, the epoch and the image id. A loader that tells no epoch, as
    Detectron2's own, gets another sample at each call, from NumPy's global generator (which
    Detectron2 seeds in each worker). It tells no iteration either, so it cannot serve the curricula
    of ``MRSSL.PRETEXT``; :class:`~mrssl.engines.detectron2.trainer.MRITrainer` can.

    Args:
        mapper: the core's.
        is_train: make the targets that the losses need; else the ground truth that evaluators need.
    """

    @configurable
    def __init__(self, mapper: SliceMapper, *, is_train: bool = True) -> None:
        self.mapper = mapper
        self.is_train = is_train

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """For ``MRIDatasetMapper(cfg, is_train)``, as with Detectron2's own mapper.

        What ``DATASETS.TRAIN`` names is served, or ``DATASETS.TEST`` without ``is_train``: sets
        registered by :func:`~mrssl.engines.detectron2.catalog.register_mri`, and paths. The values
        of their labels are read there. While pretraining, foreign tissue comes from their slices
        (``MRSSL.PRETEXT.OTHER_SUBJECT``).

        Raises:
            MrsslError: a data set that cannot be used, or two that name or number different
                classes.
        """
        values: list[ClassValues] = []
        records: Iterable[dict[str, Any]] = ()
        key = "TRAIN" if is_train else "TEST"
        names = cfg.DATASETS[key]
        if is_pretraining(cfg):
            records = chain.from_iterable(_records(name, cfg) for name in names)
        else:
            values = _class_values(f"DATASETS.{key}", names, cfg)
        mapper = SliceMapper.from_config(
            cfg,
            training=is_train,
            class_values=values,
            seed=max(cfg.SEED, 0),
            records=PackedRecords(records),
        )
        return {"mapper": mapper, "is_train": is_train}

    def __call__(
        self,
        dataset_dict: Mapping[str, Any],
        epoch: int | None = None,
        iteration: int | None = None,
    ) -> dict[str, Any]:
        """Make the input of one slice.

        Args:
            dataset_dict: a standard dataset dict.
            epoch: pass over the data.
            iteration: for the curricula of the distortions; needed in training where there are any.

        Returns:
            ``image`` float32 tensor (3, H, W) in [0, 255] and the dict's metadata; in training
            ``instances`` (see :func:`to_instances`), else ``ground_truth``, what
            :class:`~mrssl.engines.detectron2.evaluation.SliceDatasetEvaluator` reads.

        Raises:
            ConfigError: there are curricula, and no iteration is told; or the slice has labels, and
                no data set that the configuration names tells their values.
        """
        distorter = self.mapper.distorter
        if iteration is None and self.is_train and distorter is not None and distorter.curricula:
            raise ConfigError(
                f"{distorter.curricula[0]}: this data loader does not tell the iteration, which a "
                "curriculum needs: leave it empty, or train with MRITrainer"
            )
        if distorter is None and dataset_dict.get("label_file") and not self.mapper.class_values:
            raise ConfigError(
                f"DATASETS.{'TRAIN' if self.is_train else 'TEST'} does not name the data set of "
                f"{dataset_dict['label_file']}, which tells the classes of its labels"
            )
        if epoch is None:
            epoch = int(np.random.randint(2**31 - 1)) if self.is_train else 0
        sample = self.mapper(dict(dataset_dict), epoch=epoch, iteration=iteration or 0)
        return to_input(sample, is_train=self.is_train)


def _class_values(key: str, names: Sequence[str], cfg: CfgNode) -> list[ClassValues]:
    """Of all sets that have labels; one mapper serves them all, and reads all labels alike."""
    options = dataset_options(cfg)
    classes: list[str] = []
    values: list[ClassValues] = []
    for name in names:
        dataset = load_classes(name, **options)
        if dataset.class_values:
            check_same_classes(f"{key} {name}", dataset, classes, values)
            classes, values = dataset.class_names, dataset.class_values
    return values


def _records(name_or_path: str, cfg: CfgNode) -> list[dict[str, Any]]:
    if name_or_path in DatasetCatalog.list():
        return DatasetCatalog.get(name_or_path)  # what the loader reads, and described already
    return load_dataset(name_or_path, labeled=False, **dataset_options(cfg)).dicts


def to_input(sample: Mapping[str, Any], *, is_train: bool) -> dict[str, Any]:
    """A sample of the core's mapper as Detectron2's models take it."""
    out = {key: sample[key] for key in (*METADATA, "seed", *STREAM_KEYS) if key in sample}
    out["image"] = torch.from_numpy(np.ascontiguousarray(sample["image"]))
    if not is_train:
        out["ground_truth"] = ground_truth(sample)
    elif "boxes" in sample:
        out["instances"] = to_instances(sample)
    return out


def to_instances(sample: Mapping[str, Any]) -> Instances:
    """Targets of a sample whose ground truth lies on the grid of its image.

    Returns:
        N instances with ``gt_boxes``, ``gt_classes`` int64 (N,), ``gt_masks`` :class:`BitMasks`
        and, of the pretext, ``gt_types`` float32 (N, K), ``gt_position`` and
        ``gt_restoration``.
    """
    targets = Instances(tuple(sample["image"].shape[1:]))
    targets.gt_boxes = Boxes(torch.from_numpy(sample["boxes"]))
    targets.gt_classes = torch.from_numpy(sample["classes"])
    targets.gt_masks = BitMasks(torch.from_numpy(np.ascontiguousarray(sample["masks"])))
    if "clean" in sample:
        targets.gt_types = torch.from_numpy(sample["types"])
        targets.gt_position = slice_position(sample)
        targets.gt_restoration = restoration_targets(sample)
    return targets


def annotate(model_input: Mapping[str, Any]) -> dict[str, Any]:
    """A mapped slice as a standard dataset dict, for ``Visualizer.draw_dataset_dict``.

    Of an unlabelled slice these are the synthetic annotations: the regions that were distorted.

    Args:
        model_input: of a mapper with ``is_train``.

    Returns:
        The metadata, ``annotations`` in COCO's run-length encoding, and ``image`` uint8
        (H, W, 3), the slice between its neighbours as RGB.
    """
    targets = model_input["instances"]
    image = model_input["image"].numpy().transpose(1, 2, 0)
    annotations = annotations_of_slice(targets.gt_masks.tensor.numpy(), targets.gt_classes.numpy())
    for annotation in annotations:
        annotation["bbox_mode"] = BoxMode(annotation["bbox_mode"])
    height, width = targets.image_size
    return {
        **{key: model_input[key] for key in METADATA if key in model_input},
        "height": height,
        "width": width,
        "image": (image.clip(0, 255) + 0.5).astype(np.uint8),
        "annotations": annotations,
    }


__all__ = ["MRIDatasetMapper", "annotate", "to_input", "to_instances"]
