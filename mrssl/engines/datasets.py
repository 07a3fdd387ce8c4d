"""The data of a run: slices to train and to test on, their loaders and how they are scored."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader
from tqdm import tqdm

from mrssl.checkpoint import Provenance, input_differences, load_checkpoint
from mrssl.config import (
    ConfigError,
    check_data_set,
    check_masks,
    check_numbers,
    is_pretraining,
    restores_whole_slices,
    with_values,
)
from mrssl.data import Dataset, dataset_options, load_dataset
from mrssl.data.labels import ClassValues, overlapping_classes
from mrssl.data.loader import Batches, EvaluationSet, PositionSampler, SampleStream, build_loader
from mrssl.data.mapper import SliceMapper
from mrssl.data.records import PackedRecords, of_readable
from mrssl.data.statistics import class_layout, intensity_summary
from mrssl.engines import doubts
from mrssl.engines.classes import check_same_classes, check_types, class_differences
from mrssl.engines.distributed import get_rank, get_world_size, is_main_process
from mrssl.errors import MrsslError
from mrssl.evaluation import (
    DistortionEvaluator,
    EvaluationError,
    Evaluator,
    RestorationEvaluator,
    get_metric,
    pretext_evaluator,
    rehearse,
    segmentation_evaluator,
)
from mrssl.structures import ClassLayout
from mrssl.structures.volume import plane_of_slices

_LOG = logging.getLogger(__name__)
#: Test slices at once.
TEST_BATCH = 4
#: Detectron2's default of ``MODEL.ROI_HEADS.NUM_CLASSES``: nobody chose it for MRI.
_UNSET_CLASSES = 80
_BAR = partial(tqdm, desc="read", unit="volume", delay=5, leave=False, disable=None)


class RunData:
    """What ``DATASETS.TRAIN`` and ``DATASETS.TEST`` name, described once.

    Args:
        cfg: the configuration.
        seed: of the samples.
        training: describe ``DATASETS.TRAIN`` too.
        trained: what the checkpoint to be used says of its own training data, where there are
            none here.
        labeled: False to take slices to segment, whose labels, if any, are ignored.
        load: describes one name or path; for names that only an engine knows.

    Attributes:
        train, test: standard dataset dicts, ``image_id`` unique in each; ``train`` is packed, so
            that workers share it.
        class_names: of the labels; ``["distorted"]`` while pretraining.
        class_values: label value, or values, of each class; none while pretraining, nor of a
            checkpoint that does not say.
        type_names: distortion types; empty but while pretraining.
        marks: by which patients' names are recognised (:mod:`mrssl.privacy`).
        faults: what is doubtful about volumes, by (``file_name``, ``series``).
        planes: in which slices lie, of the training data where there are any; see
            :func:`~mrssl.structures.volume.plane_of_slices`.

    Raises:
        MrsslError: a data set that cannot be used, two that name or number different classes, or
            a model without masks for labels.
    """

    def __init__(
        self,
        cfg: CfgNode,
        *,
        seed: int = 0,
        training: bool = True,
        trained: Provenance | None = None,
        labeled: bool = True,
        load: Callable[..., Dataset] = load_dataset,
    ) -> None:
        check_numbers(cfg)
        check_masks(cfg)
        self.cfg, self.pretraining, self._trained = cfg, is_pretraining(cfg), trained
        self._load, self._labeled = load, labeled and not self.pretraining
        self.class_values: list[ClassValues] = []
        self.marks: frozenset[str] = frozenset()
        self.faults: dict[tuple[str, str], tuple[str, ...]] = {}
        self.class_names: list[str] = ["distorted"] if self.pretraining else []
        if trained is not None and not labeled:
            self.class_names = list(trained.class_names)
            self.class_values = list(trained.class_values)
        if training and not cfg.DATASETS.TRAIN:
            raise ConfigError("DATASETS.TRAIN is empty: a folder of scans or a dataset.json")
        train = self._describe("DATASETS.TRAIN", training=True) if training else []
        self.train = PackedRecords(train)
        self.test = self._describe("DATASETS.TEST", training=False)
        doubts.warn_of_cache(train, cfg.MRSSL.DATA.CACHE_MIB)
        planes = {plane_of_slices(record.get("axes", "")) for record in train or self.test}
        self.planes = sorted(planes - {""})
        doubts.warn_of_shared(train, self.test, self.marks)
        doubts.warn_of_faults(self.faults, self.marks)
        self.train_mapper = self._mapper(training=True, seed=seed)
        self.test_mapper = self._mapper(training=False, seed=seed)
        distorter = self.test_mapper.distorter
        self.type_names = list(distorter.type_names) if distorter else []
        self.seed = seed
        if training and self.test:
            self._check_best_metric()

    def _check_best_metric(self) -> None:
        """Before hours of training, not at the first evaluation."""
        if not self.cfg.MRSSL.SOLVER.BEST_METRIC:
            return
        names_types = self.cfg.MRSSL.TYPE_HEAD.LOSS_WEIGHT > 0
        will_be = rehearse(self.evaluator(), len(self.type_names), names_types=names_types)
        try:
            get_metric(will_be, self.best_metric)
        except EvaluationError as error:
            raise ConfigError(f"MRSSL.SOLVER.BEST_METRIC: {error}") from error

    @classmethod
    def for_weights(
        cls, cfg: CfgNode, *, labeled: bool = True, load: Callable[..., Dataset] = load_dataset
    ) -> tuple[RunData, dict[str, Any]]:
        """The test data for the checkpoint in ``MODEL.WEIGHTS``, and what that holds.

        Where the checkpoint was trained on other input than ``cfg`` describes, or with other label
        values, that is printed.

        Args:
            cfg: the configuration.
            labeled: see the class.
            load: see the class.

        Raises:
            MrsslError: there are no weights, the data cannot be used, or the checkpoint is of other
                classes than they are.
        """
        if not cfg.MODEL.WEIGHTS:
            raise ConfigError("MODEL.WEIGHTS is empty: a checkpoint is needed")
        if not cfg.DATASETS.TEST:
            raise ConfigError("DATASETS.TEST is empty: there is nothing to evaluate on")
        content = load_checkpoint(cfg.MODEL.WEIGHTS)
        trained = Provenance.from_dict(content.get("mrssl", {}))
        if not labeled and not trained.class_names:
            raise ConfigError(f"{cfg.MODEL.WEIGHTS}: does not name its classes")
        data = cls(cfg, training=False, trained=trained, labeled=labeled, load=load)
        for line in data.class_differences(trained, cfg.MODEL.WEIGHTS) + data.differences(trained):
            print(f"warning: {line}")
        return data, content

    def class_differences(self, trained: Provenance, where: str) -> list[str]:
        """What a checkpoint's classes, or types, are other than the data's: see :mod:`.classes`."""
        if self.pretraining:
            check_types(trained, self.type_names, where=where)
        return class_differences(trained, self.class_names, self.class_values, where=where)

    def differences(self, trained: Provenance) -> list[str]:
        """A line for each way in which a checkpoint was trained on other slices than these."""
        lines = input_differences(trained, self.cfg)
        if trained.planes and self.planes:  # what the axis is chosen for
            lines = [line for line in lines if not line.startswith(f"{doubts.SLICE_AXIS}:")]
        return lines + doubts.plane_differences(trained, self.planes)

    def _describe(self, key: str, *, training: bool) -> list[dict[str, Any]]:
        options = dataset_options(self.cfg)
        if not training:
            options |= {"keep_empty": True, "keep_unreadable": False}
        if not (self._labeled or self.pretraining):
            options |= {"min_foreground": 0.0}  # all of a volume is to be segmented
        if is_main_process():
            options["progress"] = _BAR
        records: list[dict[str, Any]] = []
        node = self.cfg.DATASETS.TRAIN if training else self.cfg.DATASETS.TEST
        for name in node:
            check_data_set(key, name)
            dataset = self._load(name, labeled=self._labeled, **options)
            self._check_classes(f"{key} {name}", dataset)
            self.marks |= dataset.marks
            self.faults |= dataset.faults
            offset = len(records)
            if not training:
                doubts.warn_of_namesakes(name, records, dataset.dicts, self.marks)
            records += [{**d, "image_id": offset + i} for i, d in enumerate(dataset.dicts)]
        return records

    def _check_classes(self, where: str, dataset: Dataset) -> None:
        if self._labeled:
            check_same_classes(where, dataset, self.class_names, self.class_values)
            self.class_names, self.class_values = dataset.class_names, dataset.class_values

    def _mapper(self, *, training: bool, seed: int) -> SliceMapper:
        return SliceMapper.from_config(
            self.cfg,
            training=training,
            class_values=self.class_values,
            seed=seed,
            records=self.train if training else self.test,
        )

    @cached_property
    def train_intensities(self) -> dict[str, Any]:
        """For checkpoints: see :func:`~mrssl.data.statistics.intensity_summary`."""
        return intensity_summary(self.train, self.train_mapper.cache) if self.train else {}

    @property
    def overlapping(self) -> list[tuple[int, int]]:
        """Pairs of classes that share a label value, of which a pixel may be both."""
        return overlapping_classes(self.class_values)

    @cached_property
    def class_layout(self) -> ClassLayout | None:
        """By which the structures of a volume are named together; None where they are not.

        Raises:
            MrsslError: it is asked for, and neither training data nor a checkpoint tell.
        """
        cfg, single = self.cfg.MRSSL, len(self.class_names) < 2
        if self.pretraining or not cfg.EVALUATION.JOINT_NAMES:
            return None
        if single or cfg.DATA.INSTANCES == "component":
            return None
        if self.overlapping:
            a, b = (self.class_names[category] for category in self.overlapping[0])
            if is_main_process():
                _LOG.warning(
                    "MRSSL.EVALUATION.JOINT_NAMES is left aside: classes share label values (%s, "
                    "%s), so that a structure may have several names",
                    a,
                    b,
                )
            return None
        if self.train:
            return class_layout(self.train, self.train_mapper.cache, self.class_values)
        if self._trained is not None and self._trained.class_layout:
            try:
                return ClassLayout.from_dict(self._trained.class_layout)
            except MrsslError as error:
                raise MrsslError(f"{self.cfg.MODEL.WEIGHTS}: {error}") from error
        raise ConfigError(
            f"MRSSL.EVALUATION.JOINT_NAMES is on, and {self.cfg.MODEL.WEIGHTS} does not say where "
            "its classes lie to each other: set it to False"
        )

    def provenance(self, cfg: CfgNode, iteration: int) -> Provenance:
        """What a checkpoint of a training on these data says of itself.

        Args:
            cfg: of the training.
            iteration: how many are done.
        """
        layout = self.class_layout
        return Provenance.from_config(
            cfg,
            task="pretrain" if self.pretraining else "finetune",
            class_names=self.class_names,
            class_values=self.class_values,
            type_names=self.type_names,
            intensities=self.train_intensities,
            class_layout=layout.to_dict() if layout else None,
            marks=self.marks,
            planes=self.planes,
            iteration=iteration,
        )

    def with_classes(self, cfg: CfgNode) -> CfgNode:
        """``cfg`` with ``NUM_CLASSES`` of the data, where it was left at Detectron2's default.

        Raises:
            ConfigError: it was set, and to another number.
        """
        wanted, given = len(self.class_names), cfg.MODEL.ROI_HEADS.NUM_CLASSES
        if given == wanted:
            return cfg
        if given != _UNSET_CLASSES:
            raise ConfigError(
                f"MODEL.ROI_HEADS.NUM_CLASSES is {given}, the data have {wanted}: "
                f"{', '.join(self.class_names)}"
            )
        return with_values(cfg, {"MODEL.ROI_HEADS.NUM_CLASSES": wanted})

    @property
    def best_metric(self) -> str:
        """What the best checkpoint is chosen by, as ``task/metric``."""
        if self.cfg.MRSSL.SOLVER.BEST_METRIC:
            return str(self.cfg.MRSSL.SOLVER.BEST_METRIC)
        if restores_whole_slices(self.cfg):
            return "restoration/PSNR"
        return "localization/AP50" if self.pretraining else "dice/dice"

    def evaluator(self) -> Evaluator:
        """What the task is scored with."""
        if restores_whole_slices(self.cfg):
            return RestorationEvaluator(self.type_names)
        if self.pretraining and self.cfg.MRSSL.RESTORATION_HEAD.LOSS_WEIGHT == 0:
            return DistortionEvaluator(self.type_names)
        if self.pretraining:
            return pretext_evaluator(self.type_names)
        return segmentation_evaluator(
            self.class_names,
            score_threshold=self.cfg.MRSSL.EVALUATION.SCORE_THRESHOLD,
            layout=self.class_layout,
            overlapping=self.overlapping,
        )

    def train_loader(
        self,
        *,
        start_iteration: int,
        collate: Callable[[list[dict[str, Any]]], Any],
        pin_memory: bool = False,
    ) -> Batches:
        """Endless batches of this process, from ``start_iteration`` on."""
        size, processes = self.cfg.SOLVER.IMS_PER_BATCH, get_world_size()
        sampler = PositionSampler(
            size, start_iteration=start_iteration, rank=get_rank(), world_size=processes
        )
        return Batches(
            build_loader(
                self.train_stream(),
                batch_size=size // processes,
                sampler=sampler,
                num_workers=self.cfg.DATALOADER.NUM_WORKERS,
                collate=collate,
                pin_memory=pin_memory,
                timeout=self.cfg.MRSSL.DATA.WORKER_TIMEOUT,
            )
        )

    def train_stream(self) -> SampleStream:
        """The endless stream of training samples that all processes share."""
        return SampleStream(
            self.train,
            self.train_mapper,
            seed=self.seed,
            batch_size=self.cfg.SOLVER.IMS_PER_BATCH,
            max_unreadable=self.cfg.MRSSL.DATA.MAX_UNREADABLE,
        )

    def test_loader(self, *, collate: Callable[[list[dict[str, Any]]], Any]) -> DataLoader[Any]:
        """This process's part of the test slices, each once; see :meth:`test_share`.

        Raises:
            ConfigError: there are none.
        """
        if not self.test:
            raise ConfigError("DATASETS.TEST is empty: there is nothing to evaluate on")
        share = self.test_share(get_rank(), get_world_size())
        return build_loader(
            EvaluationSet(self.test[share.start : share.stop], self.test_mapper),
            batch_size=TEST_BATCH,
            num_workers=0,
            collate=collate,
        )

    def test_share(self, rank: int, world_size: int) -> range:
        """Indices of one process's test slices: consecutive, and whole batches.

        So every slice lies in the same batch, and finds the same to the last bit, however many
        processes there are.
        """
        batches = -(-len(self.test) // TEST_BATCH)
        first, last = (batches * r // world_size * TEST_BATCH for r in (rank, rank + 1))
        return range(first, min(last, len(self.test)))

    def picture_samples(self, count: int = 4) -> list[dict[str, Any]]:
        """A few mapped slices, spread over the test data (the training data if there are none).

        Those that cannot be read are left out.

        Raises:
            MrsslError: none of them can be read.
        """
        return of_readable(spread(self.test or self.train, count), self.test_mapper)


def spread(records: Sequence[Any], count: int) -> list[Any]:
    """``count`` of some records, as far from each other and from both ends as they can be."""
    return [records[(2 * i + 1) * len(records) // (2 * count)] for i in range(count)]
