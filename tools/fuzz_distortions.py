#!/usr/bin/env python3
"""Draw distortions at random and stop at the first that is not as promised.

Each draw takes a type, a severity, a region, a slice, a number of channels and a seed, and checks
that the result is float32, finite, in [0, 1] and repeatable, that its input is untouched, and
that nothing happens at severity 0.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from mrssl.data import find_volumes, intensity_window, normalize, read_volume
from mrssl.distortions import Distortion, DistortionContext, build_distortions
from mrssl.errors import MrsslError, run_main


def phantom_slice(rng: np.random.Generator, shape: tuple[int, int] = (160, 192)) -> np.ndarray:
    """A head of nested ellipses with texture, on black; float32 (H, W) in [0, 1]."""
    h, w = shape
    image = np.zeros(shape, dtype=np.float32)
    for size, value in ((0.9, 0.9), (0.82, 0.3), (0.75, 0.6), (0.3, 0.45), (0.15, 0.95)):
        centre = (w // 2 + int(rng.integers(-3, 4)), h // 2 + int(rng.integers(-3, 4)))
        axes = (max(1, int(w * size / 2)), max(1, int(h * size / 2)))
        cv2.ellipse(image, centre, axes, float(rng.uniform(-9, 9)), 0, 360, value, -1)
    texture = cv2.GaussianBlur(rng.standard_normal(shape).astype(np.float32), (0, 0), 1.5)
    return np.clip(image * (1 + 0.4 * texture), 0, 1)


def read_slices(path: Path, most: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Some slices of the volumes under ``path``, each float32 (H, W) in [0, 1]."""
    volumes = find_volumes(path).volumes
    slices: list[np.ndarray] = []
    for i in rng.permutation(len(volumes)):
        array = read_volume(volumes[i].path, series=volumes[i].series).array
        chosen = array[rng.permutation(len(array))[:4]]
        slices += list(normalize(chosen, *intensity_window(array)))
        if len(slices) >= most:
            break
    if not slices:
        raise MrsslError(f"{path}: no volume that can be read")
    return slices


def draw_once(
    rng: np.random.Generator, distortions: Sequence[Distortion], slices: Sequence[np.ndarray]
) -> str:
    """Check one random use of one random type; its name.

    Raises:
        MrsslError: what was not as promised, with all that is needed to do it again.
    """
    distortion = distortions[int(rng.integers(len(distortions)))]
    channels = 1 if rng.random() < 0.5 else 3
    image, donor = (
        np.repeat(slices[int(rng.integers(len(slices)))][None], channels, axis=0) for _ in range(2)
    )
    _, height, width = image.shape
    h, w = (int(rng.integers(min(6, s), max(7, s // 2) + 1)) for s in (height, width))
    h, w = min(h, height), min(w, width)
    y0, x0 = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    patch = image[:, y0 : y0 + h, x0 : x0 + w]
    context = DistortionContext(
        image, (x0, y0, x0 + w, y0 + h), donor if rng.random() < 0.5 else None
    )
    severity = float(rng.choice([0.0, 1.0, rng.random()], p=[0.05, 0.15, 0.8]))
    before = patch.copy()
    params: dict[str, Any] = distortion.sample(rng, (h, w), severity)
    result = distortion.apply(patch, params, context=context)
    again = distortion.apply(patch, json.loads(json.dumps(params)), context=context)
    checks = {
        "float32": result.dtype == np.float32,
        "of the patch's shape": result.shape == patch.shape,
        "finite": bool(np.isfinite(result).all()),
        "in [0, 1]": bool(result.min() >= 0 and result.max() <= 1),
        "repeatable": np.array_equal(result, again, equal_nan=True),
        "made from an untouched input": np.array_equal(patch, before),
        "the identity at severity 0": severity > 0 or np.array_equal(result, patch),
    }
    broken = [name for name, fine in checks.items() if not fine]
    if broken:
        raise MrsslError(
            f"{distortion.name}: the result is not {', not '.join(broken)}; "
            f"shape {patch.shape}, box {context.box}, params {json.dumps(params)}"
        )
    return distortion.name


def fuzz(
    draws: int,
    slices: Sequence[np.ndarray],
    *,
    seed: int = 0,
    seconds: float = float("inf"),
    progress: bool = False,
) -> dict[str, int]:
    """Draw until ``draws`` or ``seconds`` are used up; the number of draws of each type."""
    rng = np.random.default_rng(seed)
    distortions = build_distortions()
    counts = {d.name: 0 for d in distortions}
    end = time.monotonic() + seconds
    for _ in tqdm(range(draws), disable=not progress, unit="draw"):
        counts[draw_once(rng, distortions, slices)] += 1
        if time.monotonic() > end:
            break
    return counts


def main() -> None:
    """Parse the arguments and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=10_000, help="random uses of a type")
    parser.add_argument("--data", type=Path, help="folder of volumes; a phantom if not given")
    parser.add_argument("--slices", type=int, default=64, help="slices held in memory")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(args.seed)
    if args.data is None:
        slices = [phantom_slice(rng) for _ in range(8)]
    else:
        slices = read_slices(args.data, args.slices, rng)
    start = time.monotonic()
    counts = fuzz(args.draws, slices, seed=args.seed, progress=True)
    passed = time.monotonic() - start
    print(f"{sum(counts.values())} draws over {len(slices)} slices in {passed:.0f} s, all fine")
    print(", ".join(f"{name} {count}" for name, count in counts.items()))


if __name__ == "__main__":
    run_main(main)
