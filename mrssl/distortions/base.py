"""What a distortion is: parameters are sampled once, then applied deterministically.

Letters used in this package: C channels (neighbouring slices, the middle one is the slice itself),
H, W the slice, h, w the region's box; x runs along columns, y along rows. Intensities are float32
in [0, 1], arbitrary units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
from fvcore.common.registry import Registry

from mrssl.errors import MrsslError

Params = dict[str, Any]
Box = tuple[int, int, int, int]

_SEED_LIMIT = 2**32


class Stage(IntEnum):
    """When a distortion acts if several share a region: the order in which a scan comes about.

    What replaces the anatomy comes first and what the receiver adds comes last, so that no
    distortion is painted over by a later one.
    """

    CONTENT = 0
    GEOMETRY = 1
    CONTRAST = 2
    ACQUISITION = 3
    NOISE = 4


@dataclass(frozen=True)
class DistortionContext:
    """What a distortion may look at beside its own patch; read only.

    Attributes:
        image: float32 (C, H, W) in [0, 1], the slice with the patch's channels, before the region
            is distorted.
        box: the patch's place in ``image``: (x0, y0, x1, y1) pixels, right and bottom exclusive.
        donor: float32 (C, H', W') in [0, 1], a slice of elsewhere (another position or subject),
            or None: then ``image`` has to serve.
    """

    image: np.ndarray
    box: Box
    donor: np.ndarray | None = None

    @property
    def source(self) -> np.ndarray:
        """The donor where there is one, else the slice itself; float32 (C, H', W')."""
        return self.image if self.donor is None else self.donor


class Distortion(ABC):
    """One type of distortion: ``sample`` draws parameters, ``apply`` uses them.

    A subclass sets ``name`` and ``stage``, draws in :meth:`_sample` and computes in
    :meth:`_apply`; what all types share (identity at severity 0, range, dtype) is done here.
    """

    #: Stable snake_case name: the key in the registry, in configs, records and checkpoints.
    name: ClassVar[str]
    stage: ClassVar[Stage]
    #: Whether it meets what is around on the border of the box by itself. The whole box is then
    #: distorted: an outline inside it would cut through what was fitted in.
    fills_box: ClassVar[bool] = False

    def sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        """Draw the parameters of one use.

        Args:
            rng: the only source of randomness.
            shape: (h, w) of the patch in pixels.
            severity: 0 (nothing changes) to 1 (the strongest).

        Returns:
            A dict that survives JSON unchanged; ``"severity"`` is among its keys.

        Raises:
            MrsslError: ``severity`` is outside [0, 1].
        """
        severity = float(severity)
        if not 0.0 <= severity <= 1.0:
            raise MrsslError(f"distortion {self.name}: severity {severity} is not in [0, 1]")
        return {"severity": severity, **self._sample(rng, shape, severity)}

    def apply(
        self, patch: np.ndarray, params: Params, *, context: DistortionContext | None = None
    ) -> np.ndarray:
        """Distort a patch. The same arguments give the same result.

        Args:
            patch: float32 (C, h, w) in [0, 1]; it is not modified.
            params: from :meth:`sample` with the same ``(h, w)``.
            context: the slice around the patch; the patch alone if None.

        Returns:
            float32 (C, h, w) in [0, 1]; at severity 0 ``patch`` itself.
        """
        if params["severity"] == 0.0:
            return patch
        if context is None:
            context = DistortionContext(patch, (0, 0, patch.shape[2], patch.shape[1]))
        out = self._apply(np.ascontiguousarray(patch), params, context)
        np.maximum(out, np.float32(0), out=out)
        np.minimum(out, np.float32(1), out=out)
        return np.ascontiguousarray(out)

    @abstractmethod
    def _sample(self, rng: np.random.Generator, shape: tuple[int, int], severity: float) -> Params:
        """Draw the parameters that belong to this type; JSON-able."""

    @abstractmethod
    def _apply(self, patch: np.ndarray, params: Params, context: DistortionContext) -> np.ndarray:
        """Compute a new, finite float32 array of the shape of ``patch``, (C, h, w), C-contiguous.

        Its values may leave [0, 1]; its memory is the caller's.
        """


class DistortionRegistry(Registry):
    """fvcore's registry, keyed by :attr:`Distortion.name` instead of the class name."""

    def register(self, obj: Any = None) -> Any:
        """Register a :class:`Distortion` class; used as ``@DISTORTION_REGISTRY.register()``."""
        if obj is None:
            return self.register
        self._do_register(obj.name, obj)
        return obj


DISTORTION_REGISTRY = DistortionRegistry("DISTORTION")
DISTORTION_REGISTRY.__doc__ = """Registry of distortion types.

Each is a :class:`Distortion` class, made by calling it without arguments.
"""


def registered_names() -> list[str]:
    """All registered types, sorted."""
    return sorted(name for name, _ in DISTORTION_REGISTRY)


def build_distortions(names: Sequence[str] = ("all",)) -> list[Distortion]:
    """Make distortions by name.

    Args:
        names: registered names in any order, or ``"all"`` for every registered type; names beside
            it are one type all the same.

    Returns:
        One object a type, sorted by name whatever the order asked for: the position in this list
        is the type's index in labels and heads.

    Raises:
        MrsslError: an unknown name, a name given twice without "all", or no name at all.
    """
    known = registered_names()
    for name in names:
        if name not in (*known, "all"):
            raise MrsslError(
                f"MRSSL.PRETEXT.DISTORTIONS: no distortion {name!r}; there are {', '.join(known)}"
            )
    chosen = known if "all" in names else list(names)
    if not chosen or len(set(chosen)) != len(chosen):
        raise MrsslError("MRSSL.PRETEXT.DISTORTIONS: name at least one type, and none twice")
    return [DISTORTION_REGISTRY.get(name)() for name in sorted(chosen)]


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for :func:`generator`, as a plain int in [0, 2**32)."""
    return int(rng.integers(_SEED_LIMIT))


def generator(seed: int) -> np.random.Generator:
    """The generator behind a ``"seed"`` parameter: the same stream on any machine."""
    return np.random.Generator(np.random.SFC64(seed))


def draw_sign(rng: np.random.Generator) -> int:
    """-1 or 1, with equal chance."""
    return 1 if rng.random() < 0.5 else -1
