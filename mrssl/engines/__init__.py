"""Two engines that plug the core into a detector; they never import each other."""

from __future__ import annotations

import importlib.util

from mrssl.errors import MissingDependencyError, MrsslError

ENGINES = ("auto", "detectron2", "torchvision")
DETECTRON2_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"


def choose_engine(name: str = "auto") -> str:
    """The engine asked for; "auto" is Detectron2 where it is installed, torchvision elsewhere.

    Raises:
        MissingDependencyError: the library asked for is not installed; one line says what to do.
        MrsslError: an engine of another name.
    """
    if name not in ENGINES:
        raise MrsslError(f"engine {name!r}: known are {', '.join(ENGINES)}")
    if name == "auto":
        name = "detectron2" if importlib.util.find_spec("detectron2") else "torchvision"
    if importlib.util.find_spec(name) is None:
        how = (
            f"see {DETECTRON2_GUIDE}" if name == "detectron2" else "pip install mrssl[torchvision]"
        )
        raise MissingDependencyError(
            f"the engine {name} needs {name}, which is not installed: {how}"
        )
    return name
