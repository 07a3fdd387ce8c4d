"""What the embedded engine shows while it trains: how far, how long yet, and every loss."""

from __future__ import annotations

import sys

import pytest

from mrssl.engines.writers import Progress

VALUES = {"total_loss": 1.5, "loss_mask": 0.25, "loss_restoration": 1.25}


def test_a_log_file_gets_a_line_with_eta_and_every_loss(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(10, initial=4, description="pretrain", seconds=3600)
    for _ in range(6):
        progress.update(VALUES)
    progress.close()
    first, last = capsys.readouterr().err.splitlines()  # now and then, and the last for sure
    assert first.startswith("pretrain 5/10 eta 00:")
    assert last.startswith("pretrain 10/10 eta 00:00 ")
    assert last.endswith(" s/it total_loss 1.5 mask 0.25 restoration 1.25")


def test_a_terminal_gets_a_bar_with_them(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress(10, description="pretrain")
    progress.update(VALUES)
    progress.bar.refresh()
    progress.note("told in words")
    progress.close()
    shown = capsys.readouterr().err
    assert "1/10 [00:00<00:" in shown
    assert "total_loss 1.5 mask 0.25 restoration 1.25" in shown
    assert "told in words\n" in shown
