"""Numbers that a key cannot have are told before a run, in one line."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fvcore.common.config import CfgNode

from mrssl.config import ConfigError, get_cfg, load_cfg
from mrssl.config_values import NUMBERS, Numbers, number_faults, value_of


def leaves(node: CfgNode, prefix: str = "") -> set[str]:
    found = set()
    for key, value in node.items():
        name = f"{prefix}{key}"
        found |= leaves(value, f"{name}.") if isinstance(value, CfgNode) else {name}
    return found


def test_the_defaults_and_every_configuration_fit(repository_root: Path) -> None:
    assert number_faults(get_cfg()) == []
    files = [*(repository_root / "configs").rglob("*.yaml")]
    assert len(files) > 10
    for file in files:
        load_cfg(file)


def test_no_number_of_the_extension_is_forgotten() -> None:
    cfg = get_cfg()

    def numeric(key: str) -> bool:
        value = value_of(cfg, key)
        values = value if isinstance(value, tuple) else (value,)
        return bool(values) and all(type(v) in (int, float) for v in values)

    ours = {key for key in leaves(cfg.MRSSL, "MRSSL.") if numeric(key)}
    assert len(ours) > 40
    assert ours - NUMBERS.keys() == set()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SOLVER.BASE_LR", "0.0"),
        ("SOLVER.MAX_ITER", "-5"),
        ("SOLVER.IMS_PER_BATCH", "0"),
        ("INPUT.MIN_SIZE_TRAIN", "()"),
        ("MRSSL.PRETEXT.SEVERITY", "(0.5,)"),
        ("MRSSL.PRETEXT.SEVERITY", "(0.5, 0.2)"),
        ("MRSSL.PRETEXT.REGIONS", "(3,)"),
        ("MRSSL.DATA.PERCENTILES", "(50, 50)"),
        ("MRSSL.DATA.PERCENTILES", "('a', 'b')"),
        ("MRSSL.AUGMENT.SCALE", "(1.2, 0.8)"),
        ("MRSSL.EVALUATION.SCORE_THRESHOLD", "5.0"),
        ("MRSSL.SOLVER.ACCUMULATE", "0"),
        ("MRSSL.SOLVER.EMA_DECAY", "1.0"),
        ("MRSSL.SOLVER.EMA_DECAY", "-0.1"),
        ("MRSSL.LOG_PERIOD", "0"),
    ],
)
def test_the_line_names_the_key_the_value_and_what_is_needed(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key.replace('.', '[.]')} .*number.* needed$"):
        load_cfg(None, [key, value])


def test_a_list_without_its_comma_is_explained() -> None:
    with pytest.raises(ConfigError, match="a list of one has a comma"):
        load_cfg(None, ["MRSSL.PRETEXT.DISTORTIONS", "'all'"])


def test_bounds() -> None:
    assert Numbers(0, 1).fit(0) and Numbers(0, 1).fit(1.0)
    assert not Numbers(0, 1, above=True).fit(0)
    assert not Numbers(0, 1, below=True).fit(1)
    assert not Numbers().fit(math.nan) and not Numbers().fit(math.inf)
    assert not Numbers().fit(True) and not Numbers().fit("1") and not Numbers().fit((1,))
    assert Numbers(count="pair").fit([2, 2]) and not Numbers(count="rising").fit([2, 2])
    assert not Numbers(count="pair").fit("12")
    assert str(Numbers(0, 1, above=True, count="rising")) == (
        "two numbers, the lesser first, above 0 to 1"
    )
