from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from torch.nn import functional as F

from mrssl.evaluation.metrics import psnr
from mrssl.evaluation.metrics import ssim_map as gaussian_ssim_map
from mrssl.modeling import RestorationHead, restoration_loss, ssim_map


def build(**options):
    return RestorationHead(**{"conv_dim": 8, "norm": "GN", **options})


def inputs(wave, rois=2):
    return wave(rois, 8, 8, 8), wave(rois, 16, 4, 4, phase=1.0)


def test_it_starts_as_the_identity_and_can_learn(wave):
    head = build()
    residual = head(*inputs(wave))
    assert residual.shape == (2, 16, 16) and not residual.any()
    residual.sum().backward()
    assert head.predictor.weight.grad.any()


def test_every_input_and_parameter_counts(wave, fill):
    head = fill(build())
    tensors = [t.requires_grad_() for t in inputs(wave)]
    # Not the sum: group normalisation would take a constant change of its input out again.
    head(*tensors).square().sum().backward()
    for tensor in tensors:
        assert tensor.grad.any()
    for name, parameter in head.named_parameters():
        assert parameter.grad.any(), name


def test_rois_do_not_see_one_another(wave, fill):
    head = fill(build())
    half, quarter = inputs(wave, rois=3)
    whole = head(half, quarter)
    for i in range(3):
        alone = head(half[i : i + 1], quarter[i : i + 1])
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["", "GN"])
def test_no_rois(wave, norm, assert_zero_in_graph):
    head = build(norm=norm)
    residual = head(*inputs(wave, rois=0))
    nothing = torch.zeros(0, 16, 16)
    assert residual.shape == nothing.shape
    assert_zero_in_graph(restoration_loss(residual, nothing, nothing, nothing), head)


def uniform_ssim(a: np.ndarray, b: np.ndarray, window: int) -> np.ndarray:
    """Wang et al. 2004, eq. 13, in double precision; windows are cut off at the border."""
    kernel = np.ones((window, window))

    def mean(x: np.ndarray) -> np.ndarray:
        inside = correlate(np.ones_like(x), kernel, mode="constant")
        return correlate(x, kernel, mode="constant") / inside

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return (
        (2 * mean_a * mean_b + c1)
        * (2 * covariance + c2)
        / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    )


@pytest.mark.parametrize("window", [3, 7, 11])
def test_ssim_against_double_precision(wave, window):
    a = F.avg_pool2d(wave(2, 24, 26), 3, 1, 1)
    b = (a + 0.2 * (wave(2, 24, 26, phase=1.0) - 0.5)).clamp(0, 1)
    expected = [
        uniform_ssim(x.double().numpy(), y.double().numpy(), window)
        for x, y in zip(a, b, strict=True)
    ]
    assert np.std(expected) > 0.01
    np.testing.assert_allclose(ssim_map(a, b, window), expected, atol=1e-3)


def test_ssim_is_in_float32_under_autocast(wave):
    a, b = wave(2, 20, 20), wave(2, 20, 20, phase=1.0)
    expected = ssim_map(a, b)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ssim_map(a, b), expected)


def test_ssim_agrees_with_the_evaluators_kind():
    """A Gaussian window of 1.5 pixels' deviation, a uniform one of 5: near, but not the same."""
    rows = torch.linspace(0, 6, 48)
    a = (0.5 + 0.3 * torch.sin(rows)[:, None] * torch.cos(rows)[None])[None]
    b = (a + 0.05 * torch.sin(3 * rows)[None, :, None]).clamp(0, 1)
    theirs = gaussian_ssim_map(a[0].numpy(), b[0].numpy())[8:-8, 8:-8]
    ours = ssim_map(a, b, 5)[0, 8:-8, 8:-8].numpy()
    assert np.abs(ours - theirs).max() < 0.1
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.95


def test_ssim_properties(wave):
    a, b = wave(1, 16, 16), wave(1, 16, 16, phase=2.0)
    torch.testing.assert_close(ssim_map(a, b), ssim_map(b, a))
    torch.testing.assert_close(ssim_map(a, a), torch.ones(1, 16, 16), rtol=0, atol=1e-4)
    assert (ssim_map(a, 1 - a) < 0).all()  # anticorrelated
    # Two flat images differ in luminance alone: (2 m n + c1) / (m^2 + n^2 + c1).
    flat = ssim_map(torch.full((1, 9, 9), 0.2), torch.full((1, 9, 9), 0.6))
    expected = (2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4)
    torch.testing.assert_close(flat, torch.full((1, 9, 9), expected), rtol=0, atol=1e-3)


ONLY = {"l1_weight": 0.0, "ssim_weight": 0.0, "l2_weight": 0.0}


