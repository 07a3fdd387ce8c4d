"""The pretext's sample: regions are placed, distorted, and annotated from what really changed.

Letters: N regions, K distortion types, C channels, H, W the slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrssl.distortions.base import (
    DISTORTION_REGISTRY,
    Distortion,
    DistortionContext,
    build_distortions,
)
from mrssl.distortions.curriculum import Curriculum
from mrssl.distortions.regions import Region, RegionSampler
from mrssl.distortions.slices import DistortedSlice
from mrssl.errors import MrsslError
from mrssl.structures.foreground import foreground_mask

#: How often a region's distortions are drawn before the region is given up.
_TRIES = 4
#: A region with fewer changed pixels than this is given up whatever its size.
_MIN_PIXELS = 8


class Distorter:
    """Distorts slices. Everything random comes from the generator given with the slice."""

    def __init__(
        self,
        regions: RegionSampler,
        distortions: Sequence[Distortion],
        *,
        weights: Sequence[float] = (),
        compose: tuple[int, int] = (1, 1),
        severity: tuple[float, float] = (0.3, 1.0),
        clean_share: float = 0.1,
        tolerance: float = 0.02,
        min_changed: float = 0.1,
        all_channels: float = 1.0,
        keep_unchanged: bool = False,
        severity_curriculum: Curriculum | None = None,
        regions_curriculum: Curriculum | None = None,
    ) -> None:
        """Set what to draw from.

        Args:
            regions: places the regions.
            distortions: the types, in the order of their index in ``types``.
            weights: how often each type is drawn, in proportion; empty = equal shares.
            compose: least and greatest number of types in one region.
            severity: range of severities, in [0, 1].
            clean_share: share of slices left as they are.
            tolerance: a pixel counts as changed beyond this difference (intensities in [0, 1]).
            min_changed: share of a region's pixels that each of its types must change; it is
                drawn again where fewer change, and dropped after a few tries.
            all_channels: share of regions in which all channels are distorted alike; in the
                others, only the middle one is.
            keep_unchanged: keep also the regions in which too little changed; their records say
                ``"unchanged": True``. To measure what can be found at which severity, not to train
                on.
            severity_curriculum: factor on the upper end of ``severity``.
            regions_curriculum: factor on the greatest number of regions.

        Raises:
            MrsslError: a value out of range, or weights that don't fit the types.
        """
        self.regions = regions
        self.distortions = list(distortions)
        self.type_names = [d.name for d in self.distortions]
        share = np.asarray(weights if len(weights) else [1.0] * len(self.distortions), dtype=float)
        _check("WEIGHTS", share.shape == (len(self.distortions),))
        _check("WEIGHTS", bool((share >= 0).all() and share.sum() > 0))
        _check("COMPOSE", 1 <= compose[0] <= compose[1])
        _check("COMPOSE", compose[1] <= int(np.count_nonzero(share)))
        _check("SEVERITY", 0 <= severity[0] <= severity[1] <= 1)
        _check("CLEAN_SHARE", 0 <= clean_share <= 1)
        _check("TOLERANCE", 0 <= tolerance < 1)
        _check("MIN_CHANGED", 0 <= min_changed <= 1)
        _check("ALL_CHANNELS", 0 <= all_channels <= 1)
        self._log_share = np.log(share, out=np.full_like(share, -np.inf), where=share > 0)
        self.compose = compose
        self.severity = severity
        self.clean_share = clean_share
        self.tolerance = tolerance
        self.min_changed = min_changed
        self.all_channels = all_channels
        self.keep_unchanged = keep_unchanged
        self.severity_curriculum = severity_curriculum or Curriculum()
        self.regions_curriculum = regions_curriculum or Curriculum()

    @classmethod
    def from_config(cls, cfg: Any) -> Distorter:
        """Read the keys of ``cfg.MRSSL.PRETEXT``.

        ``WEIGHTS`` follow the order of the names in ``DISTORTIONS``, or of the registry for
        "all". Without them a type counts as often as it is named, once by "all".
        """
        node = cfg.MRSSL.PRETEXT
        names, weights = list(node.DISTORTIONS), list(node.WEIGHTS)
        distortions = build_distortions(names)
        if not weights:
            weights = [float(names.count("all") + names.count(d.name)) for d in distortions]
        elif "all" not in names:
            _check("WEIGHTS", len(weights) == len(names) == len(distortions))
            by_name = dict(zip(names, weights, strict=True))
            weights = [by_name[d.name] for d in distortions]
        key = "MRSSL.PRETEXT.{}_CURRICULUM"
        return cls(
            RegionSampler.from_config(cfg),
            distortions,
            weights=weights,
            compose=tuple(node.COMPOSE),
            severity=tuple(node.SEVERITY),
            clean_share=node.CLEAN_SHARE,
            tolerance=node.TOLERANCE,
            min_changed=node.MIN_CHANGED,
            all_channels=node.ALL_CHANNELS,
            severity_curriculum=Curriculum(node.SEVERITY_CURRICULUM, key=key.format("SEVERITY")),
            regions_curriculum=Curriculum(node.REGIONS_CURRICULUM, key=key.format("REGIONS")),
        )

    @property
    def curricula(self) -> list[str]:
        """See :class:`~mrssl.distortions.SliceDistorter`."""
        both = (self.severity_curriculum, self.regions_curriculum)
        return [curriculum.key for curriculum in both if not curriculum.is_constant]

    def __call__(
        self,
        image: np.ndarray,
        rng: np.random.Generator,
        *,
        donor: np.ndarray | None = None,
        iteration: int = 0,
    ) -> DistortedSlice:
        """Distort one slice: see :class:`~mrssl.distortions.SliceDistorter`.

        Args:
            image: see there.
            rng: see there.
            donor: see there.
            iteration: see there.

        Returns:
            The slice with N >= 0 regions; N is 0 for a clean share and where nothing fits.
        """
        if rng.random() < self.clean_share:
            return self._annotate(image, image, [])
        middle = image[image.shape[0] // 2]
        factor = self.regions_curriculum(iteration)
        regions = self.regions.sample(
            rng, foreground_mask(middle), image=middle, count_factor=factor
        )
        out = image.copy() if regions else image
        drawn = [self._distort(out, region, rng, donor, iteration) for region in regions]
        return self._annotate(image, out, [found for found in drawn if found is not None])

    def _distort(
        self,
        image: np.ndarray,
        region: Region,
        rng: np.random.Generator,
        donor: np.ndarray | None,
        iteration: int,
    ) -> tuple[np.ndarray, dict[str, Any]] | None:
        """Distort one region of ``image`` in place; its box's changed pixels and its record."""
        channels = "all" if rng.random() < self.all_channels else "middle"
        view = _channels(image, channels)
        context = DistortionContext(
            view, region.box, None if donor is None else _channels(donor, channels)
        )
        patch = view[:, region.rows, region.columns]
        chosen = self._draw_types(rng)
        highest = self.severity[1] * self.severity_curriculum(iteration)
        severity_range = (min(self.severity[0], highest), highest)
        alpha = alpha_of(region, chosen)
        needed = max(_MIN_PIXELS, self.min_changed * np.count_nonzero(alpha))
        for _ in range(_TRIES):
            blended, changed, steps, enough = self._draw(
                patch, alpha, chosen, context, rng, needed, severity_range
            )
            if enough:
                break
        if not enough and not self.keep_unchanged:
            return None
        patch[...] = blended
        record = {
            "box": list(region.box),
            "shape": region.shape,
            "feather": region.feather,
            "seed": region.seed,
            "channels": channels,
            "distortions": steps,
        }
        return changed, record if enough else {**record, "unchanged": True}

    def _draw_types(self, rng: np.random.Generator) -> list[Distortion]:
        """Types without repetition, by weight (Gumbel's top-k trick), in order of their stage."""
        low, high = self.compose
        count = int(rng.integers(low, high + 1)) if high > low else low
        keys = self._log_share + rng.gumbel(size=len(self.distortions))
        chosen = [self.distortions[i] for i in np.argpartition(-keys, count - 1)[:count]]
        return sorted(chosen, key=lambda d: (d.stage, d.name))

    def _draw(
        self,
        patch: np.ndarray,
        alpha: np.ndarray,
        chosen: Sequence[Distortion],
        context: DistortionContext,
        rng: np.random.Generator,
        needed: float,
        severity_range: tuple[float, float],
    ) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]], bool]:
        """One try: the blended patch, the pixels changed, the steps, and whether enough changed."""
        shape = patch.shape[1:]
        middle = patch.shape[0] // 2
        current, steps, enough = patch, [], True
        for distortion in chosen:
            severity = float(rng.uniform(*severity_range))
            params = distortion.sample(rng, shape, severity)
            result = distortion.apply(current, params, context=context)
            moved = _changed(result[middle], current[middle], alpha, self.tolerance)
            enough &= bool(np.count_nonzero(moved) >= needed)
            if not enough and not self.keep_unchanged:
                return patch, moved, [], False
            current = result
            steps.append({"name": distortion.name, "params": params})
        blended = blend(patch, current, alpha)
        changed = np.abs(blended[middle] - patch[middle]) > self.tolerance
        return blended, changed, steps, enough and bool(np.count_nonzero(changed) >= needed)

    def _annotate(
        self,
        clean: np.ndarray,
        image: np.ndarray,
        found: list[tuple[np.ndarray, dict[str, Any]]],
    ) -> DistortedSlice:
        masks = np.zeros((len(found), *clean.shape[1:]), dtype=bool)
        types = np.zeros((len(found), len(self.type_names)), dtype=np.float32)
        for n, (changed, record) in enumerate(found):
            x0, y0, x1, y1 = record["box"]
            masks[n, y0:y1, x0:x1] = changed
            for step in record["distortions"]:
                types[n, self.type_names.index(step["name"])] = 1.0
        records = [record for _, record in found]
        return DistortedSlice(image if found else clean, clean, masks, types, records)


