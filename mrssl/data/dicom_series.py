"""Slices to volumes: grouping, order, spacing, and what is wrong with them.

A folder is not a volume, and neither is a SeriesInstanceUID: one series may hold several echoes,
b-values, time points, orientations or image types. Slices belong together when everything that
the scanner may vary between volumes agrees; they are ordered by position along the slice normal
(DICOM PS3.3 C.7.6.2), never by file name.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mrssl.data.dicom_slices import Plane, SliceHeader
from mrssl.structures.volume import check_affine

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
#: Slices closer than this (mm) are at the same place.
_SAME_PLACE = 1e-3
#: In the words of a fault.
MISSING = "slices missing"
#: More than this share of all places are those of a whole volume.
_MOST_PLACES = 0.75
#: Slices of packages lie at least this share of an even distance apart.
_PACKED = 0.8
#: Largest sideways shift of a slice, in pixels, that counts as straight.
_ASIDE = 0.5
#: Largest deviation of a slice distance from the median, as a share, that counts as even.
_UNEVEN = 0.02


@dataclass(frozen=True)
class DicomVolume:
    """Slices that make up one volume, in order.

    Attributes:
        key: names the volume among those of the same folder or file; free of UIDs, and the same
            wherever the files lie.
        slices: ordered along the slice normal.
        affine: (4, 4) float64, voxel (slice, row, column, 1) to RAS+ mm.
        faults: what is doubtful, and its consequence.
    """

    key: str
    slices: tuple[SliceHeader, ...]
    affine: np.ndarray
    faults: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(slices, rows, columns)."""
        return (len(self.slices), *self.slices[0].shape)


def group_slices(slices: Sequence[SliceHeader]) -> list[list[SliceHeader]]:
    """Split slices into volumes; each ordered by position along the normal.

    First by everything that must agree (series, echo, b-value, ...), then by orientation, then
    repeats at the same positions, or at positions a little beside them, are told apart by
    acquisition or trigger time, or those at the same positions by order of numbering.
    """
    groups: OrderedDict[object, list[list[SliceHeader]]] = OrderedDict()
    for item in slices:
        clusters = groups.setdefault(item.group, [])
        for cluster in clusters:
            if _parallel(cluster[0].plane, item.plane):
                cluster.append(item)
                break
        else:
            clusters.append([item])
    return [
        volume for clusters in groups.values() for cluster in clusters for volume in _split(cluster)
    ]


def _parallel(a: Plane | None, b: Plane | None) -> bool:
    return a is b if a is None or b is None else a.is_parallel(b)


