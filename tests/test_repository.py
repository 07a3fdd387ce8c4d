"""Promises of the repository: short configs, no machine's paths, links that lead somewhere."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import mrssl
from mrssl.config import WHOLE_SLICE_RESTORATION, load_cfg

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
CHILDREN = [file for file in CONFIGS if file.parent.name in ("pretrain", "finetune")]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("datasets/*.md")])
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".json", ".cfg", ".txt", ""}

# Folders of somebody's machine; "someone" stands for nobody. Spelled so as not to match itself.
_FOLDERS = "|".join(["work", "root", "home", "Users", "tmp"])
MACHINE_PATH = re.compile(rf"(?<![\w.$}}/-])/(?:{_FOLDERS})/(?!someone\b)\w")


def tracked_files() -> list[Path]:
    """The files of the repository; of the folder where it is no git checkout."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        files = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        files = [
            file
            for part in ("mrssl", "tools", "tests", "configs")
            for file in (ROOT / part).rglob("*")
        ]
    return [file for file in files if file.is_file()]


def _name(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", CHILDREN, ids=_name)
def test_configs_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 15


@pytest.mark.parametrize("file", CONFIGS, ids=_name)
def test_configs_load(file: Path) -> None:
    peer = file.name.startswith("whole_slice")
    architecture = WHOLE_SLICE_RESTORATION if peer else "GeneralizedRCNN"
    assert architecture == load_cfg(file).MODEL.META_ARCHITECTURE


@pytest.mark.parametrize("file", CHILDREN, ids=_name)
def test_configs_save_before_they_end(file: Path) -> None:
    solver = load_cfg(file).SOLVER
    assert 0 < solver.CHECKPOINT_PERIOD <= solver.MAX_ITER / 2


def test_no_path_of_a_machine() -> None:
    found = []
    for file in tracked_files():
        if file.suffix in TEXT and file.name != "LICENSE":
            lines = file.read_text(encoding="utf-8").splitlines()
            found += [
                f"{_name(file)}:{n}: {line}"
                for n, line in enumerate(lines, 1)
                if MACHINE_PATH.search(line)
            ]
    assert found == []


def test_machine_paths_are_recognised() -> None:
    for part in ("work", "home", "tmp"):
        assert MACHINE_PATH.search(f"root = '/{part}/data'")
        assert not MACHINE_PATH.search(f"see docs/{part}/data and ${{X}}/{part}/y")


def test_sources_stay_readable() -> None:
    long = [
        _name(file)
        for file in tracked_files()
        if file.suffix == ".py" and len(file.read_text(encoding="utf-8").splitlines()) > 400
    ]
    assert long == []
    assert not [folder for folder in (ROOT / "mrssl").rglob("*") if folder.name.startswith("utils")]


def test_no_data_is_tracked() -> None:
    assert not [
        _name(f)
        for f in tracked_files()
        if f.name.endswith((".nii", ".nii.gz", ".dcm", ".pth", ".npy", ".npz"))
    ]


def test_changelog_speaks_of_this_version() -> None:
    newest = re.search(
        r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert newest is not None
    assert newest.group(1) == mrssl.__version__


@pytest.mark.parametrize("file", DOCUMENTS, ids=_name)
def test_documents_point_at_what_exists(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", text)
    named = re.findall(r"\b(?:tools/\w+\.py|configs/[\w/.-]+\.yaml)", text)
    missing = [link for link in links if not (file.parent / link).exists()]
    missing += [path for path in named if not (ROOT / path).exists()]
    assert missing == []


def test_documents_name_real_make_targets() -> None:
    targets = set(
        re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert {"format", "lint", "types", "test", "test-fast", "demo"} <= targets
    for file in DOCUMENTS:
        text = file.read_text(encoding="utf-8")
        used = re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)
        assert set(used) <= targets, file.name
