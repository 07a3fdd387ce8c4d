"""The restoration branch: what was lost in a region, as a residual on the distorted pixels.

Shape letters: R ROIs, S the crops' side, D ``conv_dim`` of the region encoder.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mrssl.modeling.layers import ConvNormReLU, depth_to_space, graph_zero, upsample2


class RestorationHead(nn.Module):
    """Predict clean minus distorted pixels of each ROI: the decoder of a U-Net over the ROI.

    Its encoder is :class:`~mrssl.modeling.region_encoder.RegionEncoder`. The last layer starts at
    zero, so that restoration starts as the identity and can only improve.

    Args:
        conv_dim: D.
        norm: "", "BN" or "GN".
    """

    def __init__(self, *, conv_dim: int = 32, norm: str = "BN") -> None:
        super().__init__()
        self.narrow = nn.Conv2d(2 * conv_dim, conv_dim, 1)
        self.up = ConvNormReLU(conv_dim, conv_dim, norm=norm)
        self.predictor = nn.Conv2d(conv_dim, 4, 3, padding=1)
        nn.init.zeros_(self.predictor.weight)
        nn.init.zeros_(self.predictor.bias)  # type: ignore[arg-type]

    def forward(self, half: Tensor, quarter: Tensor) -> Tensor:
        """Residuals in units of the [0, 1] intensity range.

        Args:
            half: float (R, D, S/2, S/2), the encoder's view of the pixels.
            quarter: float (R, 2 D, S/4, S/4), its view of everything.

        Returns:
            float (R, S, S).
        """
        x = self.up(upsample2(self.narrow(quarter)) + half)
        return depth_to_space(self.predictor(x))[:, 0]


def ssim_map(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    """Structural similarity of two images in [0, 1], pixel by pixel.

    Wang et al., IEEE TIP 13(4), 2004, eq. 13, over a uniform window and with the constants
    K1 = 0.01, K2 = 0.03, dynamic range 1; windows are cut off at the border.

    Args:
        a: float (R, S, S).
        b: float (R, S, S).
        window: side of the window, odd.

    Returns:
        float (R, S, S) in [-1, 1].
    """
    a, b = a.float(), b.float()
    # Apart, so that what no gradient is asked of (the clean pixels) has no backward pass.
    mean_a, square_a, product = _window_means(torch.stack([a, a * a, a * b]), window)
    mean_b, square_b = _window_means(torch.stack([b, b * b]), window)
    var_a = (square_a - mean_a * mean_a).clamp(min=0)
    var_b = (square_b - mean_b * mean_b).clamp(min=0)
    covariance = product - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * (2 * covariance + c2) / (var_a + var_b + c2)


def _window_means(images: Tensor, window: int) -> Tensor:
    """Means over the windows about each pixel, cut off at the border; float32 (..., H, W).

    As ``F.avg_pool2d`` gives them. Rows and columns one after the other, as products with matrices
    of bands: a quarter of its time on a CPU.
    """

    def bands(side: int) -> Tensor:
        near = torch.ones(side, side, device=images.device).triu(-(window // 2)).tril(window // 2)
        return near / near.sum(1, keepdim=True)

    # Variances, differences of these means, would not survive half precision.
    with torch.autocast(images.device.type, enabled=False):
        return bands(images.shape[-2]) @ (images @ bands(images.shape[-1]).T)


def restoration_loss(
    residual: Tensor,
    distorted: Tensor,
    clean: Tensor,
    mask: Tensor,
    *,
    l1_weight: float = 0.5,
    l2_weight: float = 0.5,
    ssim_weight: float = 0.25,
    outside_weight: float = 0.1,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    """How far the restored pixels are from the clean ones, relative to the distorted ones.

    Per ROI, with ``e = distorted + residual - clean``, ``d = distorted - clean`` and means
    weighted by ``mask`` and, for ``e`` outside it, by ``outside_weight`` (so that unchanged pixels
    stay unchanged)::

        l1_weight * mean|e| / mean|d| + l2_weight * rms(e) / rms(d) + ssim_weight * (1 - SSIM)

    The ratios are 1 where nothing is restored and 0 where everything is, for faint distortions as
    for strong ones; the gain in PSNR is -20 log10 of the second. The denominators have a floor of
    0.01, below which a change is not worth restoring. Of ``|e|`` errors below 1e-5 count less.

    Args:
        residual: float (R, S, S) in [-1, 1], the prediction.
        distorted: float (R, S, S) in [0, 1].
        clean: float (R, S, S) in [0, 1].
        mask: float (R, S, S) in [0, 1]; 1 where the pixels were changed.
        l1_weight: of the relative absolute error.
        l2_weight: of the relative root mean square error.
        ssim_weight: of the structural dissimilarity.
        outside_weight: of the pixels outside the mask.
        normalizer: what the sum over ROIs is divided by, R if None; the mean number of ROIs per
            process in distributed training.

    Returns:
        A scalar; zero, but tied to the graph, where R is 0.
    """
    if len(residual) == 0:
        return graph_zero(residual)
    restored = distorted + residual.float()
    error, before = restored - clean, distorted - clean
    weight = mask + outside_weight * (1.0 - mask)
    area = mask.sum((1, 2)).clamp(min=1.0)

    def mean(value: Tensor, weight: Tensor) -> Tensor:
        return (value * weight).sum((1, 2)) / area

    # The pull of |e| jumps at 0, where rounding decides its sign: it fades over the last 1e-5.
    absolute = error.abs() * (error.detach().abs() / 1e-5).clamp(max=1.0)
    per_roi = l1_weight * mean(absolute, weight) / mean(before.abs(), mask).clamp(min=0.01)
    if l2_weight:
        # The small constant keeps the root's gradient finite at a perfect restoration.
        rms = (mean(error.square(), weight) + 1e-8).sqrt()
        per_roi = per_roi + l2_weight * rms / mean(before.square(), mask).sqrt().clamp(min=0.01)
    if ssim_weight:
        dissimilarity = (1.0 - ssim_map(restored, clean)) * weight
        per_roi = per_roi + ssim_weight * dissimilarity.sum((1, 2)) / weight.sum((1, 2))
    return per_roi.sum() / (len(residual) if normalizer is None else normalizer)
