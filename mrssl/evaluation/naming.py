"""From the instances that a detector finds in slices to the label map of their volume.

A detector names what it finds slice by slice, each instance by itself. Structures that look alike,
such as neighbouring vertebrae, are told apart by their place among the others; so here the
instances of neighbouring slices are joined to structures, and the names of all structures of a
volume are chosen at once: those that agree best with the scores of the detector and with where the
classes lay, to each other and in the field of view, in the training volumes
(:class:`~mrssl.structures.ClassLayout`).

Shape letters: D slices of a volume, H, W rows and columns of a slice, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mrssl.evaluation.coco_scoring import decode_mask
from mrssl.evaluation.joining import (
    LEAST_PROBABILITY,
    Instance,
    Structure,
    cut_by_names,
    join_slices,
    things_of_slice,
)
from mrssl.structures import ClassLayout

#: How much the detector's choice of a name counts: it takes names also from where in the field of
#: view a thing lies. Chosen on fields cut at both ends, where twice as much did little.
_NAME_WEIGHT = 0.25
#: From so many training volumes on, places in the field of view count for one; of fewer, a detector
#: is surer of its names than right, and they count for more. Chosen on detectors that one, two and
#: eight volumes trained, and training subjects held out of them.
_ENOUGH_VOLUMES = 6.0
#: What has scores of so much in sum is rather there than not, and may have any name.
_RATHER_THERE = 0.5
#: Names considered in a volume, and sets of them that are kept while structures are added one by
#: one. A detector that was hardly trained sees structures everywhere.
_MOST_NAMES, _BEAM = 1000, 200


def class_volumes(
    slices: Mapping[int, Sequence[Instance]],
    shape: tuple[int, int, int],
    spacing: Sequence[float],
    *,
    num_classes: int,
    overlapping: Collection[tuple[int, int]] = (),
    layout: ClassLayout | None = None,
    threshold: float = 0.5,
) -> Iterator[npt.NDArray[np.bool_]]:
    """The volumes of the C classes: named together where there is a layout, else slice by slice.

    Classes that overlap take no pixels from each other: of those that exclude each other, the
    surest instance has the pixel.

    Args:
        slices: instances by slice index, of any score.
        shape: D, H, W.
        spacing: mm along D, H, W.
        num_classes: C.
        overlapping: pairs of classes of which a pixel may be both. Where there are any, the layout
            is left aside, since it is for classes that exclude each other.
        layout: of the classes.
        threshold: what has a lower score is left out, in [0, 1].

    Yields:
        bool (D, H, W), C times, in the order of the classes.
    """
    if not overlapping:
        if layout is None:
            labels = slicewise_volume(slices, shape, threshold=threshold)
        else:
            labels = named_volume(slices, shape, spacing, layout, threshold=threshold)
        yield from (labels == category + 1 for category in range(num_classes))
        return
    for category in range(num_classes):
        beside = partners(category, overlapping)
        rivals = {
            index: [instance for instance in found if instance[0] not in beside]
            for index, found in slices.items()
        }
        yield slicewise_volume(rivals, shape, threshold=threshold) == category + 1


def partners(category: int, overlapping: Collection[tuple[int, int]]) -> set[int]:
    """The classes that overlap with one."""
    return {other for pair in overlapping if category in pair for other in pair} - {category}


def slicewise_volume(
    slices: Mapping[int, Sequence[Instance]],
    shape: tuple[int, int, int],
    *,
    threshold: float = 0.5,
) -> npt.NDArray[np.uint16]:
    """The label map in which a pixel has the class of the surest instance that covers it.

    Args:
        slices: instances by slice index, of any score.
        shape: D, H, W.
        threshold: what has a lower score is left out, in [0, 1].

    Returns:
        uint16 (D, H, W): 0 background, else the class plus 1.
    """
    labels = np.zeros(shape, np.uint16)
    for index, instances in slices.items():
        for category, score, mask in sorted(instances[::-1], key=lambda instance: instance[1]):
            if score >= threshold:
                labels[index][decode_mask(mask)] = category + 1
    return labels


def named_volume(
    slices: Mapping[int, Sequence[Instance]],
    shape: tuple[int, int, int],
    spacing: Sequence[float],
    layout: ClassLayout,
    *,
    threshold: float = 0.5,
) -> npt.NDArray[np.uint16]:
    """The label map in which the structures of the volume are named together.

    Each class names one structure, or several in different slices of which one continues another.

    Args:
        slices: all instances by slice index, also those of low scores.
        shape: D, H, W.
        spacing: mm along D, H, W.
        layout: of the C classes.
        threshold: things whose scores sum to less are left out of the map, in [0, 1].

    Returns:
        uint16 (D, H, W): 0 background, else the class plus 1.
    """
    joined = join_slices(
        {index: things_of_slice(found, layout.num_classes) for index, found in slices.items()}
    )
    structures = [part for structure in joined for part in cut_by_names(structure, layout, spacing)]
    names = name_structures(structures, layout, spacing, np.multiply(shape, spacing))
    painted = [
        (thing.scores.sum(), index, names[place], thing.mask)
        for place in names
        for index, thing in structures[place].things.items()
        if thing.scores.sum() >= threshold
    ]
    labels = np.zeros(shape, np.uint16)
    for _, index, category, mask in sorted(painted, key=lambda item: item[:3]):
        labels[index][decode_mask(mask)] = category + 1
    return labels


def name_structures(
    structures: Sequence[Structure],
    layout: ClassLayout,
    spacing: Sequence[float],
    extent: npt.NDArray[np.float64],
) -> dict[int, int]:
    """Choose classes, or none, for the structures of a volume.

    Maximised, by beam search from the surest structure on, is the sum of

    - of each named structure, ``w (log(s / (1 - s)) + 0.25 log(p / p1))``: ``s`` the sum of its
      mean scores over the classes, so that what is rather there than not is named; ``p`` the mean
      score of the class, ``p1`` that of its likeliest; ``w`` its number of slices over that of the
      longest, so that a fragment does not take a whole structure's name;
    - of each named structure, ``max(1, 6 / V) w / n`` times what
      :meth:`~mrssl.structures.ClassLayout.place_evidence` says of its place in the field of view:
      a field that lies elsewhere moves all structures alike, so the places of the ``n`` that there
      are to be expected (the sum of ``w`` times ``s``) tell no more than one; but where the
      training volumes ``V`` are few, the scores tell little of names;
    - of each pair of them, what :meth:`~mrssl.structures.ClassLayout.evidence` says of their
      offset, times the smaller ``w``.

    Names are never rewarded, they cost what they fit worse than others. Were a fitting place worth
    a reward, five alike structures would be named rather than the four of them that have names.
    What then is rather there than not and has no name, since it lies where nothing should (the
    patient's own anatomy, a fracture), takes one that is left and that the detector thought of.

    Args:
        structures: of one volume.
        layout: of the C classes.
        spacing: mm along D, H, W.
        extent: (3,) of the volume, mm.

    Returns:
        The class of each structure that has one, by its position.
    """
    if not structures:
        return {}
    centers = np.stack([structure.center(spacing) for structure in structures])
    hypotheses, gains = _hypotheses(structures)
    places = layout.place_evidence(centers, extent)
    lengths = _lengths(structures)
    expected = sum(w * s.probabilities.sum() for w, s in zip(lengths, structures, strict=True))
    weight = max(1.0, _ENOUGH_VOLUMES / max(layout.num_volumes, 1)) / max(expected, 1.0)
    gains += (weight * lengths[:, None] * places)[tuple(hypotheses.T)]
    pairs = _pair_gains(structures, hypotheses, layout, centers, extent)
    surest = {int(place): gains[hypotheses[:, 0] == place].max() for place, _ in hypotheses}
    states: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for place in sorted(surest, key=lambda place: -surest[place]):
        grown = list(states)
        for h in np.flatnonzero(hypotheses[:, 0] == place):
            grown += [
                (score + gains[h] + pairs[h, list(chosen)].sum(), (*chosen, int(h)))
                for score, chosen in states
            ]
        grown = [state for state in grown if np.isfinite(state[0])]
        states = sorted(grown, key=lambda state: -state[0])[:_BEAM]
    names = {int(hypotheses[h, 0]): int(hypotheses[h, 1]) for h in states[0][1]}
    return names | _left_names(structures, names)


def _left_names(structures: Sequence[Structure], names: Mapping[int, int]) -> dict[int, int]:
    """Classes that no structure has, for nameless ones that are rather there than not."""
    scores = [structure.probabilities for structure in structures]
    lengths = _lengths(structures)
    nameless = [k for k, p in enumerate(scores) if k not in names and p.sum() >= _RATHER_THERE]
    left: dict[int, int] = {}
    for place in sorted(nameless, key=lambda k: -lengths[k] * scores[k].sum()):
        taken = {*names.values(), *left.values()}
        free = [c for c in np.flatnonzero(scores[place] >= LEAST_PROBABILITY) if c not in taken]
        if free:
            left[place] = int(max(free, key=lambda c: scores[place][c]))
    return left


def _hypotheses(
    structures: Sequence[Structure],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Pairs of (structure, class) that are considered (N, 2), and their gains (N,).

    Of what is rather there than not every class is considered, else only what is not less likely
    than :data:`~mrssl.evaluation.joining.LEAST_PROBABILITY`; it is also how likely it always is
    that nothing is there.
    """
    lengths = _lengths(structures)[:, None]
    scores = np.stack([structure.probabilities for structure in structures])
    likely = np.maximum(scores, LEAST_PROBABILITY)
    total = np.maximum(scores.sum(1, keepdims=True), LEAST_PROBABILITY)
    there = np.log(total / np.maximum(1 - total, LEAST_PROBABILITY))
    gains = lengths * (there + _NAME_WEIGHT * np.log(likely / likely.max(1, keepdims=True)))
    pairs = np.argwhere((scores >= LEAST_PROBABILITY) | (lengths * total >= _RATHER_THERE))
    support = (lengths * likely)[tuple(pairs.T)]
    pairs = pairs[np.sort(np.argsort(-support, kind="stable")[:_MOST_NAMES])]
    return pairs, gains[tuple(pairs.T)]


def _pair_gains(
    structures: Sequence[Structure],
    hypotheses: npt.NDArray[np.int64],
    layout: ClassLayout,
    centers: npt.NDArray[np.float64],
    extent: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """What two hypotheses say to each other, (N, N); -inf where only one of them can hold."""
    places, classes = hypotheses.T
    # Of structures without a hypothesis there may be thousands, and pairs are many more.
    kept, place = np.unique(places, return_inverse=True)
    offsets = centers[kept][None] - centers[kept][:, None]
    best = layout.best_log_density(offsets, extent)
    both = (place[:, None], place[None])
    gains = layout.evidence(classes[:, None], classes[None], offsets[both], best[both])
    lengths = _lengths(structures)[places]
    gains *= np.minimum(lengths[:, None], lengths[None])
    shown = np.zeros((len(kept), 1 + max(max(s.things) for s in structures)), bool)
    for row, index in zip(shown, kept, strict=True):
        row[list(structures[index].things)] = True
    together = np.asarray((shown[:, None] & shown[None]).any(-1))[both]
    excluded = (classes[:, None] == classes[None]) & together
    return np.where(excluded, -np.inf, gains)


def _lengths(structures: Sequence[Structure]) -> npt.NDArray[np.float64]:
    """Slices of each structure over those of the longest."""
    slices = np.array([len(structure.things) for structure in structures], np.float64)
    return slices / slices.max()


__all__ = [
    "class_volumes",
    "name_structures",
    "named_volume",
    "partners",
    "slicewise_volume",
]
