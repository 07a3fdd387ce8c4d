"""The improved mask head in both engines: chosen by its name, the same numbers, transferable."""

from __future__ import annotations

import pytest
import torch

from mrssl.checkpoint import (
    Provenance,
    export_checkpoint,
    load_for_transfer,
    load_strict,
    save_checkpoint,
    to_detectron2,
    to_torchvision,
)
from mrssl.config import load_cfg
from mrssl.engines.torchvision import build_model
from mrssl.errors import MrsslError
from mrssl.modeling import ImprovedMaskHead, TwoScalePooler, mask_rcnn_loss, mask_targets
from mrssl.structures import RestorationTargets

FINETUNE = "configs/finetune/improved_mask_R_18_FPN_small.yaml"
PRETRAIN = "configs/pretrain/improved_distortion_R_18_FPN_small.yaml"
SMALL = [
    "MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", "16", "MODEL.FPN.NORM", "",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "16", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8",
    "MODEL.RPN.POST_NMS_TOPK_TEST", "20",
]  # fmt: skip


@pytest.fixture(scope="module")
def configure(repository_root):
    def load(file=FINETUNE, *overrides, classes=2, **options):
        heads = ["MODEL.ROI_HEADS.NUM_CLASSES", str(classes)]
        return load_cfg(repository_root / file, [*SMALL, *heads, *overrides], **options)

    return load


@pytest.fixture
def detectron2_model(configure):
    def build(file=FINETUNE, *overrides, classes=2):
        from detectron2.modeling import build_model as build_detectron2_model

        from mrssl.engines.detectron2 import get_cfg

        return build_detectron2_model(configure(file, *overrides, classes=classes, cfg=get_cfg()))

    return build


def decided(model):
    """Mask logits away from zero, where both engines would agree on anything; FPN not in vain."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        layer = model.roi_heads.mask_head.logits
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    return model.eval()


def slices(count=2, height=96, width=128):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, height // 8, width // 8, generator=generator)
    images = torch.nn.functional.interpolate(images, (height, width), mode="bilinear") * 255
    return [{"image": image, "height": height, "width": width} for image in images]


def instances(regions, *, types=0):
    """Targets of the torchvision engine: the first regions of three rectangles."""
    boxes = torch.tensor([[10.0, 12, 50, 60], [60, 20, 120, 90], [4, 70, 40, 95]])[:regions]
    masks = torch.zeros(regions, 96, 128, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    targets = {"boxes": boxes, "labels": torch.ones(regions).long(), "masks": masks}
    if types:
        targets["types"] = torch.ones(regions, types)
        targets["restoration"] = RestorationTargets(torch.rand(2, 96, 128), masks)
    return targets


@pytest.mark.parametrize(
    ("file", "base"),
    [
        (FINETUNE, "mask_R_18_FPN_small"),
        ("configs/finetune/improved_mask_R_50_FPN.yaml", "mask_R_50_FPN"),
        (PRETRAIN, "distortion_R_18_FPN_small"),
        ("configs/pretrain/improved_distortion_R_50_FPN.yaml", "distortion_R_50_FPN"),
    ],
)
def test_configurations_differ_from_their_stock_ones_in_the_head_alone(repository_root, file, base):
    improved = load_cfg(repository_root / file)
    stock = load_cfg((repository_root / file).with_name(f"{base}.yaml"))
    assert improved.MODEL.ROI_MASK_HEAD.NAME == "ImprovedMaskHead"
    improved.defrost()
    improved.MODEL.ROI_MASK_HEAD = stock.MODEL.ROI_MASK_HEAD
    assert improved == stock


def test_the_name_alone_chooses_the_head(configure, repository_root):
    for overrides in ([], ["MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIAlignV2"]):
        heads = build_model(configure(FINETUNE, *overrides)).roi_heads
        assert isinstance(heads.mask_head, ImprovedMaskHead)
        assert isinstance(heads.mask_roi_pool, TwoScalePooler)
        assert heads.mask_head.logits.out_channels == 2
        assert heads.mask_roi_pool.fine.resolution == 28


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NAME", "PointRendMaskHead", r"ROI_MASK_HEAD.NAME 'PointRendMaskHead'.*ImprovedMaskHead"),
        ("POOLER_TYPE", "ROIPool", r"MODEL.ROI_MASK_HEAD.POOLER_TYPE 'ROIPool'"),
        ("NORM", "LN", r"MODEL.ROI_MASK_HEAD.NORM 'LN': the torchvision engine has"),
    ],
)
def test_what_the_torchvision_engine_has_not(configure, key, value, message):
    with pytest.raises(MrsslError, match=message):
        build_model(configure(FINETUNE, f"MODEL.ROI_MASK_HEAD.{key}", value))


@torch.no_grad()
def test_detections_take_the_mask_of_their_own_class(configure):
    """Class c's logits are a constant of their own: probability 1 for class 0, 0 for class 1."""
    model = build_model(configure()).eval()
    layer = model.roi_heads.mask_head.logits
    layer.weight.zero_()
    layer.bias.copy_(torch.tensor([20.0, -20.0]))
    seen = set()
    for found in model(slices()):
        assert found["masks"].shape[1:] == (96, 128)
        for number, mask in zip(found["classes"].tolist(), found["masks"], strict=True):
            seen.add(number)
            assert bool(mask.any()) == (number == 0)
    assert seen == {0, 1}


