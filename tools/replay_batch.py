#!/usr/bin/env python3
"""Make a batch that broke a run again, from the dump that the run left, and look at it.

The samples are the very same, bit for bit, as long as the data and the program are. To see what the
model made of them, go on from the last checkpoint: the run comes to the same iteration again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mrssl.engines.faults import describe_slice, replay_batch
from mrssl.errors import run_main
from mrssl.files import write_png
from visualize_data import sample_picture


def main() -> None:
    """Print what is in each image, and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dump", type=Path, help="OUTPUT_DIR/nonfinite_*.json")
    parser.add_argument("--output", type=Path, metavar="DIR", help="draw the samples here")
    args = parser.parse_args()
    for number, sample in enumerate(replay_batch(args.dump)):
        image = sample["image"]
        finite = np.isfinite(image)
        print(
            f"{describe_slice(sample)}: position {sample['position']}, shape {image.shape}, "
            f"range [{image[finite].min():.3f}, {image[finite].max():.3f}], "
            f"{(~finite).sum()} pixels not finite, {len(sample.get('boxes', ()))} boxes"
        )
        if args.output is not None:
            names = [str(c) for c in range(1 + max(sample.get("classes", [0]), default=0))]
            write_png(args.output / f"{number:02d}.png", sample_picture(sample, names))


if __name__ == "__main__":
    run_main(main)
