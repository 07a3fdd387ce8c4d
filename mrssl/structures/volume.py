"""A volume: voxels, and where each of them lies in the patient.

Letters: D, H, W are the array axes, slowest first; R, A, S are patient right-to-left,
posterior-to-anterior and inferior-to-superior in nibabel's sense: an axis is named after the
side that its index runs *to*. World coordinates are RAS+ millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel import orientations

from mrssl.errors import MrsslError

SLICE_AXES = ("D", "H", "W")
#: Planes of slices, by the anatomical axis that is stepped through.
PLANES = ("sagittal", "coronal", "axial")

#: Radiological display of a slice: (slices, rows, columns) run to these sides, by the anatomical
#: axis that is stepped through. Sagittal: left side last, rows down, columns to the back.
_DISPLAY_CODES = {0: "LIP", 1: "PIL", 2: "SPL"}

#: Spacings that differ by less than this share count as equal.
_SPACING_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Volume:
    """Voxels with their place in the patient.

    Attributes:
        array: (D, H, W) float32, C-contiguous, finite; raw intensities in a.u.
        affine: (4, 4) float64; maps the voxel index (d, h, w, 1) to RAS+ mm, as nibabel's do.
    """

    array: np.ndarray
    affine: np.ndarray

    def __post_init__(self) -> None:
        """Bring both to their promised types.

        Raises:
            MrsslError: an array that is not 3-D or is empty, or an affine that is not an
                invertible (4, 4) matrix.
        """
        array = np.ascontiguousarray(self.array, dtype=np.float32)
        affine = np.array(self.affine, dtype=np.float64)
        if array.ndim != 3 or 0 in array.shape:
            raise MrsslError(f"a volume needs three axes that are not empty, not {array.shape}")
        check_affine(affine)
        affine.setflags(write=False)
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        d, h, w = self.array.shape
        return d, h, w

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between neighbouring voxels along D, H and W."""
        return affine_spacing(self.affine)

    @property
    def orientation(self) -> str:
        """The sides that D, H and W run to, such as ``"SPL"``; of the closest axes if oblique."""
        return affine_axes(self.affine)

    def take_slices(self, axis: str = "auto") -> Volume:
        """Move the slice axis to D, and H and W to the radiological display convention.

        Columns run to patient Left or Posterior, rows to Posterior or Inferior, slices R to L,
        A to P or I to S. Only flips and transposes: no voxel value changes, and the affine
        follows.

        Args:
            axis: ``"D"``, ``"H"``, ``"W"``, a plane or ``"auto"`` (see :func:`resolve_slice_axis`).
        """
        flips = display_transform(self.affine, resolve_slice_axis(axis, self.shape, self.affine))
        return self.reoriented(flips)

    def reoriented(self, transform: np.ndarray) -> Volume:
        """Flip and transpose by ``transform``, an orientation array (3, 2) as nibabel's."""
        array = orientations.apply_orientation(self.array, transform)
        return Volume(array, self.affine @ orientations.inv_ornt_aff(transform, self.shape))


