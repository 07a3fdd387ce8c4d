"""The grid: who is labelled, who is never seen, and what makes a run another run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from few_labels.plan import ROOT, Plan, Recipe, Run, choose_subjects
from few_labels.plan_file import load_plan
from mrssl.config import load_cfg
from mrssl.errors import MrsslError

from .conftest import QUICK, plan_content

SUBJECTS = [f"s{i:02d}" for i in range(12)]


def named(path: str) -> set[str]:
    """The subjects that a path selects."""
    match = re.fullmatch(r"phantom/dataset\.json:train\[(.*)\]", path)
    assert match, path
    return set(match[1].split(","))


def test_the_grid_is_complete_and_each_run_has_a_name_of_its_own(plan: Plan) -> None:
    runs = list(plan.finetuning_runs(SUBJECTS))
    assert len({run.id for run in runs}) == len(runs) == 3 * 3 * 3 + 2
    assert [run.id for run in runs if run.arm == "blind"] == ["blind/n2/seed0", "blind/n2/seed1"]
    assert {run.needs for run in runs} == {"", "pretrain/mrssl", "pretrain/blind"}
    assert [run.id for run in plan.pretraining_runs()] == ["pretrain/mrssl", "pretrain/blind"]


def test_every_arm_gets_the_same_subjects(plan: Plan) -> None:
    seen: dict[tuple[str, int], set[tuple[Any, ...]]] = {}
    for run in plan.finetuning_runs(SUBJECTS):
        assert named(run.train) == set(run.subjects)
        cell = (run.train, run.validation, run.subjects)
        seen.setdefault((run.labeled, run.seed), set()).add(cell)
    assert all(len(cells) == 1 for cells in seen.values())
    assert len(set.union(*(seen["1", seed] for seed in range(3)))) > 1


def test_nobody_is_both_labelled_and_held_out_and_the_test_split_only_scored(plan: Plan) -> None:
    for run in plan.finetuning_runs(SUBJECTS):
        assert run.test == "phantom/dataset.json:test"
        assert len(run.subjects) == (12 if run.labeled == "all" else int(run.labeled))
        if run.labeled == "all":
            assert run.validation == ""
            assert run.recipe.value("TEST.EVAL_PERIOD") == 0
        else:
            assert not named(run.validation) & named(run.train)
            assert named(run.validation) | named(run.train) <= set(SUBJECTS)
    for run in plan.pretraining_runs():
        assert (run.train, run.validation, run.test) == ("phantom/dataset.json:train", "", "")


def test_tuning_is_a_cross_validation_inside_the_training_split(plan: Plan) -> None:
    runs = list(plan.tuning_runs(SUBJECTS))
    assert len({run.id for run in runs}) == len(runs) == 3 * 4
    held_out = {run.seed: named(run.test) for run in runs}
    assert sorted(s for fold in held_out.values() for s in fold) == SUBJECTS
    for run in runs:
        assert not named(run.train) & named(run.test)
        assert run.recipe.value("SOLVER.MAX_ITER") in (2, 4)
    assert "tune/scratch/n1/BASE_LR=0.01,MAX_ITER=2/fold1" in {run.id for run in runs}


def test_subjects_too_few_for_tuning_are_told_with_the_fold(
    write_plan: Callable[..., Path],
) -> None:
    grids = plan_content()["tune"]["grids"]
    plan = load_plan(write_plan(tune={"labeled": [2], "folds": 2, "grids": grids}))
    with pytest.raises(MrsslError, match="2 labelled subjects: tune, fold 0 leaves 1 subjects"):
        list(plan.tuning_runs(SUBJECTS[:3]))
    assert {run.seed for run in plan.tuning_runs(SUBJECTS[:4])} == {0, 1}
    plan = load_plan(write_plan(tune={"labeled": [1], "folds": 4, "grids": grids}))
    with pytest.raises(MrsslError, match="tune: 4 folds of 3 subjects"):
        list(plan.tuning_runs(SUBJECTS[:3]))


@pytest.mark.parametrize("seed", range(4))
def test_a_seed_adds_subjects_to_those_of_fewer(seed: int) -> None:
    one, two, all_ = (choose_subjects(SUBJECTS, n, seed)[0] for n in ("1", "2", "all"))
    assert set(one) < set(two) < set(all_) == set(SUBJECTS)
    assert choose_subjects(SUBJECTS, "2", seed) == choose_subjects(SUBJECTS, "2", seed)
    assert len(choose_subjects(SUBJECTS, "10", seed, validation=5)[1]) == 2
    with pytest.raises(MrsslError, match="13 labelled subjects: the training split has 12"):
        choose_subjects(SUBJECTS, "13", seed)


def test_a_test_subject_that_training_sees_is_refused(
    write_plan: Callable[..., Path], phantom: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "leak" / "phantom"
    shutil.copytree(phantom.parent, folder)
    plan = load_plan(write_plan(train_split="fold0_train", test_split="fold1_test"))
    splits = json.loads((folder / "split.json").read_text())
    train, test = splits["train"], splits["test"]

    def subjects(test: list[str]) -> list[str]:
        # Folds may overlap: what reads splits lets these through.
        folds = {"fold0_train": train, "fold1_test": test}
        (folder / "split.json").write_text(json.dumps(folds))
        return plan.subjects(folder.parent)

    assert subjects(test) == sorted(train)
    with pytest.raises(MrsslError, match=f"fold1_test: subject '{train[0]}' is in the training"):
        subjects([*test, train[0]])


def test_a_fingerprint_covers_what_figures_depend_on(plan: Plan) -> None:
    run = next(run for run in plan.finetuning_runs(SUBJECTS) if run.id == "mrssl/n2/seed1")
    prints = {run.fingerprint("a"), run.fingerprint("b")}
    changes: list[dict[str, Any]] = [
        {"recipe": run.recipe | {"SOLVER.BASE_LR": 0.5}},
        {"recipe": replace(run.recipe, config="configs/finetune/mask_R_50_FPN.yaml")},
        {"train": "other"}, {"validation": "other"}, {"test": "other"}, {"seed": 7},
    ]  # fmt: skip
    prints |= {replace(run, **change).fingerprint("a") for change in changes}
    prints.add(run.fingerprint("a", "detectron2"))
    assert len(prints) == 3 + len(changes)
    assert replace(run, id="renamed").fingerprint("a") == run.fingerprint("a")


def test_rows_from_before_the_engine_counted_are_still_done(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("MODEL: {MASK_ON: true}\n")
    recipe = Recipe(str(config), {"SOLVER.MAX_ITER": 4})
    run = Run("a", "finetune", "a", recipe, train="t", test="e", seed=1)
    assert run.fingerprint("w") == "c9891716e37f5178"  # golden: of the code of then


def test_how_often_a_run_is_saved_is_no_part_of_a_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for number, more in enumerate(("", ", CHECKPOINT_PERIOD: 500", ", CHECKPOINT_PERIOD: 7")):
        config = tmp_path / f"{number}.yaml"
        config.write_text(f"SOLVER: {{MAX_ITER: 4{more}}}\n")
        run = Run("a", "finetune", "a", Recipe(str(config)), train="t", test="e")
        prints.add(run.fingerprint("w"))
    assert len(prints) == 1


def test_schedules_override_what_all_arms_share_and_arms_override_both(
    write_plan: Callable[..., Path],
) -> None:
    arms = {"scratch": {}, "short": {"opts": {"SOLVER.MAX_ITER": 2}}}
    shared = {
        "config": "configs/quick_schedules/finetune_R_18_FPN.yaml",
        "opts": {"SOLVER.MAX_ITER": 9, "SOLVER.BASE_LR": 0.5},
    }
    plan = load_plan(write_plan(arms=arms, finetune=shared, tune={}))
    runs = list(plan.finetuning_runs(SUBJECTS))
    assert {(run.arm, run.recipe.value("SOLVER.MAX_ITER")) for run in runs} == {
        ("scratch", 4), ("short", 2),
    }  # fmt: skip
    assert {run.recipe.value("SOLVER.BASE_LR") for run in runs} == {0.5}
    run = runs[0]
    assert run.recipe.value("MODEL.RESNETS.DEPTH") == 18
    with pytest.raises(MrsslError, match=r"sets no MODEL\.NOTHING"):
        run.recipe.value("MODEL.NOTHING")


def test_one_pretraining_a_seed_where_it_is_asked_for(write_plan: Callable[..., Path]) -> None:
    plan = load_plan(write_plan(pretrain_per_seed=True))
    made = {run.id: run.seed for run in plan.pretraining_runs()}
    assert made["pretrain/mrssl/seed2"] == 2 and len(made) == 2 * 3
    needs = {run.id: run.needs for run in plan.finetuning_runs(SUBJECTS)}
    assert needs["mrssl/n2/seed2"] == "pretrain/mrssl/seed2"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labelled": [1]}, "unknown key 'labelled'"),
        ({"labeled": ["some"]}, "labeled: .'some'. is not what is meant"),
        ({"seeds": "three"}, "seeds: 'three' is not"),
        ({"seeds": 0}, "seeds: 0 is not what is meant"),
        ({"arms": {"a": {"seeds": 4}}}, r"plan\.yaml: arms: a: seeds: 4, but the plan has 3"),
        ({"arms": {"a": {"seeds": -1}}}, "arms: a: seeds: -1 is not what is meant"),
        ({"engine": "auto"}, "engine: 'auto' is not what is meant"),
        ({"finetune": {"config": "configs/none.yaml"}}, "is no file of the repository"),
        ({"arms": {"a": {"weight": "mrssl"}}}, "arms: a: unknown key 'weight'"),
        ({"arms": {"../../a": {}}}, r"arms: '../../a': letters, digits and"),
        ({"arms": {".": {}}}, r"arms: '.': letters, digits and"),
        ({"pretrainings": {"a/b": {}}}, r"pretrainings: 'a/b': letters, digits and"),
        ({"tune": {"grids": {"nobody": {}}}}, "tune.grids.nobody is no arm"),
        ({"baselines": {"nobody": "all"}}, "baselines: nobody is no arm"),
        ({"baselines": {"scratch": ["nobody"]}}, "baselines: nobody is no arm"),
        ({"baselines": {"scratch": "mrssl"}}, "baselines: .* is not what is meant"),
        ({"baselines": {"scratch": []}}, "baselines: .* is not what is meant"),  # not all of them
        ({"pretrainings": []}, "must map keys to values"),
        ({"pretrain": {}}, "pretrainings: mrssl: 'config' '' is no file"),
        ({"pretrain": {"config": "none.yaml"}}, "pretrain: 'config' 'none.yaml' is no file"),
        ({"tune": {"folds": 1}}, "tune: folds: 1 is not what is meant"),
        ({"tune": {"folds": True}}, "tune: folds: True is not what is meant"),
        ({"tune": {"folds": "two"}}, "tune: folds: 'two' is not what is meant"),
    ],
)
def test_a_faulty_plan_is_named(
    write_plan: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(MrsslError, match=message):
        load_plan(write_plan(**changes))


def test_pretrainings_of_their_own_files_need_no_common_one(
    write_plan: Callable[..., Path],
) -> None:
    file = f"{QUICK}/pretrain_R_18_FPN.yaml"
    own = {"mrssl": {"config": file}, "blind": {"config": file}}
    plan = load_plan(write_plan(pretrain={"opts": {"SOLVER.MAX_ITER": 3}}, pretrainings=own))
    for run in plan.pretraining_runs():
        assert run.recipe == Recipe(file, {"SOLVER.MAX_ITER": 3})


def test_a_plan_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MrsslError, match=r"nothing\.yaml"):
        load_plan(tmp_path / "nothing.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(MrsslError, match="must map keys to values"):
        load_plan(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "benchmarks").rglob("*.yaml")), ids=lambda p: p.stem
)
def test_plans_of_the_repository_are_sound(path: Path) -> None:
    plan = load_plan(path)
    subjects = [f"s{i:03d}" for i in range(140)]
    runs: list[Run] = [*plan.finetuning_runs(subjects), *plan.tuning_runs(subjects)]
    recipes = {repr(r.recipe): r.recipe for r in [*runs, *plan.pretraining_runs()]}
    assert "scratch" in plan.arms
    for recipe in recipes.values():
        opts = [
            text
            for key, value in recipe.opts.items()
            for text in (key, repr(tuple(value)) if isinstance(value, list) else str(value))
        ]
        load_cfg(ROOT / recipe.config, opts)
