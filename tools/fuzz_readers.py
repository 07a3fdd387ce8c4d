#!/usr/bin/env python3
"""Damage files of scans, and see that the readers end in a volume or the defined error.

What a bad disk, a broken export or an attacker would do: bytes and bits flipped, files cut, lengths
inflated, spans inserted, deleted and repeated, sequences nested. Compressed files are damaged
within as often as without. Seeded: ``--first N --count 1`` repeats case N. Ends with status 1 where
anything else than a volume or the error came out, where one file took over 5 seconds of the
processor, or where memory grew by over 1 GB.
"""

from __future__ import annotations

import argparse
import gzip
import resource
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mrssl.data import find_volumes, read_volume
from mrssl.data.dicom_elements import DEFLATED, read_file_meta
from mrssl.errors import MrsslError, run_main

#: Processor seconds a file may take, and kB that memory may grow by.
MAX_SECONDS, MAX_GROWTH = 5.0, 1 << 20


def flip_bytes(data: bytearray, rng: np.random.Generator, region: int) -> bytearray:
    """Set some bytes to anything."""
    for _ in range(int(rng.integers(1, 20))):
        data[int(rng.integers(region))] = int(rng.integers(256))
    return data


def flip_bits(data: bytearray, rng: np.random.Generator, region: int) -> bytearray:
    """Turn some bits over."""
    for _ in range(int(rng.integers(1, 8))):
        data[int(rng.integers(region))] ^= 1 << int(rng.integers(8))
    return data


def truncate(data: bytearray, rng: np.random.Generator, region: int) -> bytearray:
    """Cut the end off."""
    return data[: int(rng.integers(len(data)))]


def inflate_length(data: bytearray, rng: np.random.Generator, region: int) -> bytearray:
    """Overwrite a number with a huge, negative or undefined one."""
    value = int(
        rng.choice([0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0x80000000, 0x00FFFFFF, 0x7FFF7FFF])
    )
    place = int(rng.integers(max(1, region - 4)))
    data[place : place + 4] = struct.pack("<I", value)
    return data


def insert_garbage(data: bytearray, rng: np.random.Generator, region: int) -> bytearray:
    """Put random bytes between."""
    place = int(rng.integers(region))
    data[place:place] = rng.bytes(int(rng.integers(1, 64)))
    return data


def delete_span(data: bytearray, rng: np.random.Generator, region: int) -> bytearray:
    """Leave some bytes out."""
    place = int(rng.integers(region))
    del data[place : place + int(rng.integers(1, 64))]
    return data


def repeat_span(data: bytearray, rng: np.random.Generator, region: int) -> bytearray:
    """Repeat a span up to 30 times."""
    place = int(rng.integers(region))
    span = data[place : place + int(rng.integers(1, 256))]
    data[place:place] = span * int(rng.integers(1, 30))
    return data


def nest_sequences(data: bytearray, rng: np.random.Generator, region: int) -> bytearray:
    """Open sequences within sequences, none of which ends (explicit VR, little endian)."""
    opening = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    place = int(rng.integers(132, max(133, region))) if region > 133 else 0
    data[place:place] = opening * int(rng.integers(10, 3000))
    return data


MUTATIONS = (
    flip_bytes,
    flip_bits,
    truncate,
    inflate_length,
    insert_garbage,
    delete_span,
    repeat_span,
    nest_sequences,
)


def mutate(source: Path, target: Path, seed: int) -> str:
    """Write a damaged copy of ``source`` to ``target``; returns what was done to it.

    Half of the damage falls on the first 2 kB, where the headers are.
    """
    rng = np.random.default_rng([seed, source.stat().st_size])
    data = bytearray(source.read_bytes())
    pack = None
    if rng.random() < 0.7:
        data, pack = unpacked(source, data)
    done = []
    for _ in range(int(rng.integers(1, 4))):
        if not data:
            break
        region = min(len(data), 2048) if rng.random() < 0.5 else len(data)
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        data = mutation(data, rng, region)
        done.append(mutation.__name__)
    target.write_bytes(pack(bytes(data)) if pack else data)
    return ", ".join(done)


def unpacked(source: Path, data: bytearray) -> tuple[bytearray, Callable[[bytes], bytes] | None]:
    """What is within a ``.gz`` or a deflated DICOM file, and what packs it again; or None."""
    if source.suffix == ".gz":
        return bytearray(gzip.decompress(data)), lambda inner: gzip.compress(inner, 1)
    syntax, start = read_file_meta(bytes(data))
    if syntax != DEFLATED:
        return data, None
    meta = bytes(data[:start])

    def pack(inner: bytes) -> bytes:
        deflater = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        return meta + deflater.compress(inner) + deflater.flush()

    return bytearray(zlib.decompress(data[start:], -zlib.MAX_WBITS)), pack


def try_reading(path: Path) -> tuple[str, float, int]:
    """Read as a data set would: "read" or "refused", processor seconds, kB that memory grew by.

    Raises:
        AssertionError: an error of another kind or of several lines, or too slow, or too large.
    """
    start = time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = "refused"
    try:
        for source in find_volumes(path).volumes[:3]:
            volume = read_volume(source.path, series=source.series)
            assert np.isfinite(volume.array).all(), "voxels that are not finite"
            outcome = "read"
    except MrsslError as error:
        assert path.name in str(error), f"the error names no file: {error}"
        assert "\n" not in str(error), f"an error of several lines: {error!r}"
    seconds = time.process_time() - start
    growth = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert seconds < MAX_SECONDS, f"took {seconds:.1f} s"
    assert growth < MAX_GROWTH, f"memory grew by {growth} kB"
    return outcome, seconds, growth


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("files", nargs="+", type=Path, help="good files of any format read")
    options.add_argument("--count", type=int, default=1000, help="damaged files to try")
    options.add_argument("--first", type=int, default=0, help="number of the first")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Try, and count the outcomes."""
    args = parser().parse_args(arguments)
    counts: Counter[str] = Counter()
    slowest, largest = 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.first, args.first + args.count):
            source = args.files[number % len(args.files)]
            suffix = ".nii.gz" if source.name.endswith(".nii.gz") else source.suffix
            path = Path(folder) / f"damaged{suffix}"
            done = mutate(source, path, number)
            try:
                outcome, seconds, growth = try_reading(path)
                counts[outcome] += 1
                slowest, largest = max(slowest, seconds), max(largest, growth)
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # whatever comes is what is looked for
                counts["wrong"] += 1
                print(f"{number} {source.name} ({done}): {type(error).__name__}: {error}")
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    print(f"slowest {slowest:.2f} s of the processor; memory grew by {largest} kB at most")
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    run_main(main)
