"""From the instances of slices to the structures of a volume, as yet without names.

Shape letters: H, W rows and columns of a slice, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from scipy.optimize import linear_sum_assignment

from mrssl.evaluation.coco_scoring import decode_mask, encode_masks
from mrssl.structures import ClassLayout

#: Class (0-based), score in [0, 1] and run lengths of an instance.
Instance = tuple[int, float, dict[str, Any]]

#: Another name is always so likely.
LEAST_PROBABILITY = 0.02
#: Instances of a slice that overlap by this IoU are one thing with several names.
_SAME_THING = 0.5
#: Things in neighbouring slices that overlap by this IoU are one structure.
_SAME_STRUCTURE = 0.3
#: Unless two names explain its scores so many times better than one, little less than what one
#: slice tells that is sure of its name, and its places better.
_TWO_NAMES = 20.0


@dataclass
class Thing:
    """What a slice shows at one place, under all names that the detector gave it.

    Attributes:
        mask: run lengths, those of the surest instance.
        scores: float64 (C,), summing to about 1 at most.
    """

    mask: dict[str, Any]
    scores: npt.NDArray[np.float64]


@dataclass
class Structure:
    """Things of consecutive slices that overlap.

    Attributes:
        things: by slice index.
    """

    things: dict[int, Thing] = field(default_factory=dict)

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """Mean scores of the classes over the slices, (C,)."""
        return np.mean([thing.scores for thing in self.things.values()], axis=0)

    def center(self, spacing: Sequence[float]) -> npt.NDArray[np.float64]:
        """Centre of mass, mm along D, H, W."""
        sums, pixels = np.zeros(3), 0
        for index, thing in self.things.items():
            rows, columns = np.nonzero(decode_mask(thing.mask))
            sums += len(rows) * index, rows.sum(), columns.sum()
            pixels += len(rows)
        return sums / max(pixels, 1) * np.asarray(spacing)


def instances_of(prediction: Mapping[str, Any]) -> list[Instance]:
    """The instances of a slice as they are kept until its volume is complete.

    Args:
        prediction: with ``classes`` (N,), ``scores`` (N,) and ``masks`` (N, H, W).
    """
    masks = encode_masks(np.asarray(prediction["masks"], bool))
    classes, scores = (np.asarray(prediction[name]).tolist() for name in ("classes", "scores"))
    return [*zip(classes, scores, masks, strict=True)]


def things_of_slice(instances: Sequence[Instance], num_classes: int) -> list[Thing]:
    """Merge the instances of a slice that cover the same place, surest first."""
    found = sorted(instances, key=lambda instance: -instance[1])
    things: list[Thing] = []
    for category, score, mask in found:
        overlaps = _overlaps([thing.mask for thing in things], [mask])
        if len(things) and overlaps.max() >= _SAME_THING:
            scores = things[int(overlaps.argmax())].scores
            scores[category] = max(scores[category], score)
        elif coco_mask.area(mask):
            things.append(Thing(mask, np.zeros(num_classes)))
            things[-1].scores[category] = score
    return things


def join_slices(slices: Mapping[int, Sequence[Thing]]) -> list[Structure]:
    """Join the things of neighbouring slices, one to one, for the largest overlap."""
    structures: list[Structure] = []
    open_structures: list[Structure] = []
    for index in sorted(slices):
        before = [s for s in open_structures if index - 1 in s.things]
        overlaps = _overlaps(
            [s.things[index - 1].mask for s in before], [thing.mask for thing in slices[index]]
        )
        overlaps[overlaps < _SAME_STRUCTURE] = 0
        pairs = zip(*linear_sum_assignment(overlaps, maximize=True), strict=True)
        continued = {column: before[row] for row, column in pairs if overlaps[row, column] > 0}
        open_structures = []
        for place, thing in enumerate(slices[index]):
            structure = continued.get(place)
            if structure is None:
                structure = Structure()
                structures.append(structure)
            structure.things[index] = thing
            open_structures.append(structure)
    return structures


def cut_by_names(
    structure: Structure, layout: ClassLayout, spacing: Sequence[float]
) -> list[Structure]:
    """Cut a structure where one name ends and another begins.

    Structures that follow one another along the slices, such as vertebra and disc in axial ones,
    overlap as the parts of one do. What tells them apart are scores that change for good, and that
    the parts lie to each other as their classes do: a detector that gives the two sides of one
    structure different names does not split it.

    Args:
        structure: as joined by overlap.
        layout: of the classes, along the axes of the volume.
        spacing: mm along D, H, W.

    Returns:
        The parts, in the order of the slices; the structure itself where one name will do.
    """
    done: list[Structure] = []
    left = [structure]
    while left:
        structure = left.pop()
        end = _end_of_name(structure, layout, spacing)
        if not end:
            done.append(structure)
            continue
        indices = sorted(structure.things)
        for part in (indices[end:], indices[:end]):
            left.append(Structure({index: structure.things[index] for index in part}))
    return done


def _end_of_name(structure: Structure, layout: ClassLayout, spacing: Sequence[float]) -> int:
    """After how many slices another name begins; 0 where one name will do."""
    indices = sorted(structure.things)
    scores = np.stack([structure.things[index].scores for index in indices])
    before = np.log(np.maximum(scores, LEAST_PROBABILITY)).cumsum(0)
    after = before[-1] - before[:-1]
    surest = scores.argmax(1)
    gains = before[:-1].max(1) + after.max(1) - before[-1].max()
    gains[surest[1:] == surest[:-1]] = 0  # among many names, several places would do
    if not len(gains) or gains.max() < np.log(_TWO_NAMES):
        return 0
    end = int(gains.argmax()) + 1
    one, first, second = (int(t.argmax()) for t in (before[-1], before[end - 1], after[end - 1]))
    centers = []
    for name, place in ((first, slice(0, end)), (second, slice(end, None))):
        shown = [i for i, c in zip(indices[place], surest[place], strict=True) if c == name]
        if not shown:
            return 0  # a name that is the surest of no slice
        centers.append(Structure({i: structure.things[i] for i in shown}).center(spacing))
    offset = centers[1] - centers[0]
    if not layout.volumes[first, second]:
        return end  # nothing is known of their places
    names, same = np.array([first, one]), np.array([second, one])
    two_names, one_name = layout.log_density(names, same, np.stack([offset, offset]))
    return end if two_names > one_name else 0


def overlapping_classes(instances: Sequence[Instance]) -> set[tuple[int, int]]:
    """Pairs of classes, the lower first, of which instances of a slice share a pixel."""
    ordered = sorted(instances, key=lambda instance: instance[0])
    masks = [mask for _, _, mask in ordered]
    pairs = np.argwhere(np.triu(_overlaps(masks, masks)) > 0).tolist()
    found = {(ordered[i][0], ordered[j][0]) for i, j in pairs}
    return {(a, b) for a, b in found if a < b}


def _overlaps(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]
) -> npt.NDArray[np.float64]:
    """IoU of each mask of one list with each of another."""
    if not first or not second:
        return np.zeros((len(first), len(second)))
    return np.asarray(coco_mask.iou(list(first), list(second), [0] * len(second)))


__all__ = [
    "LEAST_PROBABILITY",
    "Instance",
    "Structure",
    "Thing",
    "cut_by_names",
    "instances_of",
    "join_slices",
    "overlapping_classes",
    "things_of_slice",
]