def test_pretraining_with_it_gives_every_loss_a_gradient(configure):
    torch.manual_seed(0)
    model = build_model(configure(PRETRAIN, classes=1), num_types=4).train()
    inputs = slices(3)
    for seed, (x, regions) in enumerate(zip(inputs, (3, 1, 0), strict=True)):
        x |= {"seed": seed, "targets": instances(regions, types=4)}
    losses = model(inputs)
    assert {"loss_mask", "loss_type", "loss_restoration"} <= set(losses)
    assert losses["loss_mask"].item() == pytest.approx(0.693, abs=0.02)
    sum(losses.values()).backward()
    for name, parameter in model.roi_heads.mask_head.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_a_batch_without_instances_trains_too(configure):
    model = build_model(configure()).train()
    inputs = [x | {"seed": 0, "targets": instances(0)} for x in slices()]
    losses = model(inputs)
    assert losses["loss_mask"].item() == 0.0
    sum(losses.values()).backward()
    for name, parameter in model.roi_heads.mask_head.named_parameters():
        assert parameter.grad is not None, name


def test_names_survive_both_conversions(configure):
    state = build_model(configure()).state_dict()
    converted = to_detectron2(state)
    names = {n for n in state if n.startswith("roi_heads.mask_head.")}
    assert len(names) == 16 and names <= set(converted)
    assert not any("mask_predictor" in name for name in state)
    for name, tensor in to_torchvision(converted).items():
        assert torch.equal(tensor, state[name]), name


def test_fine_tuning_takes_the_pretrained_head_but_for_its_last_layer(configure):
    source = to_detectron2(build_model(configure(PRETRAIN, classes=1), num_types=4).state_dict())
    model = build_model(configure(classes=3))
    report = load_for_transfer(model, {"model": source}, scope="detector", names="torchvision")
    counts = report.counts()
    assert counts["mask_head"] == {"loaded": 14, "new": 0, "dropped": 0, "mismatched": 0}
    assert counts["mask_predictor"] == {"loaded": 0, "new": 2, "dropped": 2, "mismatched": 0}
    loaded = model.state_dict()
    assert torch.equal(
        loaded["roi_heads.mask_head.up2.weight"], source["roi_heads.mask_head.up2.weight"]
    )


