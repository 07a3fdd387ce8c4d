"""Local distortions of MRI slices: where they go, what they do, and what is written down."""

from mrssl.distortions import (  # importing a module registers its types
    bias,
    geometry,
    information_loss,
    intensity,
    kspace,
    noise,
    rearrangement,
    resolution,
    transplant,
)
from mrssl.distortions.base import (
    DISTORTION_REGISTRY,
    Distortion,
    DistortionContext,
    Stage,
    build_distortions,
    registered_names,
)
from mrssl.distortions.curriculum import Curriculum
from mrssl.distortions.distorter import Distorter, replay
from mrssl.distortions.regions import Region, RegionSampler
from mrssl.distortions.slices import DistortedSlice, SliceDistorter
from mrssl.distortions.whole_slice import WholeSliceDistorter

__all__ = [
    "DISTORTION_REGISTRY",
    "Curriculum",
    "DistortedSlice",
    "Distorter",
    "Distortion",
    "DistortionContext",
    "Region",
    "RegionSampler",
    "SliceDistorter",
    "Stage",
    "WholeSliceDistorter",
    "bias",
    "build_distortions",
    "geometry",
    "information_loss",
    "intensity",
    "kspace",
    "noise",
    "rearrangement",
    "registered_names",
    "replay",
    "resolution",
    "transplant",
]
