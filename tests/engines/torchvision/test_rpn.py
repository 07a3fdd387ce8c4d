from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from mrssl.engines.torchvision.rpn import ExactAnchorGenerator, SeededSampler

SIZES, RATIOS = ((16,), (32,), (64,), (128,), (256,)), ((0.5, 1.0, 2.0),) * 5
STRIDES = (4, 8, 16, 32, 64)


def anchors_of(height, width, images=2):
    """Anchors of a padded batch, and the sides of its levels; no multiple of 64 is needed."""
    sides = [(-(-height // s), -(-width // s)) for s in STRIDES]
    levels = [torch.zeros(images, 1, *side) for side in sides]
    batch = ImageList(torch.zeros(images, 3, height, width), [(height, width)] * images)
    return ExactAnchorGenerator(SIZES, RATIOS)(batch, levels), sides


def test_anchors_in_closed_form():
    """Detectron2: w = sqrt(size^2 / ratio), h = ratio w, about the top left corner of a cell."""
    (anchors, again), sides = anchors_of(96, 160)
    assert torch.equal(anchors, again)
    expected = [
        [x * stride - w / 2, y * stride - w * r / 2, x * stride + w / 2, y * stride + w * r / 2]
        for stride, (size,), ratios, (rows, columns) in zip(
            STRIDES, SIZES, RATIOS, sides, strict=True
        )
        for y in range(rows)
        for x in range(columns)
        for r in ratios
        for w in [math.sqrt(size**2 / r)]
    ]
    torch.testing.assert_close(anchors, torch.tensor(expected), rtol=0, atol=1e-4)


def test_sizes_run_before_ratios():
    cell = ExactAnchorGenerator(SIZES, RATIOS).generate_anchors((10, 20), (0.25, 1.0, 4.0))
    assert (cell[:, 2] - cell[:, 0]).tolist() == [20, 10, 5, 40, 20, 10]
    assert (cell[:, 3] - cell[:, 1]).tolist() == [5, 10, 20, 10, 20, 40]


@pytest.mark.detectron2
def test_anchors_are_detectron2s():
    from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

    theirs = DefaultAnchorGenerator(
        sizes=SIZES, aspect_ratios=RATIOS, strides=list(STRIDES), offset=0.0
    )
    for height, width in ((96, 160), (224, 288), (320, 32)):
        (ours, _), sides = anchors_of(height, width)
        expected = theirs([torch.zeros(1, 1, *side) for side in sides])
        torch.testing.assert_close(
            ours, torch.cat([boxes.tensor for boxes in expected]), rtol=0, atol=1e-4
        )


def sample(labels, seeds, size=16, fraction=0.25):
    sampler = SeededSampler(size, fraction)
    sampler.seeds = seeds
    return sampler(labels)


def draw_labels(positives, negatives, ignored, seed=0):
    labels = torch.tensor([1.0] * positives + [0.0] * negatives + [-1.0] * ignored)
    generator = torch.Generator().manual_seed(seed)
    return labels[torch.randperm(len(labels), generator=generator)]


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [
        (10, 100, (4, 12)),  # enough of both: a quarter
        (2, 100, (2, 14)),  # negatives fill up
        (0, 100, (0, 16)),
        (50, 5, (4, 5)),  # positives never fill up
        (50, 0, (4, 0)),
        (0, 0, (0, 0)),
    ],
)
def test_how_many_are_sampled(positives, negatives, expected):
    labels = draw_labels(positives, negatives, 20)
    (positive,), (negative,) = sample([labels], [3])
    assert (int(positive.sum()), int(negative.sum())) == expected
    assert positive.dtype == torch.bool and positive.shape == labels.shape
    assert (labels[positive] == 1).all() and (labels[negative] == 0).all()


def test_classes_above_one_are_positives_too():
    (positive,), _ = sample([torch.tensor([0, 3, 0, 7, 1])], [0], fraction=0.5)
    assert positive.tolist() == [False, True, False, True, True]


def test_a_sample_follows_from_its_own_seed_alone():
    labels = [draw_labels(30, 200, 10, seed) for seed in range(3)]
    torch.manual_seed(0)
    together = sample(labels, [5, 6, 7])
    torch.manual_seed(1)
    torch.rand(100)
    for i, seed in enumerate((5, 6, 7)):
        alone = sample(labels[i : i + 1], [seed])
        assert torch.equal(alone[0][0], together[0][i])
        assert torch.equal(alone[1][0], together[1][i])


def test_other_seeds_give_other_samples_of_equal_chances():
    labels = draw_labels(8, 40, 0)
    counts = torch.zeros(len(labels))
    draws = 300
    for seed in range(draws):
        (positive,), (negative,) = sample([labels], [seed], size=16)
        counts += positive | negative
    chance = torch.where(labels == 1, 4 / 8, 12 / 40)
    deviation = (draws * chance * (1 - chance)).sqrt()
    assert ((counts - draws * chance).abs() < 4.5 * deviation).all()


def test_the_global_generator_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    sample([draw_labels(5, 50, 0)], [1])
    assert torch.equal(torch.rand(3), expected)


def test_seeds_of_another_batch_are_an_error():
    with pytest.raises(ValueError):
        sample([draw_labels(5, 50, 0)], [1, 2])
