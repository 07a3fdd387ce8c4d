"""Shared by all tests: real data where there is some, Detectron2 where it is installed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

# Before torch is imported, and inherited by the command lines that tests start: sums of another
# number of threads round otherwise, and the suite runs in processes side by side (pytest -n).
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

ROOT = Path(__file__).resolve().parents[1]
HAS_DETECTRON2 = importlib.util.find_spec("detectron2") is not None


@pytest.fixture(scope="session")
def repository_root() -> Path:
    """The checkout that holds configs/, tools/ and mrssl/."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of real MRI (spine/, hippocampus/, dicom/) that is no part of the repository."""
    named = os.environ.get("MRSSL_TEST_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real MRI at {folder.name!r}: set MRSSL_TEST_DATA to its folder")
    return folder


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if HAS_DETECTRON2:
        return
    for item in items:
        if item.get_closest_marker("detectron2"):
            item.add_marker(pytest.mark.skip(reason="Detectron2 is not installed"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if HAS_DETECTRON2:
        return
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum("detectron2" in report.keywords for report in skipped)
    if count:
        terminalreporter.write_line(f"{count} tests need Detectron2, which is not installed here")
