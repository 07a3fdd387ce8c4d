"""Options of the tools stand before, between or after the overrides."""

from __future__ import annotations

import pytest

from train_net import parse_args


@pytest.mark.parametrize(
    "argv",
    [
        ["--resume", "SEED", "-1", "OUTPUT_DIR", "out"],
        ["SEED", "-1", "OUTPUT_DIR", "out", "--resume"],
        ["SEED", "-1", "--resume", "OUTPUT_DIR", "out"],
    ],
)
def test_options_stand_anywhere(argv: list[str]) -> None:
    args = parse_args(["--config-file", "some.yaml", *argv])
    assert args.resume and args.opts == ["SEED", "-1", "OUTPUT_DIR", "out"]


def test_an_unknown_option_is_no_override(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_args(["--config-file", "some.yaml", "SEED", "1", "--resumee", "2"])
    assert caught.value.code == 2
    assert "--resumee" in capsys.readouterr().err
