"""A learnable factor."""

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """Multiplies its input by one learned number, `scale` of shape (1,).

    >>> Scale(2.0)(torch.ones(2)).tolist()
    [2.0, 2.0]
    """

    def __init__(self, init: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