def _split(cluster: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Tell repeats of a volume apart; order each."""
    places = _by_place(cluster)
    count = len(places[0])
    for index in range(len(cluster[0].repeat) if cluster[0].plane else 0):
        found: dict[float, list[SliceHeader]] = {}
        for item in (item for place in places for item in place):
            if (value := item.repeat[index]) is None:
                break
            found.setdefault(value, []).append(item)
        else:
            parts = [found[value] for value in sorted(found)]
            if len(parts) > 1 and _are_repeats(parts, places):
                return parts
    if count == 1 or any(len(place) != count for place in places):
        return [[item for place in places for item in place]]
    ordered = [sorted(place, key=_numbering) for place in places]
    return [[place[k] for place in ordered] for k in range(count)]


def _are_repeats(parts: list[list[SliceHeader]], places: list[list[SliceHeader]]) -> bool:
    """Whether most parts are volumes, of which slices may be missing, and not shares of one.

    The acquisition number may be another for every second slice of one volume, too.

    Args:
        parts: all slices, those of one acquisition together, in the order of the places.
        places: all slices, those at one place together.
    """
    if any(len(_by_place(part)) < len(part) for part in parts):
        return False
    if np.median([len(part) for part in parts]) > _MOST_PLACES * len(places):
        return True
    # Where the patient or the header moved a little between repeats, they share few places: each is
    # even by itself and all of them together are not, unlike packages that fill each other's gaps.
    apart = _distances([place[0] for place in places])
    return all(
        len(part) > 2
        and _are_even(steps := _distances(part))
        and steps.sum() > _MOST_PLACES * apart.sum()
        and apart.min() < _PACKED * np.median(steps) / len(parts)
        for part in parts
    )


def _distances(slices: Sequence[SliceHeader]) -> np.ndarray:
    """Along the normal, mm, from each slice to the next; none where no place is known."""
    positions = [item.plane.position @ item.plane.normal for item in slices if item.plane]
    return np.diff(np.array(positions, np.float64))


def _are_even(distances: np.ndarray) -> bool:
    return bool((np.abs(distances / np.median(distances) - 1) <= _UNEVEN).all())


def _numbering(item: SliceHeader) -> tuple[int, str, int]:
    return item.number, item.path, item.frame


def _by_place(cluster: list[SliceHeader]) -> list[list[SliceHeader]]:
    """Slices at one place together, places along the normal; by number where none is known."""
    first = cluster[0].plane
    if first is None:
        return [[item] for item in sorted(cluster, key=_numbering)]
    normal = first.normal
    along = [(float(s.plane.position @ normal), s) for s in cluster if s.plane is not None]
    places: list[list[SliceHeader]] = []
    last = -np.inf
    for place, item in sorted(along, key=lambda pair: (pair[0], _numbering(pair[1]))):
        if place - last < _SAME_PLACE:
            places[-1].append(item)
        else:
            places.append([item])
            last = place
    return places


def places_are_unique(slices: list[SliceHeader]) -> bool:
    """Whether no two slices of a volume lie at one place."""
    return len(_by_place(slices)) == len(slices)


def make_volume(group: list[SliceHeader]) -> DicomVolume:
    """A volume of the slices of one group, its geometry and faults.

    Args:
        group: ordered, as :func:`group_slices` gives it.

    Raises:
        MrsslError: a geometry that makes no sense.
    """
    faults: list[str] = []
    plane = group[0].plane
    if plane is None:
        faults.append("no position or orientation: ordered by InstanceNumber, sides are a guess")
        plane = Plane(np.zeros(3), np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0]))
        step = plane.normal * (group[0].thickness or 1.0)
    else:
        group = _without_duplicates(group, faults)
        plane = group[0].plane or plane
        step = _slice_step(group, plane.normal, faults)
    first = group[0]
    if first.tags.get("Modality", "MR") != "MR":
        faults.append(f"modality {first.tags['Modality']}, not MR")
    spacing = first.spacing
    if spacing is None:
        faults.append("no PixelSpacing: 1 mm is assumed")
        spacing = (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0] = _LPS_TO_RAS @ step
    affine[:3, 1] = _LPS_TO_RAS @ plane.rows * spacing[0]
    affine[:3, 2] = _LPS_TO_RAS @ plane.columns * spacing[1]
    affine[:3, 3] = _LPS_TO_RAS @ plane.position
    check_affine(affine)
    return DicomVolume(_key(first), tuple(group), affine, tuple(faults))


def _without_duplicates(group: list[SliceHeader], faults: list[str]) -> list[SliceHeader]:
    places = _by_place(group)
    extra = len(group) - len(places)
    if extra:
        faults.append(f"{extra} slices at the place of another: the first by number is kept")
    return [place[0] for place in places]


def _slice_step(group: Sequence[SliceHeader], normal: np.ndarray, faults: list[str]) -> np.ndarray:
    """Vector from one slice to the next, LPS mm; notes gaps and uneven distances."""
    if len(group) == 1:
        return normal * (group[0].thickness or 1.0)
    positions = np.stack([s.plane.position for s in group if s.plane is not None])
    distances = np.diff(positions @ normal)
    median = float(np.median(distances))
    whole = np.round(distances / median)
    missing = int((whole - 1)[whole >= 2].sum())
    uneven = np.abs(distances / median - whole).max() > _UNEVEN
    if missing and not uneven:
        faults.append(f"{missing} {MISSING}: neighbours across a gap are not neighbours")
    elif uneven:
        low, high = distances.min(), distances.max()
        faults.append(f"slice distance varies, {low:.3g} to {high:.3g} mm: the mean is used")
    # With gaps that are whole slices the others keep their distance, and what lies before the
    # first gap its place.
    steps = len(group) - 1 if uneven else int(whole.sum())
    step = (positions[-1] - positions[0]) / steps
    along = (positions - positions[0]) @ normal / (step @ normal)
    aside = np.linalg.norm(positions - positions[0] - along[:, None] * step, axis=1).max()
    if aside > _ASIDE * min(group[0].spacing or (1.0, 1.0)):
        faults.append(f"slices are not stacked straight: up to {aside:.3g} mm aside")
    return step


def _key(item: SliceHeader) -> str:
    plane = item.plane
    orientation = None
    if plane is not None:  # adding 0 makes -0.0 and 0.0 one
        orientation = (np.round(np.r_[plane.columns, plane.rows], 1) + 0.0).tolist()
    digest = hashlib.sha256(repr((item.identity, orientation)).encode()).hexdigest()[:8]
    number = item.tags.get("SeriesNumber", "")
    return f"{number}-{digest}" if number.isdecimal() else digest


__all__ = ["DicomVolume", "group_slices", "make_volume", "places_are_unique"]
