from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrssl.errors import MrsslError

from .conftest import MakeConfig

pytestmark = pytest.mark.detectron2


@pytest.fixture
def names(phantom: Path) -> Any:
    """The phantom registered twice: with its labels, and as a folder of unlabelled scans."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from mrssl.engines.detectron2 import register_mri

    register_mri("phantom_labeled", f"{phantom}:train")
    register_mri("phantom_scans", phantom.parent / "images")
    yield "phantom_labeled", "phantom_scans"
    for name in ("phantom_labeled", "phantom_scans"):
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def test_a_registered_data_set_is_a_standard_one(names: tuple[str, str]) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.structures import BoxMode

    dicts = DatasetCatalog.get(names[0])
    assert len(dicts) == 3 * 8
    assert len({d["image_id"] for d in dicts}) == len(dicts)
    annotation = next(a for d in dicts for a in d["annotations"])
    assert annotation["bbox_mode"] is BoxMode.XYXY_ABS
    metadata = MetadataCatalog.get(names[0])
    assert metadata.thing_classes == ["small", "large"]
    assert len(set(metadata.thing_colors)) == 2

    scans = DatasetCatalog.get(names[1])
    assert len(scans) == 4 * 8
    assert "annotations" not in scans[0]
    assert MetadataCatalog.get(names[1]).thing_classes == ["distorted"]


def test_a_name_is_taken_once(names: tuple[str, str], phantom: Path) -> None:
    from mrssl.engines.detectron2 import register_mri

    with pytest.raises(MrsslError, match=r"phantom_labeled.*already"):
        register_mri(names[0], phantom)


def test_what_is_left_of_another_data_set_of_the_name_is_told(
    names: tuple[str, str], phantom: Path
) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from mrssl.engines.detectron2 import register_mri

    DatasetCatalog.register("gone", list)
    DatasetCatalog.remove("gone")
    MetadataCatalog.get("gone").set(thing_classes=["another"])
    before = MetadataCatalog.get("gone").as_dict()
    try:
        with pytest.raises(
            MrsslError, match=r"gone.*thing_classes.*MetadataCatalog.remove\('gone'"
        ):
            register_mri("gone", f"{phantom}:train")
        assert "gone" not in DatasetCatalog.list()
        assert MetadataCatalog.get("gone").as_dict() == before
        MetadataCatalog.remove("gone")
        for _ in range(2):  # the same again needs no forgetting
            register_mri("gone", f"{phantom}:train")
            DatasetCatalog.remove("gone")
    finally:
        MetadataCatalog.remove("gone")


def test_the_configuration_takes_names_and_paths_alike(
    make_config: MakeConfig, names: tuple[str, str], phantom: Path, tmp_path: Path
) -> None:
    from mrssl.engines.datasets import RunData
    from mrssl.engines.detectron2 import load_registered

    by_name, by_path = (
        RunData(
            make_config("finetune", tmp_path, "DATASETS.TRAIN", f"('{name}',)"),
            load=load_registered,
        )
        for name in (names[0], f"{phantom}:train")
    )
    assert by_name.train == by_path.train
    assert by_name.class_names == by_path.class_names == ["small", "large"]


def test_a_data_set_of_photographs_is_refused_in_words(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    from detectron2.data import DatasetCatalog

    from mrssl.engines.detectron2 import load_registered

    DatasetCatalog.register("photographs", lambda: [{"file_name": "a.jpg", "image_id": 0}])
    try:
        with pytest.raises(MrsslError, match=r"photographs.*slice_index"):
            load_registered("photographs")
    finally:
        DatasetCatalog.remove("photographs")


def test_detectron2s_own_loader_and_sampler_take_the_mapper(
    make_config: MakeConfig, names: tuple[str, str], tmp_path: Path
) -> None:
    from detectron2.data import build_detection_train_loader

    from mrssl.engines.detectron2 import MRIDatasetMapper

    cfg = make_config("pretrain", tmp_path, "DATASETS.TRAIN", f"('{names[1]}',)")
    loader = build_detection_train_loader(cfg, mapper=MRIDatasetMapper(cfg, True))
    batch = next(iter(loader))
    assert len(batch) == cfg.SOLVER.IMS_PER_BATCH
    targets = batch[0]["instances"]
    assert batch[0]["image"].shape[1:] == targets.image_size
    assert len(targets.gt_boxes) == len(targets.gt_masks) == len(targets.gt_restoration)

    cfg = make_config("finetune", tmp_path, "DATASETS.TRAIN", f"('{names[0]}',)")
    loader = build_detection_train_loader(cfg, mapper=MRIDatasetMapper(cfg, True))
    classes = [x["instances"].gt_classes for batch in islice(loader, 8) for x in batch]
    assert set(torch.cat(classes).tolist()) == {0, 1}


def test_the_mapper_borrows_tissue_as_the_projects_own_loader_does(
    make_config: MakeConfig, names: tuple[str, str], tmp_path: Path
) -> None:
    from detectron2.data import DatasetCatalog

    from mrssl.engines.datasets import RunData
    from mrssl.engines.detectron2 import MRIDatasetMapper, load_registered

    cfg = make_config(
        "pretrain", tmp_path, "DATASETS.TRAIN", f"('{names[1]}',)",
        "MRSSL.PRETEXT.OTHER_SUBJECT", 1.0, "MRSSL.PRETEXT.CLEAN_SHARE", 0.0,
    )  # fmt: skip
    mapper = MRIDatasetMapper(cfg, True).mapper
    records = DatasetCatalog.get(names[1])
    for record in records[3:20:4]:
        sample = mapper(record)
        assert sample["donor"]["file_name"] != record["file_name"]
    data = RunData(cfg, seed=max(cfg.SEED, 0), load=load_registered)
    assert list(data.train) == records
    np.testing.assert_array_equal(data.train_mapper(record)["image"], sample["image"])


@pytest.fixture
def renumbered(phantom: Path) -> Any:
    """The labelled phantom with other values of its classes, by name and by path."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from mrssl.engines.detectron2 import register_mri

    description = json.loads(phantom.read_text()) | {
        "labels": {"background": 0, "small": 2, "large": 3}
    }
    other = phantom.with_name("renumbered_d2.json")
    other.write_text(json.dumps(description))
    register_mri("phantom_renumbered", f"{other}:train")
    yield "phantom_renumbered", f"{other}:train"
    DatasetCatalog.remove("phantom_renumbered")
    MetadataCatalog.remove("phantom_renumbered")