def test_neither_head_is_taken_for_the_other(configure):
    stock = configure("configs/finetune/mask_R_18_FPN_small.yaml")
    state = to_detectron2(build_model(stock).state_dict())
    report = load_for_transfer(
        build_model(configure()), {"model": state}, scope="detector", names="torchvision"
    )
    counts = report.counts()["mask_head"]
    assert counts == {"loaded": 0, "new": 14, "dropped": 10, "mismatched": 0}


def test_an_export_for_stock_programs_leaves_it_out_and_says_so(configure, tmp_path):
    import yaml

    state = to_detectron2(build_model(configure()).state_dict())
    node = {"NAME": "ImprovedMaskHead", "POOLER_TYPE": "", "POOLER_RESOLUTION": 14}
    provenance = Provenance(task="finetune", model_config={"MODEL": {"ROI_MASK_HEAD": node}})
    path = tmp_path / "model_final.pth"
    save_checkpoint(path, {"model": state, "mrssl": provenance.to_dict()})
    report = export_checkpoint(path, tmp_path / "detector.pth", to="detectron2")
    assert len(report.dropped["mask_head"]) == 14 and len(report.dropped["mask_predictor"]) == 2
    assert any("mask head is not the stock one" in note for note in report.notes)
    written = yaml.safe_load(report.config.read_text())["MODEL"]["ROI_MASK_HEAD"]
    assert written == {
        "NAME": "MaskRCNNConvUpsampleHead", "POOLER_TYPE": "ROIAlignV2", "POOLER_RESOLUTION": 14,
    }  # fmt: skip


@pytest.mark.detectron2
@pytest.mark.parametrize("norm", ["", "GN"])
@torch.no_grad()
def test_both_engines_detect_the_same(configure, detectron2_model, norm):
    torch.manual_seed(1)
    ours = decided(build_model(configure(FINETUNE, "MODEL.ROI_MASK_HEAD.NORM", norm)))
    theirs = detectron2_model(FINETUNE, "MODEL.ROI_MASK_HEAD.NORM", norm).eval()
    state = to_detectron2(ours.state_dict())
    load_strict(theirs, {"model": state})
    assert {n for n in state if "mask_head" in n} == {
        n for n in theirs.state_dict() if "mask_head" in n
    }
    inputs = slices()
    for found, expected in zip(ours(inputs), theirs(inputs), strict=True):
        expected = expected["instances"]
        assert len(found["boxes"]) == len(expected) > 5
        torch.testing.assert_close(found["boxes"], expected.pred_boxes.tensor, rtol=0, atol=1e-3)
        torch.testing.assert_close(found["scores"], expected.scores, rtol=0, atol=1e-5)
        assert torch.equal(found["classes"], expected.pred_classes)
        share = expected.pred_masks.float().mean()
        assert 0.01 < share < 0.9
        assert (found["masks"] != expected.pred_masks).float().mean() <= 1e-4


@pytest.mark.detectron2
def test_both_engines_have_the_same_loss_and_gradients(configure, detectron2_model):
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)
    ours = decided(build_model(configure())).train()
    theirs = detectron2_model().train()
    load_strict(theirs, {"model": to_detectron2(ours.state_dict())})
    features = {
        name: torch.randn(2, 16, 96 // s, 128 // s)
        for name, s in zip(("p2", "p3", "p4", "p5"), (4, 8, 16, 32), strict=True)
    }
    target = instances(3)
    boxes = [target["boxes"] + torch.tensor([[-3.0, 1.5, 2.0, 4.0]]), target["boxes"][:0]]
    classes = torch.tensor([1, 0, 1])

    heads = ours.roi_heads
    logits = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(features, boxes)))
    wanted = mask_targets(target["masks"], boxes[0], torch.arange(3), 56)
    loss = mask_rcnn_loss(logits, classes + 1, wanted)

    proposals = [Instances((96, 128), proposal_boxes=Boxes(b)) for b in boxes]
    proposals[0].gt_classes = classes
    proposals[0].gt_masks = BitMasks(target["masks"])
    with EventStorage():
        expected = theirs.roi_heads.mask_head(features, proposals)["loss_mask"]
    assert expected.item() > 0.1
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)

    loss.backward()
    expected.backward()
    gradients = dict(theirs.roi_heads.mask_head.named_parameters())
    for name, parameter in heads.mask_head.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=1e-4, atol=1e-6)


