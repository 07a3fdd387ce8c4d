"""What the few-label benchmark runs: the grid of arms, numbers of labelled subjects and seeds.

A plan is a YAML file; ``benchmarks/few_labels/*.yaml`` are examples with every key explained.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from fvcore.common.config import CfgNode

from mrssl.data.cases import select_subjects
from mrssl.data.descriptions import describe
from mrssl.errors import MrsslError

ROOT = Path(__file__).resolve().parents[2]
ALL = "all"
SCRATCH = "scratch"  # the arm that the others are compared with, where a plan names none
PRETRAIN, FINETUNE, TUNE = "pretrain", "finetune", "tune"
TORCHVISION = "torchvision"  # the engine, where a plan names none


@dataclass(frozen=True)
class Recipe:
    """A configuration file of the repository, and the keys set on top of it."""

    config: str
    opts: Mapping[str, Any] = field(default_factory=dict)

    def __or__(self, opts: Mapping[str, Any]) -> Recipe:
        return replace(self, opts={**self.opts, **opts})

    def content(self) -> dict[str, Any]:
        """What the file says, its bases included; not to be changed.

        How often a run is saved changes no figure, and is left out: rows from before a file set it
        stay current.
        """
        return _content(self.config)

    def value(self, key: str) -> Any:
        """What is set for ``key`` here; defaults of the library are not looked up.

        Raises:
            MrsslError: nothing is.
        """
        value: Any = self.opts.get(key, self.content())
        try:
            for part in [] if key in self.opts else key.split("."):
                value = value[part]
        except (KeyError, TypeError):
            raise MrsslError(f"{self.config}: sets no {key}, and neither does the plan") from None
        return value


@dataclass(frozen=True)
class Arm:
    """A way to fine-tune.

    Attributes:
        recipe: its configuration file, and its own keys, which go before those of the schedule.
        weights: name of a pretraining, or of a file given on the command line; "" = scratch.
        labeled: numbers of labelled subjects to run it at.
        seeds: likewise.
    """

    recipe: Recipe
    weights: str
    labeled: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Run:
    """One training, and for fine-tuning the scoring after it: a unit that is done or not done.

    Attributes:
        id: its name, and its folder under ``runs/``.
        kind: "pretrain", "finetune" or "tune".
        arm: or the name of the pretraining.
        recipe: everything but paths, weights and device.
        labeled: as in the plan, "all" included; "" of a pretraining.
        subjects: labelled subjects trained on; empty = the whole training split.
        seed: of the run; of ``tune`` the fold.
        train: data set, relative to the folder of the data.
        validation: for the curve; "" for none. Never a test subject.
        test: scored once, after the training; "" of a pretraining.
        weights: name of what it starts from; "" for nothing.
        needs: id of the pretraining that makes those weights; "" for none.
    """

    id: str
    kind: str
    arm: str
    recipe: Recipe
    train: str
    labeled: str = ""
    subjects: tuple[str, ...] = ()
    seed: int = 0
    validation: str = ""
    test: str = ""
    weights: str = ""
    needs: str = ""

    def fingerprint(self, weights: str, engine: str = TORCHVISION) -> str:
        """A digest of all that its figures depend on; the device and the code are not among it.

        The configuration file counts by its content, bases included.

        Args:
            weights: the digest of what it starts from; "" for nothing.
            engine: that trains it.
        """
        parts = [
            self.recipe.content(),
            self.recipe.opts,
            self.train,
            self.validation,
            self.test,
            self.seed,
            weights,
        ]
        if engine != TORCHVISION:  # left out of the fingerprints of rows from before it counted
            parts.append(engine)
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """A benchmark: see ``benchmarks/few_labels/`` for what each key of its file means."""

    dataset: str
    engine: str
    train_split: str
    test_split: str
    validation_subjects: int
    validation_period: int
    pretrain_per_seed: bool
    pretrainings: Mapping[str, Recipe]
    finetune: Mapping[str, Any]  # keys of all arms, which give way to schedules and arms
    arms: Mapping[str, Arm]
    baselines: Mapping[str, tuple[str, ...]]  # arms compared with each; empty for all
    schedules: Mapping[str, Mapping[str, Any]]
    tune_labeled: tuple[str, ...]
    tune_folds: int
    tune_grids: Mapping[str, Mapping[str, Sequence[Any]]]

    def path(self, split: str) -> str:
        """A split of the data set, relative to the folder of the data."""
        return f"{self.dataset}/dataset.json:{split}"

    def subjects(self, data: Path) -> list[str]:
        """The labelled subjects of the training split, sorted.

        Raises:
            MrsslError: the data set cannot be used, or a test subject is in the training split,
                all of which pretraining sees.
        """
        cases, test = (
            describe(data / self.path(split)).cases for split in (self.train_split, self.test_split)
        )
        unseen = {case.source.subject for case in test}
        if seen := sorted(unseen & {case.source.subject for case in cases}):
            raise MrsslError(
                f"{data / self.path(self.test_split)}: subject {seen[0]!r} is in the training "
                f"split {self.train_split!r} too"
            )
        return sorted({case.source.subject for case in cases if case.label_file})

    def pretraining_runs(self) -> Iterator[Run]:
        """One run a pretraining, or one a pretraining and seed."""
        seeds = sorted({seed for arm in self.arms.values() for seed in arm.seeds})
        for name, recipe in self.pretrainings.items():
            for seed in seeds if self.pretrain_per_seed else [0]:
                yield Run(
                    id=self._pretraining_id(name, seed),
                    kind=PRETRAIN,
                    arm=name,
                    recipe=recipe,
                    train=self.path(self.train_split),
                    seed=seed,
                )

    def finetuning_runs(self, subjects: Sequence[str]) -> Iterator[Run]:
        """The grid, seed by seed, so that what is done so far compares all arms.

        Args:
            subjects: the labelled subjects of the training split.
        """
        cells = [
            (seed, labeled, name)
            for name, arm in self.arms.items()
            for labeled in arm.labeled
            for seed in arm.seeds
        ]
        order = {name: place for place, name in enumerate(self.arms)}
        cells.sort(key=lambda c: (c[0], c[1] == ALL, int(c[1]) if c[1] != ALL else 0, order[c[2]]))
        for seed, labeled, name in cells:
            chosen, held_out = choose_subjects(
                subjects, labeled, seed, validation=self.validation_subjects
            )
            validation = self._select(held_out) if held_out else ""
            period = self.validation_period if held_out else 0
            yield Run(
                id=f"{name}/n{labeled}/seed{seed}",
                kind=FINETUNE,
                arm=name,
                recipe=self._recipe(name, labeled) | {"TEST.EVAL_PERIOD": period},
                train=self._select(chosen),
                labeled=labeled,
                subjects=tuple(chosen),
                seed=seed,
                validation=validation,
                test=self.path(self.test_split),
                weights=self.arms[name].weights,
                needs=self._needs(name, seed),
            )

    def tuning_runs(self, subjects: Sequence[str]) -> Iterator[Run]:
        """Cross-validation inside the training split over the grids of ``tune``.

        Args:
            subjects: the labelled subjects of the training split.

        Raises:
            MrsslError: there are too few of them for the folds, or outside one of these.
        """
        folds = np.array_split(
            np.random.default_rng(0).permutation(list(subjects)), self.tune_folds
        )
        for fold, labeled in itertools.product(range(self.tune_folds), self.tune_labeled):
            held_out = sorted(map(str, folds[fold]))
            rest = [s for s in subjects if s not in set(held_out)]
            if not held_out:
                raise MrsslError(f"tune: {self.tune_folds} folds of {len(subjects)} subjects")
            chosen, _ = choose_subjects(rest, labeled, fold, given=f"tune, fold {fold} leaves")
            for name, grid in self.tune_grids.items():
                for values in itertools.product(*grid.values()):
                    setting = dict(zip(grid, values, strict=True))
                    label = ",".join(f"{k.rpartition('.')[2]}={v}" for k, v in setting.items())
                    label = label.replace("/", "_")  # of a file: it is to be one folder's name
                    yield Run(
                        id=f"tune/{name}/n{labeled}/{label}/fold{fold}",
                        kind=TUNE,
                        arm=f"{name} {label}",
                        recipe=self._recipe(name, labeled) | setting,
                        train=self._select(chosen),
                        labeled=labeled,
                        subjects=tuple(chosen),
                        seed=fold,
                        test=self._select(held_out),
                        weights=self.arms[name].weights,
                        needs=self._needs(name, 0),
                    )

    def _recipe(self, arm: str, labeled: str) -> Recipe:
        own = self.arms[arm].recipe
        return Recipe(own.config, self.finetune) | self.schedules.get(labeled, {}) | own.opts

    def _select(self, subjects: Sequence[str]) -> str:
        return select_subjects(self.path(self.train_split), sorted(subjects))

    def _needs(self, arm: str, seed: int) -> str:
        weights = self.arms[arm].weights
        return self._pretraining_id(weights, seed) if weights in self.pretrainings else ""

    def _pretraining_id(self, name: str, seed: int) -> str:
        return f"{PRETRAIN}/{name}" + (f"/seed{seed}" if self.pretrain_per_seed else "")


def choose_subjects(
    subjects: Sequence[str],
    labeled: str,
    seed: int,
    *,
    validation: int = 0,
    given: str = "the training split has",
) -> tuple[list[str], list[str]]:
    """The labelled subjects of a seed, and subjects to validate on.

    Both follow from the seed alone: every arm gets the same. Of one seed, the labelled subjects
    at a smaller number are among those at a greater one.

    Args:
        subjects: of the training split, sorted.
        labeled: how many, or "all".
        seed: picks the order.
        validation: subjects to hold out at most, of those that are left.
        given: who says how many subjects there are, for the message.

    Raises:
        MrsslError: there are fewer subjects than asked for.
    """
    count = len(subjects) if labeled == ALL else int(labeled)
    if count > len(subjects):
        raise MrsslError(f"{count} labelled subjects: {given} {len(subjects)} subjects")
    order = [str(s) for s in np.random.default_rng(seed).permutation(list(subjects))]
    left = order[count:]
    return order[:count], left[len(left) - min(validation, len(left)) :]


@lru_cache(maxsize=64)
def _content(config: str) -> dict[str, Any]:
    content: dict[str, Any] = CfgNode.load_yaml_with_base(str(ROOT / config))
    content.get("SOLVER", {}).pop("CHECKPOINT_PERIOD", None)
    return content
