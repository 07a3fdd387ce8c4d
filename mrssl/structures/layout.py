"""Where the classes of a data set lie, to each other and in the field of view.

It is what tells alike structures apart.

Shape letters: V volumes, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mrssl.errors import MrsslError
from mrssl.structures.volume import turn_vectors

#: Before any volume is seen, a distance is taken to vary between people by a tenth of itself, and
#: by 3 mm besides, for outlines and voxels; measured spreads count against that as if it had come
#: from four volumes.
_RELATIVE_SPREAD = 0.1
_LEAST_SPREAD = 3.0
_PRIOR_VOLUMES = 4
#: As much again, mm, of where patients are laid in the field of view.
_PLACE_SPREAD = 15.0
#: A field that is cut at one end has its middle elsewhere in the body by half of what was cut; four
#: times that counts as spread. Chosen on held-out training subjects whose fields were cut.
_EXTENT_SPREAD = 2.0
#: Share of offsets, and of places, that follow no rule: tumours, fractures, a cut-off structure.
_OUTLIERS = 0.01
#: The patient's axes, along which layouts are kept.
_FRAME = "RAS"
_TABLES = ("offsets", "spreads", "volumes", "places", "place_spreads", "extent")


@dataclass(frozen=True)
class ClassLayout:
    """Places of the centres of the classes and offsets between them, as independent normals.

    The terms of a pictorial structure (Felzenszwalb and Huttenlocher, IJCV 2005): the unary ones of
    place, the pairwise ones for every pair of classes.

    Attributes:
        offsets: float64 (C, C, 3), mm; ``offsets[a, b]`` leads from the centre of ``a`` to that of
            ``b``; 0 for pairs that were never seen together.
        spreads: float64 (C, C, 3), mm: standard deviations, positive. On the diagonal that of the
            voxels of a class about its centre: parts of it, found apart, lie that far from each
            other.
        volumes: int64 (C, C): in how many volumes the pair was seen.
        places: float64 (C, 3), mm: the centres, from the middle of the field of view; 0 for a class
            that was never seen.
        place_spreads: float64 (C, 3), mm: standard deviations, positive.
        extent: float64 (3,), mm: of the field of view, on average.
        axes: the sides of the patient that the axes run to, as in "RAS"; "" for D, H, W of arrays
            of which that is not known.
    """

    offsets: npt.NDArray[np.float64]
    spreads: npt.NDArray[np.float64]
    volumes: npt.NDArray[np.int64]
    places: npt.NDArray[np.float64]
    place_spreads: npt.NDArray[np.float64]
    extent: npt.NDArray[np.float64]
    axes: str = ""

    @classmethod
    def measure(
        cls,
        centers: npt.NDArray[np.float64],
        sizes: npt.NDArray[np.float64],
        extents: npt.NDArray[np.float64],
        *,
        axes: Sequence[str] = (),
    ) -> ClassLayout:
        """From the centres of the classes in some volumes.

        Args:
            centers: (V, C, 3), mm along D, H, W; nan where a volume has nothing of a class. V may
                be 1: then the spreads are what is known of people in general.
            sizes: (V, C, 3), mm: standard deviation of the voxels of a class about its centre.
            extents: (V, 3), mm: of the volumes.
            axes: V times the sides of the patient that D, H and W run to, as in "LIP": the layout
                is then along the patient's axes, and volumes of several planes may be mixed. Of
                volumes of which one is "", all D, H, W are taken for the same.
        """
        frame = _FRAME if len(axes) and all(axes) else ""
        if frame:
            middles = centers - extents[:, None] / 2
            turned = [
                (
                    turn_vectors(middle, own, frame),
                    *(abs(turn_vectors(x, own, frame)) for x in rest),
                )
                for own, middle, *rest in zip(axes, middles, sizes, extents, strict=True)
            ]
            middles, sizes, extents = map(np.array, zip(*turned, strict=True))
            centers = middles + extents[:, None] / 2
        apart = centers[:, None, :, :] - centers[:, :, None, :]  # (V, a, b, 3): b - a
        seen = np.asarray(np.isfinite(apart).all(-1))
        volumes = seen.sum(0)
        count = np.maximum(volumes, 1)[..., None]
        apart = np.where(seen[..., None], apart, 0.0)
        offsets = apart.sum(0) / count
        squares = (np.where(seen[..., None], apart - offsets, 0.0) ** 2).sum(0)
        distance = np.linalg.norm(offsets, axis=-1, keepdims=True)
        prior = _LEAST_SPREAD**2 + (_RELATIVE_SPREAD * distance) ** 2
        variance = (_PRIOR_VOLUMES * prior + squares) / (_PRIOR_VOLUMES + count - 1)
        own = np.arange(centers.shape[1])
        squares = np.where(np.isfinite(sizes), sizes, 0.0) ** 2
        variance[own, own] = _LEAST_SPREAD**2 + squares.sum(0) / count[own, own]
        places = centers - extents[:, None] / 2
        present = np.isfinite(places).all(-1, keepdims=True)
        count = np.maximum(present.sum(0), 1)
        mean = np.where(present, places, 0.0).sum(0) / count
        squares = (np.where(present, places - mean, 0.0) ** 2).sum(0)
        place_variance = _PRIOR_VOLUMES * _PLACE_SPREAD**2 + squares
        place_variance /= _PRIOR_VOLUMES + count - 1
        return cls(
            offsets=offsets,
            spreads=np.sqrt(variance),
            volumes=volumes.astype(np.int64),
            places=mean,
            place_spreads=np.sqrt(place_variance),
            extent=extents.mean(0),
            axes=frame,
        )

    def along(self, axes: str) -> ClassLayout:
        """The layout along the axes of a volume.

        Args:
            axes: the sides of the patient that D, H and W run to, as in "LIP"; "" if that is not
                known: it is then left as it is, as one that is not along the patient's axes is.
        """
        if not axes or not self.axes:
            return self

        def turned(table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
            return turn_vectors(table, self.axes, axes)

        return replace(
            self,
            offsets=turned(self.offsets),
            spreads=abs(turned(self.spreads)),
            places=turned(self.places),
            place_spreads=abs(turned(self.place_spreads)),
            extent=abs(turned(self.extent)),
            axes=axes,
        )

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.offsets)

    @property
    def num_volumes(self) -> int:
        """In how many volumes the class was seen that was seen most; 0 where none was."""
        return int(np.diagonal(self.volumes).max(initial=0))

    def log_density(
        self,
        first: npt.NDArray[np.integer],
        second: npt.NDArray[np.integer],
        offsets: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        """How likely an offset is from one class to another.

        Args:
            first: int (...): class of the structure that the offset leads from.
            second: int (...): of that which it leads to.
            offsets: float64 (..., 3), mm.

        Returns:
            float64 (...): log density, of mm^-3; of no meaning for pairs never seen together.
        """
        spread = self.spreads[first, second]
        z = (offsets - self.offsets[first, second]) / spread
        return np.asarray((-0.5 * z**2 - np.log(spread * np.sqrt(2 * np.pi))).sum(-1))

    def best_log_density(
        self, offsets: npt.NDArray[np.float64], extent: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """How likely an offset is by the pair of classes that explains it best, or by chance.

        Args:
            offsets: float64 (..., 3), mm.
            extent: float64 (3,), mm: the volume, in which a chance place would lie anywhere.

        Returns:
            float64 (...): log density, of mm^-3.
        """
        best = np.full(offsets.shape[:-1], -np.log(extent).sum())
        for pair in np.argwhere(self.volumes > 0):  # one by one: all at once may be gigabytes
            np.maximum(best, self.log_density(pair[0], pair[1], offsets), out=best)
        return best

    def evidence(
        self,
        first: npt.NDArray[np.integer],
        second: npt.NDArray[np.integer],
        offsets: npt.NDArray[np.float64],
        best: npt.NDArray[np.float64],
    ) -> npt.NDArray[np.float64]:
        """How much worse a pair of names explains an offset than the best pair, or chance, would.

        It is against the best and not against chance alone because chance does not put look-alikes
        in a row: a thoracic vertebra above the lumbar ones lies as one lumbar lies above another,
        and that is no reason to give it a name.

        Args:
            first: see :meth:`log_density`.
            second: likewise.
            offsets: likewise.
            best: float64 (...), what :meth:`best_log_density` says of the offsets.

        Returns:
            float64 (...): log ratio of the densities, from ``log(0.01)`` to 0; 0 for pairs that
            were never seen together.
        """
        mixed = _with_outliers(self.log_density(first, second, offsets) - best)
        return np.where(self.volumes[first, second] > 0, mixed, 0.0)

    def place_evidence(
        self, centers: npt.NDArray[np.float64], extent: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """How much worse each class explains a place in the field of view than the best, or chance.

        A field of another size has its middle elsewhere in the body; so the spread of places grows
        with how much the size differs from that of the training volumes.

        Args:
            centers: float64 (..., 3), mm along D, H, W.
            extent: float64 (3,), mm: of the volume.

        Returns:
            float64 (..., C): log ratio of the densities, from ``log(0.01)`` to 0; 0 for classes
            that were never seen.
        """
        spread = np.hypot(self.place_spreads, _EXTENT_SPREAD * (extent - self.extent))
        z = ((centers - extent / 2)[..., None, :] - self.places) / spread
        density = (-0.5 * z**2 - np.log(spread * np.sqrt(2 * np.pi))).sum(-1)
        seen = np.diagonal(self.volumes) > 0
        chance = -np.log(extent).sum()
        best = np.where(seen, density, chance).max(-1, keepdims=True, initial=chance)
        return np.where(seen, _with_outliers(density - best), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only, fit for a checkpoint."""
        return {name: getattr(self, name).tolist() for name in _TABLES} | {"axes": self.axes}

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> ClassLayout:
        """The inverse of :meth:`to_dict`, for entries of a file that is not to be trusted.

        Raises:
            MrsslError: entries missing, of other shapes, or numbers that cannot be.
        """
        try:
            tables = {name: np.asarray(entries[name], np.float64) for name in _TABLES}
        except KeyError as error:
            raise MrsslError(
                f"a layout of classes without {error}, as of an earlier version"
            ) from error
        except (TypeError, ValueError, OverflowError) as error:
            raise MrsslError("a layout of classes that is no table of numbers") from error
        classes = len(tables["volumes"]) if tables["volumes"].ndim else 0
        shapes = {
            "offsets": (classes, classes, 3),
            "spreads": (classes, classes, 3),
            "volumes": (classes, classes),
            "places": (classes, 3),
            "place_spreads": (classes, 3),
            "extent": (3,),
        }
        for name, table in tables.items():
            if table.shape != shapes[name]:
                raise MrsslError(f"a layout of classes with {name} of shape {table.shape}")
            positive = name in {"spreads", "place_spreads", "extent"}
            if not np.isfinite(table).all() or (positive and not (table > 0).all()):
                raise MrsslError(f"a layout of classes with {name} that cannot be")
        axes = entries.get("axes", "")  # unknown before they were written down
        if axes not in ("", _FRAME):
            raise MrsslError(f"a layout of classes along other axes than {_FRAME}")
        return cls(volumes=tables.pop("volumes").astype(np.int64), axes=axes, **tables)


def _with_outliers(ratio: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Log ratios of densities of which a share follows no rule."""
    return np.logaddexp(np.log1p(-_OUTLIERS) + ratio, np.log(_OUTLIERS))


__all__ = ["ClassLayout"]
