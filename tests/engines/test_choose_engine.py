"""Without Detectron2: one line that says so and where its guide is, and everything else works."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mrssl.engines import DETECTRON2_GUIDE, choose_engine
from mrssl.errors import MissingDependencyError

#: Makes Detectron2 invisible before anything is imported.
HIDE = """
import importlib.util as util, sys
find = util.find_spec
util.find_spec = lambda name, *rest: None if name.startswith("detectron2") else find(name, *rest)
sys.modules["detectron2"] = None
"""


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name.startswith("detectron2") else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", without)


def test_auto_falls_back(hidden: None) -> None:
    assert choose_engine("auto") == "torchvision"


def test_detectron2_says_what_is_missing(hidden: None) -> None:
    with pytest.raises(MissingDependencyError) as caught:
        choose_engine("detectron2")
    text = str(caught.value)
    assert "not installed" in text
    assert DETECTRON2_GUIDE in text
    assert len(text.splitlines()) == 1


def test_an_installation_that_does_not_import_is_passed_over_and_told(
    tmp_path: Path, repository_root: Path
) -> None:
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("raise AttributeError('of another age')")
    program = "from mrssl.engines import choose_engine; print(choose_engine({!r}))"
    done = [
        subprocess.run(
            [sys.executable, "-c", program.format(name)], cwd=repository_root, text=True,
            capture_output=True, timeout=120, check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(repository_root)])},
        )
        for name in ("auto", "detectron2")
    ]  # fmt: skip
    assert done[0].stdout == "torchvision\n"
    assert "warning: detectron2 cannot be imported (of another age)" in done[0].stderr
    assert "MissingDependencyError: detectron2 cannot be imported" in done[1].stderr


def python(root: Path, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE + program], cwd=root, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip


def test_the_command_line_ends_in_one_line(repository_root: Path) -> None:
    done = python(
        repository_root,
        """
sys.path[:0] = ["tools", "."]
import train_net
from mrssl.errors import run_main
arguments = ["--config-file", "configs/pretrain/distortion_R_50_FPN.yaml"]
run_main(lambda: train_net.main([*arguments, "--engine", "detectron2"]))
""",
    )
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert DETECTRON2_GUIDE in line


def test_every_tool_starts_without_it(repository_root: Path) -> None:
    tools = [path.stem for path in sorted((repository_root / "tools").glob("*.py"))]
    program = f"""
sys.path[:0] = ["tools", "."]
import importlib
for name in {tools!r}:
    importlib.import_module(name)
import mrssl.engines.torchvision
"""
    done = python(repository_root, program)
    assert done.returncode == 0, done.stderr[-1500:]