def test_a_constant_error_in_closed_form():
    """e = 0.05 of d = 0.1: half the distortion is left, whatever the mask."""
    clean = torch.full((3, 8, 8), 0.4)
    mask = torch.zeros(3, 8, 8)
    mask[:, 2:5, 1:7] = 1.0
    residual, distorted = torch.full((3, 8, 8), -0.05), torch.full((3, 8, 8), 0.5)
    for name in ("l1_weight", "l2_weight"):
        options = {**ONLY, name: 1.0, "outside_weight": 0.0}
        loss = restoration_loss(residual, distorted, clean, mask, **options)
        assert loss.item() == pytest.approx(0.5, rel=1e-4)
    loss = restoration_loss(residual, distorted, clean, mask, **{**ONLY, "ssim_weight": 1.0})
    luminance = (2 * 0.45 * 0.4 + 1e-4) / (0.45**2 + 0.4**2 + 1e-4)
    assert loss.item() == pytest.approx(1 - luminance, abs=2e-4)


def test_the_l2_term_is_the_gain_in_psnr(wave):
    """-20 log10 of it, for a single ROI and within the mask alone."""
    clean, distorted, residual = wave(1, 16, 16), wave(1, 16, 16, phase=1.0), wave(1, 16, 16)
    mask = torch.zeros(1, 16, 16)
    mask[:, 3:12, 2:9] = 1.0
    inside = mask[0].numpy() > 0
    restored = 0.6 * residual + distorted
    gain = psnr(restored[0].numpy(), clean[0].numpy(), inside) - psnr(
        distorted[0].numpy(), clean[0].numpy(), inside
    )
    options = {**ONLY, "l2_weight": 1.0, "outside_weight": 0.0}
    loss = restoration_loss(0.6 * residual, distorted, clean, mask, **options)
    assert -20 * np.log10(loss.item()) == pytest.approx(gain, abs=1e-3)


def test_faint_distortions_count_like_strong_ones():
    """Until they are fainter than the floor of 0.01."""
    clean, mask = torch.zeros(1, 8, 8), torch.ones(1, 8, 8)
    for strength, expected in ((0.5, 0.4), (0.05, 0.4), (0.001, 0.04)):
        distorted = torch.full((1, 8, 8), strength)
        loss = restoration_loss(
            -0.6 * distorted, distorted, clean, mask, **{**ONLY, "l1_weight": 1.0}
        )
        assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_changed_pixels_outside_the_mask_cost_a_share():
    """Sixteen pixels half restored; 48 unchanged ones that the head changes by as much."""
    clean, mask = torch.full((1, 8, 8), 0.4), torch.zeros(1, 8, 8)
    mask[:, :4, :4] = 1.0
    distorted = clean + 0.2 * mask
    residual = torch.full((1, 8, 8), -0.1)
    options = {**ONLY, "l1_weight": 1.0}
    loss = restoration_loss(residual, distorted, clean, mask, **options, outside_weight=0.1)
    assert loss.item() == pytest.approx((16 + 4.8) * 0.1 / 16 / 0.2, rel=1e-5)


def test_a_perfect_restoration_costs_nothing(wave):
    clean, distorted = wave(2, 16, 16), wave(2, 16, 16, phase=1.0)
    residual = (clean - distorted).requires_grad_()
    loss = restoration_loss(residual, distorted, clean, torch.ones(2, 16, 16))
    assert loss.item() == pytest.approx(0.0, abs=1e-3)
    assert torch.isfinite(torch.autograd.grad(loss, residual)[0]).all()


def test_empty_masks_give_a_finite_loss(wave):
    clean, distorted = wave(2, 16, 16), wave(2, 16, 16, phase=1.0)
    nothing = torch.zeros(2, 16, 16)
    assert torch.isfinite(restoration_loss(nothing, distorted, clean, nothing))


def test_the_normalizer_joins_processes(wave):
    """The mean over processes of losses over the mean count is the loss of the whole batch."""
    whole = [wave(5, 16, 16, phase=float(i)) for i in range(4)]
    first, second = [t[:2] for t in whole], [t[2:] for t in whole]
    expected = restoration_loss(*whole)
    joined = (
        restoration_loss(*first, normalizer=2.5)
        + restoration_loss(*second, normalizer=torch.tensor(2.5))
    ) / 2
    torch.testing.assert_close(joined, expected)


def test_pinned_loss(wave, fill):
    head = fill(build())
    residual = 0.01 * head(*inputs(wave))
    loss = restoration_loss(
        residual,
        wave(2, 16, 16, phase=3.0),
        wave(2, 16, 16, phase=4.0),
        wave(2, 16, 16, phase=5.0),
    )
    assert loss.item() == pytest.approx(1.17945, rel=1e-4)


def test_rounding_does_not_decide_which_way_a_restored_pixel_is_pulled():
    """Processes with other batches round otherwise: their gradients must be the same."""
    clean = torch.full((1, 8, 8), 0.5)
    distorted = clean.clone()
    distorted[0, 0] += 0.1
    mask = torch.ones(1, 8, 8)
    pulls = []
    for rounding in (6e-8, -6e-8):
        residual = torch.zeros(1, 8, 8)
        residual[0, 4] = rounding
        residual.requires_grad_()
        restoration_loss(residual, distorted, clean, mask, l2_weight=0, ssim_weight=0).backward()
        pulls.append(residual.grad)
    whole = float(pulls[0][0, 0].abs().min())  # that of a pixel that is wrong
    assert whole > 0.1
    assert float((pulls[0] - pulls[1]).abs().max()) < 0.02 * whole  # and not twice as much