def replay(
    image: np.ndarray, records: Sequence[dict[str, Any]], *, donor: np.ndarray | None = None
) -> np.ndarray:
    """Distort a slice again from its records, bitwise as the first time.

    Args:
        image: float32 (C, H, W) in [0, 1], the clean slice; not modified.
        records: :attr:`DistortedSlice.records`, also after a round trip through JSON.
        donor: the donor given the first time.

    Returns:
        float32 (C, H, W), equal to :attr:`DistortedSlice.image`.
    """
    out = image.copy()
    for record in records:
        region = Region.render(
            record["box"],
            record["shape"],
            record["feather"],
            record["seed"],
            image[image.shape[0] // 2],
        )
        view = _channels(out, record["channels"])
        context = DistortionContext(
            view, region.box, None if donor is None else _channels(donor, record["channels"])
        )
        patch = current = view[:, region.rows, region.columns]
        distortions = [DISTORTION_REGISTRY.get(step["name"])() for step in record["distortions"]]
        for distortion, step in zip(distortions, record["distortions"], strict=True):
            current = distortion.apply(current, step["params"], context=context)
        patch[...] = blend(patch, current, alpha_of(region, distortions))
    return out


def alpha_of(region: Region, distortions: Sequence[Distortion]) -> np.ndarray:
    """How much each pixel of the box is distorted, (h, w): by the region's shape, or wholly."""
    if any(distortion.fills_box for distortion in distortions):
        return np.ones_like(region.alpha)
    return region.alpha


def blend(patch: np.ndarray, distorted: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """``patch + alpha * (distorted - patch)``: bitwise the patch where alpha is 0; (C, h, w)."""
    out = distorted - patch
    out *= alpha
    out += patch
    return out


def _changed(a: np.ndarray, b: np.ndarray, alpha: np.ndarray, tolerance: float) -> np.ndarray:
    """Where alpha times the difference of two channels is beyond the tolerance; bool (h, w)."""
    return np.abs(a - b) * alpha > tolerance


def _channels(image: np.ndarray, channels: str) -> np.ndarray:
    """A view of all channels or of the middle one; (C or 1, H, W)."""
    middle = image.shape[0] // 2
    return image if channels == "all" else image[middle : middle + 1]


def _check(key: str, fine: bool) -> None:
    if not fine:
        raise MrsslError(f"MRSSL.PRETEXT.{key}: the value is out of range or of the wrong length")
