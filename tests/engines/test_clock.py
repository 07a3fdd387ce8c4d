from __future__ import annotations

import time

import pytest

from mrssl.engines.clock import StepClock


def test_shares_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = StepClock()
    for _ in range(2):
        with clock.waiting():
            now[0] += 1
        with clock.working(4):
            now[0] += 3
        now[0] += 1  # something else
    found = clock.figures()
    assert found["images_per_second"] == pytest.approx(0.8)
    assert found["data_share"] == pytest.approx(0.2)
    assert found["overhead_share"] == pytest.approx(0.2)
    now[0] += 1000  # an evaluation
    clock.reset()
    with clock.working(4):
        now[0] += 2
    assert clock.figures()["images_per_second"] == pytest.approx(2)