@pytest.mark.detectron2
def test_crops_are_those_of_detectron2s_pooler():
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.structures import Boxes

    generator = torch.Generator().manual_seed(0)
    strides, names = (4, 8, 16, 32), ("p2", "p3", "p4", "p5")
    levels = [torch.rand(2, 3, 512 // s, 512 // s, generator=generator) for s in strides]
    corners = torch.rand(2, 40, 2, 2, generator=generator).pow(2) * 512
    boxes = list(torch.cat([corners.amin(2), corners.amax(2)], dim=2))
    crops = TwoScalePooler(names, strides, 14, 2)(dict(zip(names, levels, strict=True)), boxes)
    for crop, side, canonical in zip(crops, (14, 28), (4, 3), strict=True):
        pooler = ROIPooler(side, [1 / s for s in strides], 2, "ROIAlignV2", 224, canonical)
        torch.testing.assert_close(crop, pooler(levels, [Boxes(b) for b in boxes]))


@pytest.mark.detectron2
def test_detectron2s_own_roi_heads_train_it(detectron2_model):
    """Stock ``StandardROIHeads``, a slice with instances and one without any."""
    from detectron2.modeling.roi_heads import StandardROIHeads
    from detectron2.structures import BitMasks, Boxes, Instances
    from detectron2.utils.events import EventStorage

    torch.manual_seed(0)
    model = detectron2_model().train()
    assert type(model.roi_heads) is StandardROIHeads
    inputs = slices()
    for x, regions in zip(inputs, (3, 0), strict=True):
        target = instances(regions)
        x["instances"] = Instances(
            (96, 128),
            gt_boxes=Boxes(target["boxes"]),
            gt_classes=target["labels"] - 1,
            gt_masks=BitMasks(target["masks"]),
        )
    for batch, expected in ((inputs, 0.693), (inputs[1:], 0.0)):
        model.zero_grad()
        with EventStorage():
            losses = model(batch)
        assert losses["loss_mask"].item() == pytest.approx(expected, abs=0.02)
        sum(losses.values()).backward()
        for name, parameter in model.roi_heads.mask_head.named_parameters():
            assert parameter.grad is not None, name


@pytest.mark.detectron2
@torch.no_grad()
def test_detectron2_without_detections(detectron2_model):
    model = detectron2_model(FINETUNE, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.999").eval()
    (found,) = model(slices(1))
    assert len(found["instances"]) == 0
    assert found["instances"].pred_masks.shape == (0, 96, 128)


@pytest.mark.detectron2
def test_detectron2_wants_no_pooler_type_of_its_own(detectron2_model):
    with pytest.raises(MrsslError, match=r"POOLER_TYPE 'ROIAlignV2'.*pools by itself"):
        detectron2_model(FINETUNE, "MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIAlignV2")


@pytest.mark.detectron2
def test_class_agnostic_masks_in_detectron2(detectron2_model):
    model = detectron2_model(FINETUNE, "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "True")
    assert model.roi_heads.mask_head.logits.out_channels == 1


@pytest.mark.detectron2
def test_it_is_built_from_keyword_arguments_too():
    from mrssl.engines.detectron2.mask_head import ImprovedMaskHead as Head

    pooler = TwoScalePooler(("p2", "p3"), (4, 8), 7, 2)
    head = Head(pooler=pooler, loss_weight=0.5, in_channels=4, num_classes=2, conv_dim=8)
    assert head.loss_weight == 0.5 and head.vis_period == 0
    assert not any(name.startswith("pooler") for name in head.state_dict())
