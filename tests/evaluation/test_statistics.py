from __future__ import annotations

import math

import numpy as np
import pytest

from mrssl.evaluation.statistics import Interval, paired_interval, t_interval


def test_the_interval_of_five_values_by_hand() -> None:
    # 1, 2, 3, 4, 5: mean 3, s^2 = 2.5, s / sqrt(5) = sqrt(1 / 2), t(4, .975) = 2.776445 (tables).
    found = t_interval([1, 2, 3, 4, 5])
    half = 2.776445 * math.sqrt(0.5)
    assert (found.mean, found.count) == (3.0, 5)
    assert (found.low, found.high) == pytest.approx((3 - half, 3 + half), abs=1e-6)


def test_it_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    intervals = [t_interval(rng.normal(1.0, 2.0, 4), level=0.8) for _ in range(2000)]
    assert np.mean([i.low < 1.0 < i.high for i in intervals]) == pytest.approx(0.8, abs=0.03)


def test_what_cannot_be_known_is_nan() -> None:
    assert t_interval([]).count == 0
    assert t_interval([]).format() == "-"
    single = t_interval([0.5, math.nan])
    assert single.mean == 0.5 and single.count == 1 and math.isnan(single.low)
    assert single.format() == "0.500"


def test_pairs_are_by_key_and_unpaired_values_do_not_count() -> None:
    found = paired_interval({0: 0.7, 1: 0.9, 2: 5.0}, {1: 0.6, 0: 0.5, 3: 0.0})
    # 0.2 and 0.3: mean 0.25, s / sqrt(2) = 0.05, t(1, .975) = 12.7062
    assert found.count == 2
    assert (found.mean, found.high - found.low) == pytest.approx((0.25, 2 * 12.7062 * 0.05), 1e-5)


def test_it_is_written_with_its_sign_where_that_matters() -> None:
    assert Interval(0.12, -0.01, 0.25, 5).format(2, sign=True) == "+0.12 [-0.01, +0.25]"
    assert Interval(0.1234, 0.1, 0.15, 5).format() == "0.123 [0.100, 0.150]"
