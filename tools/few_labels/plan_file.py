"""A plan's YAML file, read strictly: what is unknown, missing or of another type is named."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from few_labels.plan import ALL, FINETUNE, PRETRAIN, ROOT, SCRATCH, TORCHVISION, Arm, Plan, Recipe
from mrssl.engines import ENGINES
from mrssl.errors import MrsslError

T = TypeVar("T")
_REQUIRED: Any = object()
_NAME = re.compile(r"\w[\w.+ -]*")


def load_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        MrsslError: a missing file, an unknown or missing key, a value of the wrong type.
    """
    node = Node(str(path), _read(path))
    labeled = node.take("labeled", _labeled)
    seeds = tuple(range(node.take("seeds", _count)))
    # Its file may be missing where nothing is pretrained, or each pretraining names its own.
    pretrain = _recipe(node.child(PRETRAIN), Recipe(""), complete=False)
    finetune = _recipe(node.child(FINETUNE), Recipe(""))
    pretrainings = {name: _recipe(child, pretrain) for name, child in node.children("pretrainings")}
    arms = {}
    for name, child in node.children("arms"):
        count = child.take("seeds", _count, len(seeds))
        if count > len(seeds):
            raise MrsslError(f"{child.where}: seeds: {count}, but the plan has {len(seeds)}")
        arms[name] = Arm(
            weights=child.take("weights", str, ""),
            labeled=child.take("labeled", _labeled, labeled),
            seeds=seeds[:count],
            recipe=_recipe(child, Recipe(finetune.config)),
        )
    validation, tune = node.child("validation"), node.child("tune")
    schedules = {str(n): child.rest() for n, child in node.children("schedules")}
    plan = Plan(
        dataset=node.take("dataset", str),
        engine=node.take("engine", _engine, TORCHVISION),
        train_split=node.take("train_split", str, "train"),
        test_split=node.take("test_split", str, "test"),
        validation_subjects=validation.take("subjects", int, 0),
        validation_period=validation.take("period", int, 0),
        pretrain_per_seed=node.take("pretrain_per_seed", bool, False),
        pretrainings=pretrainings,
        finetune=finetune.opts,
        arms=arms,
        baselines=node.take("baselines", _baselines, {SCRATCH: ()} if SCRATCH in arms else {}),
        schedules=schedules,
        tune_labeled=tune.take("labeled", _labeled, ()),
        tune_folds=tune.take("folds", _folds, 3),
        tune_grids={name: child.rest() for name, child in tune.children("grids")},
    )
    for part in (validation, tune, node):
        part.finish()
    for name in itertools.chain(plan.baselines, *plan.baselines.values()):
        if name not in arms:
            raise MrsslError(f"{path}: baselines: {name} is no arm")
    for name in plan.tune_grids:
        if name not in arms:
            raise MrsslError(f"{path}: tune.grids.{name} is no arm")
    return plan


def _recipe(node: Node, base: Recipe, *, complete: bool = True) -> Recipe:
    opts = node.child("opts").rest()
    recipe = Recipe(node.take("config", str, base.config), {**base.opts, **opts})
    # Without a file, this is the folder of the repository.
    if (complete or recipe.config) and not (ROOT / recipe.config).is_file():
        raise MrsslError(f"{node.where}: 'config' {recipe.config!r} is no file of the repository")
    node.finish()
    return recipe


def _labeled(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise TypeError
    if not all(v == ALL or (isinstance(v, int) and v > 0) for v in value):
        raise TypeError
    return tuple(map(str, value))


def _count(value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ValueError
    return value


def _folds(value: Any) -> int:
    folds = _count(value)
    if folds < 2:  # one would leave nobody to train on
        raise ValueError
    return folds


def _engine(value: Any) -> str:
    if value not in ENGINES or value == "auto":  # which differs from machine to machine
        raise ValueError
    return str(value)


def _baselines(value: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, dict):
        raise TypeError
    if not all(arms == ALL or (isinstance(arms, list) and arms) for arms in value.values()):
        raise TypeError
    return {str(k): () if v == ALL else tuple(map(str, v)) for k, v in value.items()}


def _read(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        MrsslError: it cannot be read, or holds something else.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise MrsslError(f"{path}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise MrsslError(f"{path}: must map keys to values")
    return content


class Node:
    """A mapping of the file; each key is taken once, and :meth:`finish` names what nobody took.

    Args:
        where: file and keys, for messages.
        content: the mapping.
    """

    def __init__(self, where: str, content: Any) -> None:
        content = {} if content is None else content
        if not isinstance(content, Mapping):
            raise MrsslError(f"{where}: must map keys to values")
        self.where = where
        self.content = dict(content)

    def take(self, key: str, kind: Callable[[Any], T], default: Any = _REQUIRED) -> T:
        """The value of ``key``.

        Args:
            key: in the file.
            kind: ``str``, ``int`` or ``bool``, which the value must be; or a function of the value
                that raises ``TypeError`` where it does not fit.
            default: where there is no such key.

        Raises:
            MrsslError: it is missing and has no default, or does not fit.
        """
        if key not in self.content:
            if default is _REQUIRED:
                raise MrsslError(f"{self.where}: the key {key!r} is missing")
            return default
        value = self.content.pop(key)
        try:
            if isinstance(kind, type) and type(value) is not kind:
                raise TypeError
            return kind(value)
        except (TypeError, ValueError):
            raise MrsslError(f"{self.where}: {key}: {value!r} is not what is meant there") from None

    def child(self, key: str) -> Node:
        """The mapping under ``key``; empty where there is none."""
        return Node(f"{self.where}: {key}", self.content.pop(key, {}))

    def children(self, key: str) -> Iterator[tuple[Any, Node]]:
        """Names and mappings of the mapping under ``key``.

        Raises:
            MrsslError: a name that cannot be a folder's, as those of runs are.
        """
        inner = self.child(key)
        for name in list(inner.content):
            if not _NAME.fullmatch(str(name)):
                raise MrsslError(f"{inner.where}: {name!r}: letters, digits and . + - _ are meant")
            yield name, inner.child(name)

    def rest(self) -> dict[str, Any]:
        """All keys that are left; then there are none."""
        rest, self.content = {str(k): v for k, v in self.content.items()}, {}
        return rest

    def finish(self) -> None:
        """See that every key was taken.

        Raises:
            MrsslError: one was not.
        """
        if self.content:
            raise MrsslError(f"{self.where}: unknown key {next(iter(self.content))!r}")
