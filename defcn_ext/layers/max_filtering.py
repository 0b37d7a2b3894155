"""3D Max Filtering (DeFCN, section 3.2.2): a feature learns whether it is the largest around it, across scales."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norm import build_norm


def max_over_neighbours(features: Sequence[Tensor], tau: int, kernel: int) -> list[Tensor]:
    """The largest value in a window over space and neighbouring levels, for every channel and location.

    Equal to 3D max pooling over the stack of resized levels, of which only the slice of the current level is kept:
    an elementwise max over the levels, then one 2D max filter.

    >>> fine, coarse = torch.tensor([[[[1.0, 0, 0, 0]]]]), torch.tensor([[[[0.0, 5.0]]]])
    >>> [x.flatten().tolist() for x in max_over_neighbours([fine, coarse], tau=2, kernel=1)]
    [[1.0, 1.25, 3.75, 5.0], [0.5, 5.0]]

    Args:
        features: (N, C, H_l, W_l) of each level, finest first.
        tau: number of neighbouring levels taken in, half of them on each side; even.
        kernel: side of the window, in cells of the current level; odd.

    Returns:
        Tensors of the shapes of `features` (DeFCN Eq. 6-7).
    """
    reach = tau // 2
    out = []
    for level, feature in enumerate(features):
        highest = feature
        for neighbour in range(max(0, level - reach), min(len(features), level + reach + 1)):
            if neighbour != level:
                resized = F.interpolate(
                    features[neighbour], size=feature.shape[-2:], mode="bilinear", align_corners=False
                )
                highest = torch.maximum(highest, resized)
        out.append(F.max_pool2d(highest, kernel, stride=1, padding=kernel // 2) if kernel > 1 else highest)
    return out


class MaxFiltering(nn.Module):
    """`ReLU(GN(max(conv(x)) + x))` over a pyramid; conv and norm are shared by the levels.

    >>> levels = [torch.rand(1, 32, 8, 8), torch.rand(1, 32, 4, 4)]
    >>> [tuple(x.shape) for x in MaxFiltering(32, tau=2, kernel=3)(levels)]
    [(1, 32, 8, 8), (1, 32, 4, 4)]

    Parameter names are those of the released module (`conv`, `norm`), so that its weights carry over.

    Args:
        channels: C, of input and output.
        tau: number of neighbouring levels taken in; even, 0 keeps the levels apart.
        kernel: side of the spatial window; odd, 1 keeps the positions apart.
        norm: a name that `detectron2.layers.get_norm` knows; "" for none.

    Raises:
        ValueError: `tau` is odd or negative, `kernel` even or below 1, or `norm` unknown.
    """

    def __init__(self, channels: int, tau: int = 2, kernel: int = 3, norm: str = "GN"):
        super().__init__()
        if tau < 0 or tau % 2:
            raise ValueError(f"MaxFiltering: tau must be even and not negative (levels on both sides), got {tau}")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"MaxFiltering: kernel must be odd and positive, got {kernel}")
        self.tau, self.kernel = tau, kernel
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = build_norm(norm, channels, "MaxFiltering: norm")
        nn.init.normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """
        Args:
            features: (N, C, H_l, W_l) of each level, finest first.

        Returns:
            Tensors of the same shapes.
        """
        filtered = max_over_neighbours([self.conv(x) for x in features], self.tau, self.kernel)
        summed = [y + x for y, x in zip(filtered, features)]
        if self.norm is not None:
            summed = [self.norm(u) for u in summed]
        return [F.relu(u) for u in summed]
