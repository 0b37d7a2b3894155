"""3D Max Filtering: 3D pooling against 2D pooling."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from defcn_ext.benchmarks.scenes import SIZES, seconds
from defcn_ext.layers import max_over_neighbours


def stacked_max_pool3d(features: list[Tensor], tau: int, kernel: int) -> list[Tensor]:
    """3D Max Filtering as the paper writes it: stack the resized levels, pool in 3D, keep one slice of the result."""
    reach, out = tau // 2, []
    for level, feature in enumerate(features):
        existing = [k for k in range(level - reach, level + reach + 1) if 0 <= k < len(features)]
        size = feature.shape[-2:]
        stack = torch.stack([F.interpolate(features[k], size=size, mode="bilinear") for k in existing], dim=2)
        padding = (reach, kernel // 2, kernel // 2)
        pooled = F.max_pool3d(stack, (tau + 1, kernel, kernel), stride=1, padding=padding)
        out.append(pooled[:, :, existing.index(level)])
    return out


def benchmark_max_filtering(repeats: int, channels: int) -> str:
    """The pooling of 3D Max Filtering on the maps of one 800 x 1216 image, without convs, forward and backward.

    Returns:
        a markdown table, with the ratio of the medians.
    """
    features = [torch.randn(1, channels, h, w, requires_grad=True) for h, w in SIZES]

    def run(pool: Callable[[list[Tensor], int, int], list[Tensor]], tau: int, backward: bool) -> None:
        with torch.set_grad_enabled(backward):
            out = pool(features, tau, 3)
        if backward:
            torch.autograd.grad(sum(x.sum() for x in out), features)

    rows = ["| tau | pass | 3D pooling (ms) | 2D pooling (ms) | ratio |", "|---|---|---|---|---|"]
    for tau in (2, 4):
        for backward in (False, True):
            slow = seconds(lambda t=tau, b=backward: run(stacked_max_pool3d, t, b), repeats)
            fast = seconds(lambda t=tau, b=backward: run(max_over_neighbours, t, b), repeats)
            name = "forward and backward" if backward else "forward"
            rows.append(f"| {tau} | {name} | {1e3 * slow:.0f} | {1e3 * fast:.0f} | {slow / fast:.1f}x |")
    return "\n".join(rows)
