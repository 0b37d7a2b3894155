"""Pyramid shuffle: neighbouring levels exchange channels (DDQ, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PyramidShuffle(nn.Module):
    """Every level gives some channels to the next finer level, as many to the next coarser one, and takes theirs.

    Of C channels the first `C - 2 n` stay. Then stand the last n of the coarser level, then the n before these of the
    finer level, resized bilinearly with aligned corners. At either end of the pyramid, a level takes from itself. So
    convs behind it compare neighbouring levels, of which one has to give up an object. No parameters.

    >>> fine, coarse = torch.zeros(1, 8, 4, 4), torch.ones(1, 8, 2, 2)
    >>> [x[0, :, 0, 0].tolist() for x in PyramidShuffle(2)([fine, coarse])]
    [[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]]

    Args:
        channels: n; 64 of 256 in the release.

    Raises:
        ValueError: the number is below 1.
    """

    def __init__(self, channels: int):
        super().__init__()
        if channels < 1:
            raise ValueError(f"PyramidShuffle: channels must be at least 1, got {channels}")
        self.channels = channels

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """
        Args:
            features: (N, C, H_l, W_l) of each level, finest first.

        Returns:
            Tensors of the same shapes.

        Raises:
            ValueError: fewer than 2 n channels.
        """
        total, n = features[0].shape[1], self.channels
        if total < 2 * n:
            raise ValueError(f"PyramidShuffle: {n} channels up and {n} down are more than the {total} there are")
        last = len(features) - 1
        out = []
        for level, x in enumerate(features):
            coarser, finer = features[min(level + 1, last)], features[max(level - 1, 0)]
            taken = [coarser[:, total - n :], finer[:, total - 2 * n : total - n]]
            out.append(torch.cat([x[:, : total - 2 * n], *(_resized(y, x) for y in taken)], dim=1))
        return out


def _resized(x: Tensor, like: Tensor) -> Tensor:
    size = like.shape[-2:]
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=True)