@pytest.mark.parametrize("is_train", [True, False])
def test_one_mapper_serves_sets_that_number_their_classes_alike(
    make_config: MakeConfig, names: tuple[str, str], renumbered: tuple[str, str], tmp_path: Path,
    is_train: bool,
) -> None:  # fmt: skip
    from mrssl.engines.detectron2 import MRIDatasetMapper

    key = "DATASETS.TRAIN" if is_train else "DATASETS.TEST"
    for other in renumbered:
        for pair in ((names[0], other), (other, names[0])):
            cfg = make_config("finetune", tmp_path, key, repr(pair))
            with pytest.raises(MrsslError, match=f"{key} .*its labels .* are not those of"):
                MRIDatasetMapper(cfg, is_train)
    with pytest.raises(MrsslError, match="phantom_typo"):
        MRIDatasetMapper(make_config("finetune", tmp_path, key, "('phantom_typo',)"), is_train)


@pytest.mark.parametrize("is_train", [True, False])
def test_the_mapper_reads_labels_by_the_classes_of_a_path(
    make_config: MakeConfig, names: tuple[str, str], phantom: Path, tmp_path: Path, is_train: bool
) -> None:
    from detectron2.data import DatasetCatalog

    from mrssl.engines.detectron2 import MRIDatasetMapper

    key = "DATASETS.TRAIN" if is_train else "DATASETS.TEST"
    record = next(d for d in DatasetCatalog.get(names[0]) if len(d["annotations"]) == 2)
    # A set without labels besides has no say.
    chosen = repr((names[1], f"{phantom}:train"))
    found = MRIDatasetMapper(make_config("finetune", tmp_path, key, chosen), is_train)(record)
    classes = found["instances"].gt_classes if is_train else found["ground_truth"]["classes"]
    assert sorted(classes.tolist()) == [0, 1]


def test_labels_of_a_set_that_the_configuration_does_not_name_are_refused(
    make_config: MakeConfig, names: tuple[str, str], tmp_path: Path
) -> None:
    from detectron2.data import DatasetCatalog, build_detection_test_loader

    from mrssl.engines.detectron2 import MRIDatasetMapper

    cfg = make_config("finetune", tmp_path, "DATASETS.TEST", "()")
    mapper = MRIDatasetMapper(cfg, False)
    with pytest.raises(MrsslError, match=r"DATASETS.TEST does not name the data set of .*subject0"):
        next(iter(build_detection_test_loader(cfg, names[0], mapper=mapper)))
    record = DatasetCatalog.get(names[1])[0]
    assert "boxes" not in mapper(record)["ground_truth"]  # without labels there is nothing to read


def test_labels_of_other_code_need_their_values(
    make_config: MakeConfig, names: tuple[str, str], tmp_path: Path
) -> None:
    from detectron2.data import DatasetCatalog

    from mrssl.engines.detectron2 import MRIDatasetMapper

    DatasetCatalog.register("by_hand", lambda: DatasetCatalog.get(names[0]))
    try:
        cfg = make_config("finetune", tmp_path, "DATASETS.TRAIN", repr((names[0], "by_hand")))
        with pytest.raises(MrsslError, match=r"by_hand.*class_values"):
            MRIDatasetMapper(cfg, True)
    finally:
        DatasetCatalog.remove("by_hand")


