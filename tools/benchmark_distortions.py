#!/usr/bin/env python3
"""Time the distortions on one core, alone and beside the nearest transforms of MONAI and TorchIO.

Slices are phantoms unless volumes are given. The peers get the very patches that the distortions
get (the regions of the same sampler); each side draws its parameters and applies them, as it does
in training. All in one process of one thread; times are its CPU times.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from fuzz_distortions import phantom_slice, read_slices
from mrssl.distortions import (
    Distorter,
    DistortionContext,
    Region,
    RegionSampler,
    build_distortions,
)
from mrssl.errors import run_main
from mrssl.files import write_text
from mrssl.structures.foreground import foreground_mask

#: Nearest transforms: type -> (class, keyword arguments), in ranges like those of the type.
MONAI: dict[str, tuple[str, dict[str, Any]]] = {
    "bias_polynomial": ("RandBiasField", {"degree": 3, "coeff_range": (0.0, 0.3)}),
    "elastic_warp": ("Rand2DElastic", {"spacing": (15, 15), "magnitude_range": (1, 4)}),
    "gamma": ("RandAdjustContrast", {"gamma": (0.33, 3.0)}),
    "gaussian_blur": ("RandGaussianSmooth", {"sigma_x": (0.5, 4.0), "sigma_y": (0.5, 4.0)}),
    "gibbs_ringing": ("RandGibbsNoise", {"alpha": (0.5, 0.9)}),
    "grid_dropout": ("RandCoarseDropout", {"holes": 9, "spatial_size": 8, "fill_value": 0.0}),
    "intensity_curve": ("RandHistogramShift", {"num_control_points": 4}),
    "kspace_spikes": ("RandKSpaceSpikeNoise", {"intensity_range": (8.0, 11.0)}),
    "local_scaling": ("RandZoom", {"min_zoom": 0.6, "max_zoom": 1.6}),
    "local_shuffle": ("RandCoarseShuffle", {"holes": 9, "spatial_size": 8}),
    "low_resolution": (
        "RandSimulateLowResolution",
        {"zoom_range": (0.2, 0.6), "upsample_mode": "bilinear"},
    ),
    "rician_noise": ("RandRicianNoise", {"std": 0.1}),
    "rotation": ("RandRotate", {"range_x": 1.5}),
}
TORCHIO: dict[str, tuple[str, dict[str, Any]]] = {
    "bias_polynomial": ("RandomBiasField", {"order": 3}),
    "elastic_warp": ("RandomElasticDeformation", {"num_control_points": (7, 7, 5)}),
    "gamma": ("RandomGamma", {}),
    "gaussian_blur": ("RandomBlur", {"std": (0.5, 4.0)}),
    "ghosting": ("RandomGhosting", {"axes": (0, 1)}),
    "kspace_spikes": ("RandomSpike", {}),
    "low_resolution": ("RandomAnisotropy", {"axes": (0, 1), "downsampling": (2, 5)}),
    "motion": ("RandomMotion", {"num_transforms": 2}),
    "patch_swap": ("RandomSwap", {"patch_size": (8, 8, 1), "num_iterations": 8}),
    "rician_noise": ("RandomNoise", {"std": (0.02, 0.1)}),
    "rotation": ("RandomAffine", {"scales": 0, "degrees": (0, 0, 90)}),
}

#: A slice (C, H, W) and the region to be distorted in it.
Crop = tuple[np.ndarray, Region]
T = TypeVar("T")
#: CPU seconds of this process: it has one thread, and what else the machine does must not count.
clock = time.process_time


def _monai(name: str, options: dict[str, Any]) -> Callable[[np.ndarray], Any]:
    transform = getattr(importlib.import_module("monai.transforms"), name)(prob=1.0, **options)
    return lambda patch: transform(patch)


def _torchio(name: str, options: dict[str, Any]) -> Callable[[np.ndarray], Any]:
    import torch

    transform = getattr(importlib.import_module("torchio"), name)(**options)
    # One slice is a volume of depth 1 there.
    return lambda patch: transform(torch.from_numpy(patch)[..., None])


PEERS = {"monai": (_monai, MONAI), "torchio": (_torchio, TORCHIO)}


def _microseconds(call: Callable[[T], Any], inputs: Sequence[T], seconds: float) -> float:
    """Median over rounds of the mean time of one call."""
    for each in inputs[:4]:
        call(each)
    rounds: list[float] = []
    end = clock() + seconds
    while len(rounds) < 3 or clock() < end:
        start = clock()
        for each in inputs:
            call(each)
        rounds.append((clock() - start) / len(inputs) * 1e6)
    return statistics.median(rounds)


def _slices_per_second(images: Sequence[np.ndarray], seconds: float) -> tuple[float, float]:
    """The default mix with 4 regions a slice: slices a second, and regions really given."""
    distorter = Distorter(RegionSampler(regions=(4, 4)), build_distortions(), clean_share=0.0)
    rng = np.random.default_rng(0)
    count = regions = 0
    rates = []
    for _ in range(3):
        start, done = clock(), 0
        while clock() - start < seconds / 3:
            for i in range(20):
                image = images[i % len(images)]
                regions += len(distorter(image, rng, donor=images[(i + 3) % len(images)]).masks)
                done += 1
        rates.append(done / (clock() - start))
        count += done
    return statistics.median(rates), regions / count


def benchmark_distortions(
    *,
    channels: int = 1,
    slices: Sequence[np.ndarray] = (),
    seconds: float = 3.0,
    seconds_per_type: float = 0.1,
    peers: bool = True,
) -> dict[str, Any]:
    """Measure, on the calling thread alone.

    Args:
        channels: of each slice; a slice is repeated.
        slices: float32 (256, 256) in [0, 1]; phantoms if empty.
        seconds: spent on the default mix.
        seconds_per_type: spent on each type, and on each transform of a peer.
        peers: whether to time MONAI and TorchIO where they are installed.

    Returns:
        ``slices_per_second`` (256 x 256, 4 regions each, distorted and annotated, default mix),
        ``regions_per_slice``, ``channels``, ``types`` {name: microseconds a region},
        ``ratio_monai`` and ``ratio_torchio`` (geometric mean over the shared types of peer time
        over own time; None without the peer), ``peers`` {peer: {name: microseconds}}.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return _benchmark(channels, slices, seconds, seconds_per_type, peers)
    finally:
        cv2.setNumThreads(threads)


