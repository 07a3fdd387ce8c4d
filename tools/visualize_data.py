#!/usr/bin/env python3
"""Show what a model will be trained on: every distortion type, and mapped slices of a data set.

Written to --output:
  types.png    one row a distortion type of the configuration:
               clean, the region outlined | three severities | changed pixels | difference at
               the strongest
  sample_N.png clean | distorted, with boxes and types | changed pixels | difference
               (of labelled data: slice | labels)
  samples.json where each sample comes from, and its records, from which it can be made again
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from arguments import add_overrides, parse
from mrssl.config import load_cfg
from mrssl.data.mapper import INTENSITY_SCALE
from mrssl.distortions import Distorter, Distortion, DistortionContext, Region
from mrssl.distortions.distorter import alpha_of, blend
from mrssl.engines.datasets import RunData
from mrssl.errors import MrsslError, run_main
from mrssl.files import write_png, write_text
from mrssl.structures.foreground import foreground_mask

SEVERITIES = (0.3, 0.6, 1.0)
#: Side of the grid's region as a share of the slice's, and how much more than it is shown.
REGION_SHARE, SHOWN = 0.4, 1.4
#: Pixels a side of one cell, of the grid and of the samples; width of the grid's names.
GRID_CELL, SAMPLE_CELL, NAME_WIDTH = 128, 320, 180
TITLE = 26
#: Size of the letters on pictures, and of names and titles.
SMALL, LARGE = 0.36, 0.55
WHITE = (255, 255, 255)
COLORS = ((80, 220, 255), (120, 255, 120), (255, 190, 80), (255, 130, 255), (110, 130, 255))


def to_picture(image: np.ndarray, side: int) -> np.ndarray:
    """A grey image, float (H, W) in [0, 1] or bool, as uint8 (side, side, 3), its shape kept."""
    scale = side / max(image.shape)
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    grey = cv2.resize(
        (image * np.float32(255)).clip(0, 255).astype(np.uint8),
        size,
        interpolation=cv2.INTER_NEAREST if image.dtype == bool else cv2.INTER_AREA,
    )
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    out = np.zeros((side, side, 3), dtype=np.uint8)
    out[top : top + size[1], left : left + size[0]] = grey[..., None]
    return out


def scaled(difference: np.ndarray) -> np.ndarray:
    """A difference (H, W) stretched to [0, 1], so that a faint one can be seen.

    The brightest hundredth of the changed pixels is full white: a few outliers hide nothing.
    """
    changed = difference[difference > 0]
    brightest = float(np.percentile(changed, 99)) if changed.size else 1.0
    return np.minimum(difference / max(brightest, 1e-6), 1)


def draw_boxes(
    picture: np.ndarray, boxes: np.ndarray, names: Sequence[str], shape: tuple[int, int]
) -> np.ndarray:
    """Boxes (N, 4) XYXY of an image of ``shape`` and their names, drawn on its picture."""
    side = picture.shape[0]
    scale = side / max(shape)
    offset = np.array([side - round(shape[1] * scale), side - round(shape[0] * scale)]) // 2
    for n, (box, name) in enumerate(zip(boxes, names, strict=True)):
        x0, y0, x1, y1 = (int(v) for v in np.rint(box * scale + np.tile(offset, 2)))
        color = COLORS[n % len(COLORS)]
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), color, 1)
        for line, text in enumerate(name.split("\n")):
            write(picture, text, (x0, max(y0 - 3, 9) + 11 * line), color)
    return picture


def write(
    picture: np.ndarray,
    text: str,
    place: tuple[int, int],
    color: Sequence[int] = WHITE,
    size: float = SMALL,
) -> None:
    """Text on black, its lower left corner at ``place``, moved left where it must be."""
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    x, y = max(0, min(place[0], picture.shape[1] - width - 2)), place[1]
    cv2.rectangle(picture, (x, y - height - 1), (x + width, y + below // 2), (0, 0, 0), -1)
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)


def stack_rows(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str]) -> np.ndarray:
    """Pictures of equal height in rows, alike in their widths, under a line of titles."""
    padded = [[np.pad(p, ((1, 1), (1, 1), (0, 0))) for p in row] for row in rows]
    body = np.vstack([np.hstack(row) for row in padded])
    head = np.zeros((TITLE, body.shape[1], 3), dtype=np.uint8)
    left = 0
    for title, cell in zip(titles, padded[0], strict=True):
        write(head, title, (left + 4, TITLE - 8), size=LARGE)
        left += cell.shape[1]
    return np.vstack([head, body])


def name_cell(name: str) -> np.ndarray:
    """The name of a type as the first cell of its row."""
    cell = np.zeros((GRID_CELL, NAME_WIDTH, 3), dtype=np.uint8)
    write(cell, name, (6, GRID_CELL // 2), size=LARGE)
    return cell


def central_region(image: np.ndarray) -> Region:
    """A blob about the middle of the foreground of a slice (H, W)."""
    rows, columns = np.nonzero(foreground_mask(image))
    centre = (np.median(rows), np.median(columns)) if rows.size else np.array(image.shape) / 2
    h, w = (max(6, round(REGION_SHARE * side)) for side in image.shape)
    y0, x0 = (
        int(np.clip(middle - own / 2, 0, side - own))
        for middle, own, side in zip(centre, (h, w), image.shape, strict=True)
    )
    return Region.render((x0, y0, x0 + w, y0 + h), "blob", 0.08, seed=2)


def about(region: Region, shape: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a slice of ``shape`` to show around the region: a square if it fits."""
    x0, y0, x1, y1 = region.box
    shown = round(SHOWN * max(x1 - x0, y1 - y0))
    parts = []
    for first, last, side in ((y0, y1, shape[0]), (x0, x1, shape[1])):
        own = min(shown, side)
        start = min(max((first + last - own) // 2, 0), side - own)
        parts.append(slice(start, start + own))
    return parts[0], parts[1]


def outlined(picture: np.ndarray, region: Region, shape: tuple[int, ...]) -> np.ndarray:
    """The picture of what is shown about a region, with the outline of its half-way alpha."""
    inside = np.zeros(shape, dtype=bool)
    inside[region.rows, region.columns] = region.alpha > 0.5
    filled = to_picture(inside[about(region, (shape[0], shape[1]))], len(picture))
    picture[cv2.morphologyEx(filled, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0] = 255
    return picture


def type_row(
    distortion: Distortion, image: np.ndarray, donor: np.ndarray, region: Region, tolerance: float
) -> list[np.ndarray]:
    """Clean | three severities | changed pixels | difference, for one type; slices (C, H, W)."""
    middle = image.shape[0] // 2
    shown = (middle, *about(region, image.shape[1:]))
    patch = image[:, region.rows, region.columns]
    context = DistortionContext(image, region.box, donor)
    pictures = [outlined(to_picture(image[shown], GRID_CELL), region, image.shape[1:])]
    distorted = image
    for severity in SEVERITIES:
        rng = np.random.default_rng(4)
        params = distortion.sample(rng, (patch.shape[1], patch.shape[2]), severity)
        result = distortion.apply(patch, params, context=context)
        distorted = image.copy()
        distorted[:, region.rows, region.columns] = blend(
            patch, result, alpha_of(region, [distortion])
        )
        pictures.append(to_picture(distorted[shown], GRID_CELL))
    difference = np.abs(distorted[shown] - image[shown])
    pictures.append(to_picture(difference > tolerance, GRID_CELL))
    pictures.append(to_picture(scaled(difference), GRID_CELL))
    return pictures


def sample_picture(sample: dict[str, Any], class_names: Sequence[str]) -> np.ndarray:
    """One mapped slice with everything that it is annotated with."""
    image = sample["image"][len(sample["image"]) // 2] / np.float32(INTENSITY_SCALE)
    masks = sample.get("masks", np.zeros((0, *image.shape), dtype=bool))
    boxes = sample.get("boxes", np.zeros((0, 4), dtype=np.float32))
    if "clean" not in sample:
        names = [class_names[int(c)] for c in sample.get("classes", ())]
        marked = draw_boxes(to_picture(image, SAMPLE_CELL), boxes, names, masks.shape[1:])
        label = to_picture(masks.any(axis=0), SAMPLE_CELL)
        return stack_rows(
            [[to_picture(image, SAMPLE_CELL), marked, label]], ["slice", "boxes", "labels"]
        )
    clean = sample["clean"][len(sample["clean"]) // 2] / np.float32(INTENSITY_SCALE)
    names = [
        "\n".join(f"{s['name']} {s['params']['severity']:.2f}" for s in record["distortions"])
        for record in sample["records"]
    ]
    row = [
        to_picture(clean, SAMPLE_CELL),
        to_picture(image, SAMPLE_CELL),
        draw_boxes(to_picture(image, SAMPLE_CELL), boxes, names, image.shape),
        to_picture(masks.any(axis=0), SAMPLE_CELL),
        to_picture(scaled(np.abs(image - clean)), SAMPLE_CELL),
    ]
    return stack_rows([row], ["clean", "distorted", "boxes and types", "changed", "difference"])


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--config-file", required=True, help="YAML with Detectron2's keys")
    options.add_argument("--output", required=True, type=Path, metavar="DIR")
    options.add_argument("--num", type=int, default=16, help="samples (default: 16)")
    options.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    add_overrides(options)
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Map some slices of ``DATASETS.TRAIN`` and draw them."""
    args = parse(parser(), argv)
    if args.num < 1:
        raise MrsslError(f"--num {args.num}: give at least 1")
    data = RunData(load_cfg(args.config_file, args.opts), seed=args.seed)
    mapper = data.train_mapper
    places = np.linspace(0, len(data.train) - 1, args.num + 2)[1:-1].round().astype(int)
    if isinstance(mapper.distorter, Distorter):
        # Read the middle slice of the data by evaluation's rule, and take it clean.
        record = data.train[len(data.train) // 2]
        other = data.train[3 * len(data.train) // 8]
        view = data.test_mapper(record)["view"]
        image, donor = (mapper.show(mapper.stack(of), view) for of in (record, other))
        region = central_region(image[len(image) // 2])
        rows = [
            [name_cell(d.name), *type_row(d, image, donor, region, mapper.distorter.tolerance)]
            for d in mapper.distorter.distortions
        ]
        titles = ["", "clean", *(f"severity {s}" for s in SEVERITIES), "changed", "difference"]
        # Two blocks side by side: thirty rows would make a strip.
        half = (len(rows) + 1) // 2
        rows += [[np.zeros_like(cell) for cell in rows[0]]] * (2 * half - len(rows))
        paired = [a + b for a, b in zip(rows[:half], rows[half:], strict=True)]
        write_png(args.output / "types.png", stack_rows(paired, titles * 2))
    notes = []
    for n, place in enumerate(tqdm(places, unit="slice")):
        sample = mapper(data.train[place])
        name = f"sample_{n:03d}.png"
        write_png(args.output / name, sample_picture(sample, data.class_names))
        kept = ("file_name", "series", "slice_index", "image_id", "seed", "donor", "view")
        notes.append({"picture": name, **{k: sample[k] for k in (*kept, "records") if k in sample}})
    write_text(args.output / "samples.json", json.dumps(notes, indent=1))
    print(f"{args.output}: {len(notes)} samples")


if __name__ == "__main__":
    run_main(main)
