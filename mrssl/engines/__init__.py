"""Two engines that plug the core into a detector; they never import each other."""

from __future__ import annotations

import importlib
import importlib.util
import sys

from mrssl.errors import MissingDependencyError, MrsslError, one_line

ENGINES = ("auto", "detectron2", "torchvision")
DETECTRON2_GUIDE = "https://detectron2.readthedocs.io/en/latest/tutorials/install.html"


def choose_engine(name: str = "auto") -> str:
    """The engine asked for; "auto" is Detectron2 where it can be imported, torchvision elsewhere.

    Where it is installed and cannot be imported, as it is with libraries that it does not fit, that
    is said.

    Raises:
        MissingDependencyError: the library asked for is not installed, or cannot be imported; one
            line says what to do.
        MrsslError: an engine of another name.
    """
    if name not in ENGINES:
        raise MrsslError(f"engine {name!r}: known are {', '.join(ENGINES)}")
    if name == "auto":
        if importlib.util.find_spec("detectron2") is None:
            return choose_engine("torchvision")
        try:
            return choose_engine("detectron2")
        except MissingDependencyError as error:
            print(f"warning: {error}", file=sys.stderr)
            return choose_engine("torchvision")
    if importlib.util.find_spec(name) is None:
        how = "pip install -e '.[torchvision]' in mrssl's checkout"
        if name == "detectron2":
            how = f"see {DETECTRON2_GUIDE}"
        raise MissingDependencyError(
            f"the engine {name} needs {name}, which is not installed: {how}"
        )
    if name == "detectron2":
        try:
            importlib.import_module("detectron2.engine")  # as every run of it does
        except Exception as error:  # built for another torch, or of before Pillow 10, say
            raise MissingDependencyError(
                f"detectron2 cannot be imported ({one_line(error)}): see {DETECTRON2_GUIDE}"
            ) from error
    return name