@pytest.mark.parametrize("key", ["SEVERITY_CURRICULUM", "REGIONS_CURRICULUM"])
def test_a_curriculum_needs_to_know_the_iteration(
    make_config: MakeConfig, names: tuple[str, str], tmp_path: Path, key: str
) -> None:
    from detectron2.data import build_detection_train_loader

    from mrssl.engines.detectron2 import MRIDatasetMapper, MRITrainer

    def config(points: str) -> Any:
        return make_config(
            "pretrain", tmp_path, "DATASETS.TRAIN", f"('{names[1]}',)",
            f"MRSSL.PRETEXT.{key}", points,
        )  # fmt: skip

    cfg = config("((0, 0.5), (9, 1.0))")
    mapper = MRIDatasetMapper(cfg, True)
    with pytest.raises(MrsslError, match=f"MRSSL.PRETEXT.{key}.*MRITrainer"):
        next(iter(build_detection_train_loader(cfg, mapper=mapper)))
    trainer = MRITrainer(cfg)
    assert "instances" in mapper(trainer.data.train[3], epoch=0, iteration=2)
    assert len(next(trainer._train_loader(2))) == cfg.SOLVER.IMS_PER_BATCH
    MRIDatasetMapper(cfg, False)(trainer.data.test[3])  # evaluation has no iterations
    assert MRIDatasetMapper(config("((0, 0.5),)"), True)(trainer.data.train[3])  # constant


def test_a_sample_follows_from_epoch_and_slice(make_config: MakeConfig, tmp_path: Path) -> None:
    from mrssl.engines.datasets import RunData
    from mrssl.engines.detectron2 import MRIDatasetMapper

    data = RunData(make_config("pretrain", tmp_path))
    mapper = MRIDatasetMapper(data.train_mapper)
    record = data.train[3]
    first, again, later = (mapper(record, epoch=e)["image"] for e in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    np.random.seed(0)  # without an epoch, each call is another one
    assert not torch.equal(mapper(record)["image"], mapper(record)["image"])


def test_both_engines_train_on_the_same_samples(make_config: MakeConfig, tmp_path: Path) -> None:
    from mrssl.engines.detectron2 import MRITrainer
    from mrssl.engines.torchvision.batches import collate

    trainer = MRITrainer(make_config("pretrain", tmp_path, "DATALOADER.NUM_WORKERS", 2))
    stream = trainer.data.train_loader(start_iteration=2, collate=collate)
    ours = islice(stream, 3)
    theirs = islice(trainer._train_loader(2), 3)
    for a, b in zip(ours, theirs, strict=True):
        for x, y in zip(a, b, strict=True):
            assert torch.equal(x["image"], y["image"])
            assert torch.equal(x["targets"]["boxes"], y["instances"].gt_boxes.tensor)
            assert torch.equal(x["targets"]["types"], y["instances"].gt_types)


def test_synthetic_annotations_can_be_drawn(make_config: MakeConfig, tmp_path: Path) -> None:
    from detectron2.data import MetadataCatalog
    from detectron2.utils.visualizer import Visualizer

    from mrssl.engines.datasets import RunData
    from mrssl.engines.detectron2 import MRIDatasetMapper, annotate

    cfg = make_config("pretrain", tmp_path, "MRSSL.PRETEXT.CLEAN_SHARE", 0.0)
    data = RunData(cfg)
    drawn = annotate(MRIDatasetMapper(data.train_mapper)(data.train[3], epoch=0))
    assert drawn["annotations"]
    picture = drawn["image"]
    visualizer = Visualizer(picture, MetadataCatalog.get("drawn").set(thing_classes=["distorted"]))
    output = visualizer.draw_dataset_dict(drawn).get_image()
    assert output.shape == picture.shape
    assert (output != picture).any()


def test_detectron2s_own_evaluator_scores_the_truth_as_perfect(
    make_config: MakeConfig, names: tuple[str, str], tmp_path: Path
) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import COCOEvaluator
    from detectron2.structures import Boxes, Instances
    from pycocotools import mask as coco

    evaluator = COCOEvaluator(names[0], output_dir=str(tmp_path), use_fast_impl=False)
    evaluator.reset()
    for record in DatasetCatalog.get(names[0]):
        found = Instances((record["height"], record["width"]))
        annotations = record["annotations"]
        found.pred_boxes = Boxes(torch.tensor([a["bbox"] for a in annotations]).reshape(-1, 4))
        found.scores = torch.ones(len(annotations))
        found.pred_classes = torch.tensor([a["category_id"] for a in annotations], dtype=torch.long)
        masks = [coco.decode(a["segmentation"]) for a in annotations]
        shape = (len(masks), *found.image_size)
        found.pred_masks = torch.from_numpy(np.array(masks, bool).reshape(shape))
        evaluator.process([record], [{"instances": found}])
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == pytest.approx(100.0)
    assert results["bbox"]["AP"] == pytest.approx(100.0)
    assert MetadataCatalog.get(names[0]).thing_classes == ["small", "large"]
