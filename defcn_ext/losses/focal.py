"""Focal loss over dense class maps with sparse positives, in log space."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def product_logit(a: Tensor, b: Tensor) -> Tensor:
    """The logit of `sigma(a) sigma(b)`, without ever forming the product.

    `logit(sigma(a) sigma(b)) = -log(e^-a + e^-b + e^-(a+b))`; finite, with the right gradient, where the product itself
    has long rounded to 0 or 1.

    Args:
        a, b: logits of any shapes that broadcast.
    """
    return -torch.logaddexp(-a, F.softplus(-a) - b)


class _BackgroundFocalSum(torch.autograd.Function):
    """Sum of `sigma(z)^gamma softplus(z)` with its closed-form gradient: keeps one tensor instead of six."""

    @staticmethod
    def forward(ctx, z: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(z)
        ctx.gamma = gamma
        return (z.sigmoid().pow_(gamma) * F.softplus(z)).sum()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (z,) = ctx.saved_tensors
        p = z.sigmoid()
        slope = ctx.gamma * (1 - p) * F.softplus(z) + p
        return slope.mul_(p.pow_(ctx.gamma)).mul_(grad), None


def background_focal_sum(logits: Tensor, gamma: float = 2.0) -> Tensor:
    """Sum of `s^gamma (-log(1 - s))` over all entries of float32 logits, without a factor."""
    return _BackgroundFocalSum.apply(logits, gamma)


def focal_loss_sum(
    logits: Tensor,
    rows: Tensor,
    classes: Tensor,
    *,
    ignored: Tensor | None = None,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> Tensor:
    """Sum of the sigmoid focal loss over all entries of a map whose targets are 1 at a few places and 0 elsewhere.

    `FL(p, y) = -y alpha (1-p)^gamma log p - (1-y) (1-alpha) p^gamma log(1-p)` (Lin et al. 2017, Eq. 5), computed from
    logits in float32. No one-hot target is built.

    Args:
        logits: (M, K) logits; M points of all images.
        rows, classes: (P,) where the target is 1. A place may not be named twice.
        ignored: (I,) rows that add nothing to the loss, none of them in `rows`.
        alpha, gamma: weight of the positives; focusing exponent.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes disagree.
    """
    if logits.dim() != 2 or rows.shape != classes.shape or rows.dim() != 1:
        raise ValueError(
            f"focal_loss_sum wants logits (M, K) and rows, classes (P,); got {tuple(logits.shape)}, "
            f"{tuple(rows.shape)}, {tuple(classes.shape)}"
        )
    logits = logits.float()
    # a logit of minus infinity has no loss and no gradient
    counted = logits if ignored is None else logits.index_fill(0, ignored, -math.inf)
    background = background_focal_sum(counted, gamma)
    z = logits[rows, classes]
    p = z.sigmoid()
    as_positive = (1 - p) ** gamma * F.softplus(-z)
    as_background = p**gamma * F.softplus(z)
    return (1 - alpha) * background + (alpha * as_positive - (1 - alpha) * as_background).sum()
