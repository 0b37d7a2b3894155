"""The map that multiplies the class scores: its layers as released."""

import pytest
import torch
from torch import nn

from defcn_ext.layers.score_map import score_map


@pytest.mark.parametrize(
    "convs, kernel, kinds, shapes",
    [
        (0, 3, [nn.Conv2d], [(1, 96, 3, 3)]),
        (2, 3, [nn.Conv2d, nn.GroupNorm, nn.ReLU] * 2 + [nn.Conv2d], [(64, 96, 3, 3), (64, 64, 3, 3), (1, 64, 3, 3)]),
        (1, 1, [nn.Conv2d, nn.ReLU, nn.Conv2d], [(64, 96, 1, 1), (1, 64, 3, 3)]),  # DDQ
    ],
)
def test_layers(convs, kernel, kinds, shapes):
    built = score_map(96, convs, kernel=kernel)
    layers = list(built) if isinstance(built, nn.Sequential) else [built]
    assert [type(x) for x in layers] == kinds
    assert [tuple(x.weight.shape) for x in layers if isinstance(x, nn.Conv2d)] == shapes
    assert built(torch.rand(1, 96, 3, 5)).shape == (1, 1, 3, 5)
    assert layers[-1].bias.tolist() == [0]


def test_errors_name_the_key():
    with pytest.raises(ValueError, match="QUALITY.CONVS: must not be negative, got -1"):
        score_map(96, -1)
    with pytest.raises(ValueError, match="QUALITY.KERNEL: must be 3 or 1, got 5"):
        score_map(96, 1, kernel=5)
