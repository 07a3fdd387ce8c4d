"""The rows that lie in the repository are those of the plans beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

import benchmark_few_labels

FOLDER = Path(__file__).parents[3] / "benchmarks/few_labels"
PLANS = [file for file in sorted(FOLDER.glob("*.yaml")) if (FOLDER / file.stem).is_dir()]


@pytest.mark.parametrize("plan", PLANS, ids=lambda file: file.stem)
def test_committed_rows_are_of_their_plan(
    plan: Path, shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Or the tool says which is not, and prints none."""
    rows = FOLDER / plan.stem
    benchmark_few_labels.main(
        [
            "--config-file",
            str(plan),
            "--data",
            str(shared_data),
            "--output",
            str(rows),
            "--model-zoo",
        ]
    )
    printed = capsys.readouterr().out
    assert ("| `tools/benchmark_few_labels.py" in printed) == (rows / "results.json").exists()


def test_there_are_some() -> None:
    assert "spine" in [plan.stem for plan in PLANS]
