"""The map that multiplies the class scores of a point."""

from __future__ import annotations

from torch import nn

from .towers import conv3x3

CHANNELS = 64  # of the convs before the last


def score_map(in_channels: int, num_convs: int, channels: int = 1, kernel: int = 3) -> nn.Module:
    """`num_convs` convs of 64 channels with ReLU, then a 3x3 conv that starts from N(0, 0.01) weights.

    >>> len(score_map(256, 3)), len(score_map(256, 1, kernel=1))
    (10, 3)

    Args:
        in_channels: C of the tower.
        num_convs: convs before the last; 0 in DeFCN and DW, 3 in o2f (section 3.4), 1 in DDQ.
        channels: of the map, one for each anchor of a cell.
        kernel: 3 for 3x3 convs with GroupNorm (o2f), 1 for 1x1 convs without (DDQ).

    Raises:
        ValueError: the number is negative, or the kernel neither 3 nor 1.
    """
    if num_convs < 0:
        raise ValueError(f"QUALITY.CONVS: must not be negative, got {num_convs}")
    if kernel not in (1, 3):
        raise ValueError(f"QUALITY.KERNEL: must be 3 or 1, got {kernel}")
    layers: list[nn.Module] = []
    for index in range(num_convs):
        before = in_channels if index == 0 else CHANNELS
        if kernel == 3:
            layers += [conv3x3(before, CHANNELS), nn.GroupNorm(32, CHANNELS), nn.ReLU(inplace=True)]
        else:
            layers += [nn.Conv2d(before, CHANNELS, 1), nn.ReLU(inplace=True)]
    last = conv3x3(CHANNELS if num_convs else in_channels, channels)
    return nn.Sequential(*layers, last) if layers else last
