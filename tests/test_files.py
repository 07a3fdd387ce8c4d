"""Files are written whole, also under names that are no Unicode, as of other systems' archives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrssl.files import write_png, write_text

LATIN = os.fsdecode(b"M\xfcller")


def test_pictures_and_texts_are_written_under_them_and_of_them(tmp_path: Path) -> None:
    write_png(tmp_path / f"{LATIN}.png", np.zeros((4, 4, 3), np.uint8))
    write_text(tmp_path / f"{LATIN}.md", f"of {LATIN}")
    assert (tmp_path / f"{LATIN}.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / f"{LATIN}.md").read_text() == "of M\\udcfcller"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("grey", [True, False])
def test_a_picture_without_colour_is_written_grey(tmp_path: Path, grey: bool) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    if grey:
        picture[:] = picture[..., :1]
    write_png(tmp_path / "a.png", picture)
    found = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(found, picture[..., 0] if grey else picture)


def test_a_name_may_be_as_long_as_the_system_lets_it(tmp_path: Path) -> None:
    for name in ("x" * 250 + ".json", "x." + "y" * 253):
        write_text(tmp_path / name, "{}")
        assert (tmp_path / name).read_text() == "{}"


def test_a_terminal_shows_them_as_escapes() -> None:
    code = (
        "import os\n"
        "from mrssl.errors import MrsslError, run_main\n"
        "def main():\n"
        "    print(os.fsdecode(b'M\\xfcller'))\n"
        "    raise MrsslError(os.fsdecode(b'M\\xfcller: no such file'))\n"
        "run_main(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "M\\udcfcller\n")
    assert done.stderr == "error: M\\udcfcller: no such file\n"
