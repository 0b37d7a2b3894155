"""Focal loss over dense class maps with sparse positives, in log space."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def product_logit(a: Tensor, b: Tensor) -> Tensor:
    """The logit of `sigma(a) sigma(b)`, without ever forming the product.

    `logit(sigma(a) sigma(b)) = -log(e^-a + e^-b + e^-(a+b))`; finite, with the right gradient, where the product itself
    has long rounded to 0 or 1.

    Args:
        a, b: logits of any shapes that broadcast.
    """
    return _ProductLogit.apply(a, b)


class _ProductLogit(torch.autograd.Function):
    """`product_logit` with its closed-form gradient, in half the passes over the map that autograd takes."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        z = torch.logaddexp(-a, F.softplus(-a) - b).neg_()
        ctx.save_for_backward(a, b, z)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        a, b, z = ctx.saved_tensors

        def pulled(x: Tensor) -> Tensor:
            # e^-x (D + 1) / (D (1 + e^-x)), where D = e^-z; z <= x, so that nothing overflows
            slope = torch.addcmul((-x).sigmoid(), (z - x).exp_(), x.sigmoid())
            return slope.mul_(grad).sum_to_size(x.shape)

        return tuple(pulled(x) if needed else None for x, needed in zip((a, b), ctx.needs_input_grad))


class _BackgroundFocalSum(torch.autograd.Function):
    """Sum of `sigma(z)^gamma softplus(z)`; its gradient is computed with it, and is the one tensor that is kept."""

    @staticmethod
    def forward(ctx, z: Tensor, gamma: float) -> Tensor:
        p, cost = z.sigmoid(), F.softplus(z)
        modulation = p.pow(gamma)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(torch.addcmul(p, 1 - p, cost, value=gamma).mul_(modulation))
        return modulation.mul_(cost).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (slope,) = ctx.saved_tensors
        return slope * grad, None


def background_focal_sum(logits: Tensor, gamma: float = 2.0) -> Tensor:
    """Sum of `s^gamma (-log(1 - s))` over all entries of float32 logits, without a factor."""
    return _BackgroundFocalSum.apply(logits, gamma)


def without_rows(logits: Tensor, ignored: Tensor | None) -> Tensor:
    """The logits in float32; minus infinity, which has no loss and no gradient, in ignored rows."""
    logits = logits.float()
    return logits if ignored is None else logits.index_fill(0, ignored, -math.inf)


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
    logits = without_rows(logits, ignored)
    background = background_focal_sum(logits, gamma)
    z = logits[rows, classes]
    p = z.sigmoid()
    as_positive = (1 - p) ** gamma * F.softplus(-z)
    as_background = p**gamma * F.softplus(z)
    return (1 - alpha) * background + (alpha * as_positive - (1 - alpha) * as_background).sum()
