"""The benchmark's keys and figures; how high they are is not a matter for a test."""

from __future__ import annotations

import json

import cv2
import pytest

from benchmark_distortions import MONAI, PEERS, TORCHIO, benchmark_distortions
from benchmark_memory import worker_memory
from mrssl.config import load_cfg
from mrssl.distortions import registered_names


def test_keys_and_figures_without_peers():
    threads = cv2.getNumThreads()
    result = benchmark_distortions(channels=3, seconds=0.2, seconds_per_type=0.0, peers=False)
    json.dumps(result)
    assert cv2.getNumThreads() == threads
    assert list(result["types"]) == registered_names()
    assert all(0 < microseconds < 1e5 for microseconds in result["types"].values())
    assert result["slices_per_second"] > 10 and result["channels"] == 3
    assert 3.5 < result["regions_per_slice"] <= 4
    assert result["ratio_monai"] is None and result["ratio_torchio"] is None


def test_peers_are_compared_with_types_there_are():
    assert set(MONAI) | set(TORCHIO) <= set(registered_names())


def test_a_worker_stays_small_and_does_not_grow(repository_root):
    cfg = load_cfg(repository_root / "configs/pretrain/distortion_all_R_18_FPN_small.yaml")
    memory = worker_memory(cfg, size=128, samples=600)
    if memory is None:
        pytest.skip("this system does not tell a process's memory")
    assert memory["samples"] == 600
    assert 5 < memory["private_mib"] < 300
    assert memory["growth_mib"] < 10  # 40 samples of this size


@pytest.mark.parametrize("peer", sorted(PEERS))
def test_peers_run_where_they_are_installed(peer):
    pytest.importorskip(peer)
    import numpy as np

    make, transforms = PEERS[peer]
    patch = np.random.default_rng(0).random((1, 40, 52), dtype=np.float32)
    for name, (transform, options) in transforms.items():
        out = np.asarray(make(transform, options)(patch)).reshape(1, 40, 52)
        assert np.isfinite(out).all(), name