def check_affine(affine: np.ndarray) -> None:
    """Raise :class:`MrsslError` unless ``affine`` is finite, (4, 4) and invertible."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise MrsslError("the affine is not a finite 4 x 4 matrix")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((lengths > 1e-6) & (lengths < 1e6)).all():
        raise MrsslError(f"voxel spacing {lengths.round(9).tolist()} mm makes no sense")
    if abs(np.linalg.det(affine[:3, :3] / lengths)) < 1e-3:
        raise MrsslError("the affine is singular: its axes lie in one plane")


def affine_spacing(affine: np.ndarray) -> tuple[float, float, float]:
    """Voxel spacing in mm along the three array axes of ``affine`` (4, 4)."""
    d, h, w = np.linalg.norm(affine[:3, :3], axis=0)
    return float(d), float(h), float(w)


def affine_axes(affine: np.ndarray) -> str:
    """The sides of the patient that the array axes of ``affine`` (4, 4) run to, such as "SPL"."""
    return "".join(orientations.aff2axcodes(affine))


def plane_of_slices(axes: str) -> str:
    """Which of :data:`PLANES` slices lie in whose array axes run to ``axes``, such as "SPL"."""
    ends = dict(zip("LRPASI", np.repeat(PLANES, 2).tolist(), strict=True))
    return ends.get(axes[:1], "")


def resolve_slice_axis(axis: str, shape: tuple[int, ...], affine: np.ndarray) -> str:
    """Turn ``"auto"``, or one of :data:`PLANES`, into ``"D"``, ``"H"`` or ``"W"``.

    "auto" is an axis with a single voxel (a lone slice), else the one with the coarsest spacing,
    the first of equals (to 1 %) in D, H, W order. A plane is the axis that runs across it, or
    nearest to that.

    Args:
        axis: of these, or "D", "H" or "W", which stay.
        shape: (D, H, W).
        affine: (4, 4), voxel to RAS+ mm.

    Raises:
        MrsslError: another name of an axis.
    """
    if axis in SLICE_AXES:
        return axis
    if axis in PLANES:
        anatomical = orientations.io_orientation(affine)[:, 0]
        return SLICE_AXES[anatomical.tolist().index(PLANES.index(axis))]
    if axis != "auto":
        known = ", ".join(("auto", *PLANES, *SLICE_AXES))
        raise MrsslError(f"slice axis {axis!r}: one of {known} is needed")
    if 1 in shape:
        return SLICE_AXES[shape.index(1)]
    spacing = affine_spacing(affine)
    coarse = max(spacing) * (1 - _SPACING_TOLERANCE)
    return next(name for name, mm in zip(SLICE_AXES, spacing, strict=True) if mm >= coarse)


def display_transform(affine: np.ndarray, axis: str) -> np.ndarray:
    """The (3, 2) orientation array that takes a volume to slices along ``axis`` ("D", "H", "W")."""
    current = orientations.io_orientation(affine)
    anatomical = int(current[SLICE_AXES.index(axis), 0])
    wanted = orientations.axcodes2ornt(_DISPLAY_CODES[anatomical])
    return orientations.ornt_transform(current, wanted)


def turn_vectors(vectors: np.ndarray, axes: str, target: str) -> np.ndarray:
    """Vectors along some axes of the patient, along others.

    Args:
        vectors: (..., 3).
        axes: the sides that theirs run to, such as "LIP".
        target: those that are wanted, such as "RAS".
    """
    own, wanted = orientations.axcodes2ornt(axes), orientations.axcodes2ornt(target)
    turn = orientations.ornt_transform(own, wanted)
    turned = np.empty_like(vectors)
    turned[..., turn[:, 0].astype(int)] = vectors * turn[:, 1]
    return turned


def matching_transform(affine: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The orientation array that turns the axes of one grid to the closest axes of another.

    Each axis is compared with those of the other grid, not both with the patient's: of a volume
    that is tilted by 45 degrees two axes are equally close to one of the patient's, and rounding
    would decide, in each of the grids anew.

    Args:
        affine: (4, 4) of the grid to be turned.
        target: (4, 4) of the other.

    Returns:
        (3, 2), as :meth:`Volume.reoriented` takes it.
    """
    own, other = (a[:3, :3] / affine_spacing(a) for a in (affine, target))
    between = np.eye(4)
    between[:3, :3] = np.linalg.solve(other, own)
    return orientations.io_orientation(between)


def transformed_geometry(
    shape: tuple[int, int, int], affine: np.ndarray, transform: np.ndarray
) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape and affine after ``transform``, without touching voxels."""
    moved = [0, 0, 0]
    for old, (new, _) in enumerate(transform):
        moved[int(new)] = int(shape[old])
    return (moved[0], moved[1], moved[2]), affine @ orientations.inv_ornt_aff(transform, shape)


__all__ = [
    "PLANES",
    "SLICE_AXES",
    "Volume",
    "affine_axes",
    "affine_spacing",
    "check_affine",
    "display_transform",
    "matching_transform",
    "plane_of_slices",
    "resolve_slice_axis",
    "transformed_geometry",
    "turn_vectors",
]
