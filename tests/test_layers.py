"""Reads the imports of the package and fails where a layer is broken.

structures <- distortions, data, modeling, evaluation, checkpoint <- engines <- tools
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MIDDLE = ("distortions", "data", "modeling", "evaluation", "checkpoint")
# mrssl itself and its modules
EVERYWHERE = ("", "errors", "files", "config", "config_values", "detectron2_keys", "privacy")
KNOWN = (*EVERYWHERE, "structures", *MIDDLE, "engines")
DETECTORS = ("detectron2", "torchvision")

# (importing module, imported package) that is allowed beside the rule.
EXCEPTIONS = {("mrssl.data.mapper", "distortions")}


def module_name(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(node: ast.AST, module: str, *, is_package: bool) -> list[str]:
    """Absolute names that one import statement reaches; ``from a import b`` gives ``a.b``."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        parts = module.split(".")
        parts = parts[: len(parts) - node.level + is_package]
        base = ".".join([*parts, base] if base else parts)
    return [f"{base}.{alias.name}" for alias in node.names]


def statements(tree: ast.AST) -> Iterator[tuple[ast.AST, bool]]:
    """Every node, and whether it runs when the module is imported."""

    def walk(node: ast.AST, at_import: bool) -> Iterator[tuple[ast.AST, bool]]:
        for child in ast.iter_child_nodes(node):
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            yield child, at_import
            yield from walk(child, at_import and not inside and not for_types)

    return walk(tree, True)


def fault(module: str, imported: str, at_import: bool) -> str | None:
    """What is wrong with ``module`` importing ``imported``; None if nothing is."""
    layer = [*module.split("."), ""][1]
    in_engines = layer == "engines"
    top, *rest = imported.split(".")
    if top in DETECTORS and not in_engines:
        if top == "detectron2":
            return "only engines may import detectron2"
        return "the core may import torchvision only inside a function" if at_import else None
    if in_engines and top in DETECTORS:
        engine = [*module.split("."), "", ""][2]
        other = engine in DETECTORS and engine != top == "detectron2"
        return "the torchvision engine must not need detectron2" if other else None
    if top != "mrssl":
        return (
            "the package must not import its tools or tests" if top in ("tools", "tests") else None
        )
    target = rest[0] if rest else ""
    if target in EVERYWHERE or target not in KNOWN:  # not a module of ours: mrssl.__version__
        return None
    if layer == target == "engines":
        source = [*module.split("."), "", ""][2]
        reached = rest[1] if len(rest) > 1 else ""
        crossed = source in DETECTORS and reached in DETECTORS and source != reached
        return "the engines must not import each other" if crossed else None
    if layer == target or in_engines or (module, target) in EXCEPTIONS:
        return None
    if layer in MIDDLE and target == "structures":
        return None
    return f"{layer or 'mrssl'} must not import {target}"


def violations(root: Path) -> list[str]:
    """One line for each broken layer in the package ``mrssl`` under ``root``."""
    found = []
    for file in sorted((root / "mrssl").rglob("*.py")):
        module = module_name(file, root)
        if [*module.split("."), ""][1] not in KNOWN:
            found.append(f"{file.relative_to(root)}: stands in no layer")
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        for node, at_import in statements(tree):
            names = imported_modules(node, module, is_package=file.name == "__init__.py")
            # `from a import b, c` may break the same rule twice: once is enough.
            reasons = {reason for name in names if (reason := fault(module, name, at_import))}
            found += [f"{file.relative_to(root)}:{node.lineno}: {reason}" for reason in reasons]  # type: ignore[attr-defined]
    return found


def test_layers_hold(repository_root: Path) -> None:
    assert violations(repository_root) == []


BROKEN = [
    ("utils/a.py", "import os"),
    ("structures/a.py", "from mrssl.data import readers"),
    ("structures/a.py", "import mrssl.distortions.intensity"),
    ("data/readers.py", "from mrssl.distortions import Distorter"),
    ("data/readers.py", "from ..distortions import Distorter"),
    ("data/readers.py", "def f():\n    from mrssl import evaluation"),
    ("data/mapper.py", "from mrssl.modeling import RestorationHead"),
    ("data/mapper.py", "import torchvision"),
    (
        "modeling/a.py",
        "try:\n    from torchvision.ops import roi_align\nexcept ImportError:\n    pass",
    ),
    ("modeling/a.py", "class A:\n    import torchvision"),
    ("modeling/a.py", "def f():\n    import detectron2"),
    ("modeling/__init__.py", "from ..engines import torchvision"),
    ("checkpoint/a.py", "import mrssl.engines.torchvision"),
    ("evaluation/a.py", "from tools import demo"),
    ("config.py", "from mrssl.data import readers"),
    ("__init__.py", "from mrssl.structures import Volume"),
    ("__init__.py", "from .structures import Volume"),
    ("engines/torchvision/a.py", "from mrssl.engines.detectron2 import trainer"),
    ("engines/torchvision/a.py", "from ..detectron2 import trainer"),
    ("engines/torchvision/a.py", "from mrssl.engines import detectron2"),
    ("engines/torchvision/a.py", "def f():\n    import detectron2.layers"),
    ("engines/detectron2/__init__.py", "from mrssl.engines.torchvision import trainer"),
]
SOUND = [
    ("data/mapper.py", "from mrssl.distortions import Distorter"),
    ("data/readers.py", "from mrssl.structures import Volume\nfrom .labels import x"),
    ("modeling/a.py", "def f():\n    from torchvision.ops import roi_align"),
    ("modeling/a.py", "if TYPE_CHECKING:\n    import torchvision"),
    ("evaluation/a.py", "from mrssl.errors import MrsslError\nimport mrssl"),
    ("engines/torchvision/a.py", "import torchvision\nfrom mrssl.data.mapper import M"),
    ("engines/torchvision/a.py", "from .roi_heads import R\nfrom mrssl.engines import torchvision"),
    ("engines/detectron2/a.py", "import detectron2\nfrom torchvision.ops import nms"),
    ("engines/select.py", "def f():\n    from mrssl.engines import detectron2"),
]


def _package(tmp_path: Path, path: str, source: str) -> Path:
    file = tmp_path / "mrssl" / path
    file.parent.mkdir(parents=True)
    file.write_text(source, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(("path", "source"), BROKEN)
def test_a_broken_layer_is_caught(tmp_path: Path, path: str, source: str) -> None:
    (line,) = violations(_package(tmp_path, path, source))
    assert line.startswith(f"mrssl/{path}:")


@pytest.mark.parametrize(("path", "source"), SOUND)
def test_a_sound_import_is_let_through(tmp_path: Path, path: str, source: str) -> None:
    assert violations(_package(tmp_path, path, source)) == []


def test_importing_mrssl_loads_nothing_heavy(repository_root: Path) -> None:
    program = (
        "import sys, mrssl; print(sorted({'torch', 'numpy', 'cv2', 'fvcore'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=repository_root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
