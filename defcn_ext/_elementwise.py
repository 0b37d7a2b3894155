"""Elementwise functions whose results depend on the inputs alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LANES = 64  # entries; a multiple of what torch's vector loops take at a time
BLOCK = 1 << 14  # entries; a multiple of LANES, and few enough for torch to give them to one thread


def alike(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """`function(*inputs)`, elementwise, with equal results for equal inputs wherever these stand in the tensors.

    On a CPU, torch computes the body of a contiguous tensor with vector instructions, and its tail, and tensors that
    are not contiguous, one by one with the C library, which rounds powers, sigmoids and logarithms otherwise. Here all
    entries go through the body: as one contiguous tensor without a tail. Sums, products, quotients and roots are
    rounded correctly on either way and need no such care.

    Args:
        function: of tensors of one shape, made of elementwise operations.
        inputs: tensors that broadcast.

    Example:
        >>> x = torch.full((7,), 0.3)
        >>> alike(torch.sigmoid, x).unique().numel()
        1
    """
    if inputs[0].device.type != "cpu":
        return function(*inputs)
    shape = inputs[0].shape
    if any(x.shape != shape for x in inputs[1:]):
        shape = torch.broadcast_shapes(*(x.shape for x in inputs))
    count = shape.numel()
    columns = [_body(x if x.shape == shape else x.expand(shape), -count % LANES) for x in inputs]
    if count <= BLOCK:
        return function(*columns)[:count].view(shape)
    blocks = zip(*(x.split(BLOCK) for x in columns))
    return torch.cat([function(*block) for block in blocks])[:count].view(shape)


def _body(x: Tensor, lacking: int) -> Tensor:
    """The entries in a row, and ones behind them up to a multiple of LANES."""
    row = x if x.dim() == 1 else x.reshape(-1)
    return torch.cat([row, row.new_ones(lacking)]) if lacking else row.contiguous()


def power(base: Tensor, exponent: float) -> Tensor:
    """`base ** exponent`; see `alike`."""
    return alike(lambda x: x**exponent, base)
