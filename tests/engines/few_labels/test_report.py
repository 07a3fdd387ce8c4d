"""Tables and plot from rows whose figures are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import pytest

from few_labels.curves import mean_curve, with_iterations_to_scratch
from few_labels.grid import gain, grid_of, labels_of
from few_labels.plots import plot, plot_curves
from few_labels.report import markdown, zoo_rows
from few_labels.tuning import tuning_markdown

DICE = {
    ("scratch", "1"): [0.4, 0.5, 0.6],
    ("mrssl", "1"): [0.6, 0.7, 0.8],
    ("scratch", "10"): [0.8, 0.8],
    ("mrssl", "10"): [0.95, 0.75, 0.1],  # the last has no partner
}


def row(arm: str, labeled: str, seed: int, dice: float | None, **more: Any) -> dict[str, Any]:
    return {
        "id": f"{arm}/n{labeled}/seed{seed}", "kind": "finetune", "dataset": "toy", "arm": arm,
        "labeled": labeled, "labeled_subjects": 24 if labeled == "all" else int(labeled),
        "seed": seed, "config": "configs/x.yaml", "iterations": 400, "slices_per_iteration": 4,
        "engine": "torchvision", "device": "CPU", "threads": 1, "torch": "2", "code": "0",
        "seconds": 100.0,
        "dice": dice, "dice_foreground": dice, "dice_instances": dice, "dice_slicewise": None,
        "hd95": 5.0, "ap": 0.25, "weights_sha256": "",
        "curve": [],
    } | more  # fmt: skip


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return with_iterations_to_scratch(
        [
            row(arm, labeled, seed, value)
            for (arm, labeled), values in DICE.items()
            for seed, value in enumerate(values)
        ]
    )


def test_means_intervals_and_paired_gains_are_those_by_hand(rows: list[dict[str, Any]]) -> None:
    text = markdown(rows, [])
    # 0.4, 0.5, 0.6: s = 0.1, t(2, .975) = 4.302653, half = 0.24841
    assert "0.500 [0.252, 0.748]" in text
    # all differences are 0.2, of 0.5
    assert "+0.200 [+0.200, +0.200], +40 %" in text
    # 0.15 and -0.05: mean 0.05, half = 12.7062 x 0.1
    assert "+0.050 [-1.221, +1.321], +6 %" in text
    assert gain(grid_of(rows)["mrssl"]["10"], grid_of(rows)["scratch"]["10"]).count == 2


def test_intervals_are_over_test_subjects_too() -> None:
    """One subject of three decides: sure over seeds, and not over subjects."""
    scores = {"scratch": [0.5, 0.5, 0.5], "mrssl": [0.5, 0.5, 0.8]}
    rows = [
        row(arm, "1", seed, sum(values) / 3, dice_per_subject=dict(zip("abc", values, strict=True)))
        for arm, values in scores.items()
        for seed in (0, 1)
    ]
    told = markdown(rows, []).split("## Difference in Dice with scratch")[1]
    assert "+0.100 [+0.100, +0.100], +20 %" in told
    # 0, 0, 0.3: s = 0.173205, t(2, .975) = 4.302653, half = 0.43027
    assert "+0.100 [-0.330, +0.530]" in told
    assert "The same over test subjects" in told
    told = markdown([*rows, row("mrssl", "1", 2, 0.5), row("scratch", "1", 2, 0.5)], [])
    assert "+0.100 [-0.330, +0.530]" in told  # of the seeds that tell of subjects
    few = [row(arm, "1", 0, 0.5) for arm in ("scratch", "mrssl")]  # of an older version
    assert "The same over test subjects" not in markdown(few, [])


def test_differences_are_told_of_the_arms_that_are_compared() -> None:
    rows = with_iterations_to_scratch(
        [row(arm, "1", 0, dice) for arm, dice in (("scratch", 0.4), ("peer", 0.5), ("ours", 0.7))]
    )
    with_scratch, with_peer = markdown(rows, [], {"scratch": (), "peer": ("ours",)}).split(
        "with peer"
    )
    assert "+0.300, +75 %" in with_scratch and "+0.100, +25 %" in with_scratch
    differences = with_peer.split("## Further")[0]
    assert "+0.200, +40 %" in differences and "scratch" not in differences


def test_what_a_cell_averages_is_told() -> None:
    old, new = "a" * 64, "b" * 64
    rows = with_iterations_to_scratch(
        [row("scratch", n, seed, 0.5) for n in ("1", "2") for seed in range(4)]
        + [row("mrssl", "1", seed, 0.6, weights_sha256=old) for seed in (0, 1, 3)]
        + [row("mrssl", "1", 2, 0.6, weights_sha256=new, device="GPU")]
        + [row("mrssl", "2", seed, 0.6, weights_sha256=new, device="GPU") for seed in range(4)]
    )
    made = {"arm": "mrssl", "seed": 0, "config": "x", "iterations": 1, "slices_per_iteration": 4,
            "seconds": 1.0, "device": "GPU", "sha256": new}  # fmt: skip
    text = markdown(rows, [made])
    assert "Means over several weights or devices (see Pretraining): mrssl at n = 1.\n" in text
    assert "(k*): in k of the pairs the two runs are of different devices or versions" in text
    (differences,) = [line for line in text.splitlines() if "+0.100 [" in line]
    assert "+20 % (1*) " in differences and "+20 % (4*) " in differences
    told = text.split("## Pretraining")[1]
    assert "What is not in `pretraining.json` is of another machine, or a file." in told
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in told.splitlines()[-3:]]
    assert cells == [
        ["scratch", "-", "CPU", "0-3", "0-3"],
        ["mrssl", "a" * 12, "CPU", "0-1, 3", ""],
        ["mrssl", "b" * 12, "GPU", "2", "0-3"],
    ]


def test_cells_of_one_start_and_device_need_no_word(rows: list[dict[str, Any]]) -> None:
    text = markdown(rows, [])
    assert "Means over several" not in text and "*)" not in text
    assert "What is not in" not in text


def test_numbers_are_ordered_as_numbers_and_all_comes_last() -> None:
    rows = [row("scratch", n, 0, 0.5) for n in ("all", "10", "2", "1")]
    assert labels_of(rows) == ["1", "2", "10", "all"]


def curve(*dice: float | None) -> dict[str, Any]:
    return {"curve": [[100 * (i + 1), value] for i, value in enumerate(dice)]}


def test_iterations_to_scratch_are_where_the_curve_first_gets_there() -> None:
    found = with_iterations_to_scratch(
        [
            row("scratch", "1", 0, 0.5, **curve(0.1, 0.45, 0.4)),
            row("mrssl", "1", 0, 0.9, **curve(None, 0.4, 0.3)),
            row("mrssl", "1", 1, 0.9, **curve(0.9, 0.9, 0.9)),  # scratch has no seed 1
            row("slow", "1", 0, 0.9, **curve(0.1, 0.2, 0.39)),
            row("scratch", "all", 0, 0.9),
        ]
    )
    assert [r["iterations_to_scratch"] for r in found] == [200, 200, None, None, None]
    text = markdown(found, [])
    assert "200 of 400 (1 of 2)" in text and "never (0 of 1)" in text


def test_curves_are_averaged_over_seeds_and_shown_at_doubled_iterations_and_the_end() -> None:
    rows = with_iterations_to_scratch(
        [
            row("scratch", "1", 0, 0.5, **curve(0.1, 0.2, 0.3, 0.4, 0.5)),
            row("scratch", "1", 1, 0.5, **curve(None, 0.4, 0.5, 0.6, 0.7)),
            row("mrssl", "1", 0, 0.5, **curve(0.7, 0.8)),
            row("scratch", "all", 0, 0.9),
        ]
    )
    found = mean_curve(grid_of(rows)["scratch"]["1"])
    assert found == pytest.approx({100: 0.05, 200: 0.3, 300: 0.4, 400: 0.5, 500: 0.6})
    told = markdown(rows, []).split("## While training")[1].split("## Pretraining")[0]
    table = told.strip().splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert cells[0] == ["arm", "n", "100", "200", "400", "500"]
    assert cells[2:] == [
        ["scratch", "1", "0.050", "0.300", "0.500", "0.600"],
        ["mrssl", "1", "0.700", "0.800", "", ""],
    ]


def test_curves_are_drawn_where_there_are_any(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot_curves([row("scratch", "all", 0, 0.9)], tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    plot_curves([row("scratch", "1", 0, 0.5, **curve(0.1, 0.2))], tmp_path / "curves.png")
    image = cv2.imread(str(tmp_path / "curves.png"))
    assert image is not None and image.std() > 5


def test_an_undefined_figure_is_left_out_and_not_zero() -> None:
    text = markdown(
        with_iterations_to_scratch(
            [
                row("scratch", "1", 0, None),
                row("scratch", "1", 1, 0.5),
                row("scratch", "2", 0, None),
            ]
        ),
        [],
    )
    assert "| scratch | 0.500   | -       |" in text


def test_the_plot_is_a_picture(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot(rows, tmp_path / "plot.png")
    image = cv2.imread(str(tmp_path / "plot.png"))
    assert image is not None and image.std() > 5


def test_arms_at_one_number_of_labels_have_a_panel_of_their_own(
    rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    plot(rows, tmp_path / "lines.png")
    plot([*rows, row("ablation", "2", 0, 0.6)], tmp_path / "both.png")
    lines, both = (cv2.imread(str(tmp_path / name)) for name in ("lines.png", "both.png"))
    assert lines is not None and both is not None
    height, width, _ = lines.shape
    assert both.shape == (height, 2 * width, 3) and both[:, width:].std() > 5


def test_model_zoo_rows_say_how_they_were_made(rows: list[dict[str, Any]]) -> None:
    lines = zoo_rows(rows, "tools/run.py --data DATA").splitlines()
    assert len(lines) == 2 + 4
    assert "| `tools/run.py --data DATA --arms scratch --labeled 1` | `configs/x.yaml`" in lines[2]
    assert "| the same, `--arms mrssl --labeled 1` | the same | CPU" in lines[3]
    for part in (
        "CPU, 1 threads",
        "400 x 4 slices, 100 s",
        "0.700 [0.452, 0.948]",
    ):
        assert part in lines[3]


def test_model_zoo_rows_name_every_device() -> None:
    rows = [row("scratch", "1", seed, 0.5, device=name) for seed, name in enumerate("AB")]
    assert "| A and B, 1 threads" in zoo_rows(rows, "tools/run.py")


def test_the_best_setting_comes_first() -> None:
    rows = [
        row(f"scratch BASE_LR={rate}", "2", fold, dice + fold / 100)
        for rate, dice in ((0.1, 0.2), (0.01, 0.7), (0.001, 0.5))
        for fold in range(3)
    ]
    text = tuning_markdown(rows)
    assert text.index("BASE_LR=0.01 ") < text.index("BASE_LR=0.001") < text.index("BASE_LR=0.1 ")
    assert "## scratch, n = 2" in text


def tuning_table(dice: dict[str, dict[int, float]]) -> tuple[str, list[list[str]]]:
    """What stands before the table of settings, given their Dice by fold, and its cells."""
    text = tuning_markdown(
        [
            row(f"scratch {setting}", "2", fold, value)
            for setting, folds in dice.items()
            for fold, value in folds.items()
        ]
    ).split("## scratch, n = 2")[1]
    told, _, table = text.strip().rpartition("\n\n")
    lines = [line for line in table.splitlines() if not line.startswith("|:")]
    return told, [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_settings_are_ranked_by_the_folds_that_all_have() -> None:
    # Fold 0 is easy, so who was tried there only has the best mean.
    dice = {"RATE=1": {0: 0.8}, "RATE=2": {0: 0.9, 1: 0.5, 2: 0.5}, "RATE=3": {0: 0.7, 1: 0.6}}
    told, (headers, *body) = tuning_table(dice)
    assert told == "Ranked by fold 0, which all settings have."
    assert headers[:2] == ["setting", "Dice, fold 0"] and headers[3] == "Dice, its folds"
    assert [line[:2] for line in body] == [
        ["RATE=2", "0.900"], ["RATE=1", "0.800"], ["RATE=3", "0.700"],
    ]  # fmt: skip
    assert [line[5] for line in body] == ["0-2", "0", "0-1"]
    assert body[0][3].startswith("0.633 [")


def test_settings_without_a_common_fold_are_not_ranked() -> None:
    told, (_, *body) = tuning_table({"RATE=1": {0: 0.3}, "RATE=2": {1: 0.9}})
    assert told == "No fold is of all settings: they are not ranked."
    assert [line[0] for line in body] == ["RATE=1", "RATE=2"]


def test_settings_of_the_same_folds_need_no_word_on_them() -> None:
    told, (headers, *body) = tuning_table({"A=1": {0: 0.3, 2: 0.4}, "A=2": {2: 0.9, 0: 0.8}})
    assert told == "" and headers == ["setting", "Dice", "mask AP", "folds, from 0", "s"]
    assert [(line[0], line[3]) for line in body] == [("A=2", "0, 2"), ("A=1", "0, 2")]