def _benchmark(
    channels: int,
    slices: Sequence[np.ndarray],
    seconds: float,
    seconds_per_type: float,
    peers: bool,
) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    slices = slices or [phantom_slice(rng, (256, 256)) for _ in range(8)]
    images = [np.repeat(image[None], channels, axis=0) for image in slices]
    rate, regions = _slices_per_second(images, seconds)
    sampler = RegionSampler(regions=(4, 4))
    crops = [(image, r) for image in images for r in sampler.sample(rng, foreground_mask(image[0]))]
    patches = [np.ascontiguousarray(image[:, r.rows, r.columns]) for image, r in crops]

    types: dict[str, float] = {}
    for distortion in build_distortions():

        def use(crop: Crop, distortion: Any = distortion) -> np.ndarray:
            image, region = crop
            patch = image[:, region.rows, region.columns]
            severity = float(rng.uniform(0.3, 1.0))
            params = distortion.sample(rng, patch.shape[1:], severity)
            context = DistortionContext(image, region.box, images[0])
            return distortion.apply(patch, params, context=context)

        types[distortion.name] = _microseconds(use, crops, seconds_per_type)

    found: dict[str, dict[str, float]] = {}
    for peer, (make, transforms) in PEERS.items() if peers else ():
        if not _installed(peer):
            continue
        _one_thread()
        found[peer] = {
            name: _microseconds(make(transform, options), patches, seconds_per_type)
            for name, (transform, options) in transforms.items()
        }
    return {
        "slices_per_second": rate,
        "regions_per_slice": regions,
        "channels": channels,
        **{f"ratio_{peer}": _ratio(found.get(peer), types) for peer in PEERS},
        "types": types,
        "peers": found,
    }


def _installed(peer: str) -> bool:
    return importlib.util.find_spec(peer) is not None


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _ratio(theirs: dict[str, float] | None, own: dict[str, float]) -> float | None:
    if not theirs:
        return None
    return math.exp(statistics.fmean(math.log(t / own[name]) for name, t in theirs.items()))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, help="folder of volumes (default: phantoms)")
    options.add_argument("--channels", type=int, default=1, help="of a slice (default: 1)")
    options.add_argument("--seconds", type=float, default=3.0, help="spent on the default mix")
    options.add_argument("--seconds-per-type", type=float, default=0.1)
    options.add_argument("--json", type=Path, metavar="F", help="write the figures as JSON")
    return options


def main() -> None:
    """Parse, measure, print."""
    args = parser().parse_args()
    slices: list[np.ndarray] = []
    if args.data is not None:
        read = read_slices(args.data, 16, np.random.default_rng(0))
        slices = [cv2.resize(image, (256, 256)) for image in read]
    result = benchmark_distortions(
        channels=args.channels,
        slices=slices,
        seconds=args.seconds,
        seconds_per_type=args.seconds_per_type,
    )
    for name, own in result["types"].items():
        theirs = "".join(
            f"   {peer} {times[name]:6.0f} ({times[name] / own:.1f} x)"
            for peer, times in result["peers"].items()
            if name in times
        )
        print(f"{name:22} {own:6.0f} us{theirs}")
    for key in ("slices_per_second", "regions_per_slice", "channels"):
        print(f"{key:22} {result[key]:6.4g}")
    for peer in PEERS:
        ratio = result[f"ratio_{peer}"]
        print(f"ratio_{peer:16} {'not installed' if ratio is None else f'{ratio:6.3g}'}")
    if args.json is not None:
        write_text(args.json, json.dumps(result, indent=2))


if __name__ == "__main__":
    run_main(main)
