"""Focal loss over dense class maps with sparse positives, in log space."""

from __future__ import annotations

from typing import Any

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

    Example:
        >>> product_logit(torch.tensor([0.0, -50.0]), torch.tensor([0.0, -50.0]))
        tensor([  -1.0986, -100.0000])
    """
    # A graph that is recorded to be saved can hold no Python function.
    plain = torch.jit.is_tracing() or not torch.is_grad_enabled()  # type: ignore[attr-defined, no-untyped-call]
    z: Tensor = _product_logit(a, b) if plain else _ProductLogit.apply(a, b)
    return z


def root_logit(a: Tensor, b: Tensor) -> Tensor:
    """The logit of `sqrt(sigma(a) sigma(b))` in log space; 87 where float32 cannot tell the root from 1.

    With `l = (log sigma(a) + log sigma(b)) / 2` it is `l - log(1 - e^l)`.

    Args:
        a, b: float32 logits of any shapes that broadcast.

    Example:
        >>> root_logit(torch.tensor([0.0, -50.0]), torch.tensor([0.0, -50.0]))
        tensor([  0., -50.])
    """
    log_root = (F.softplus(-a) + F.softplus(-b)) / -2
    return log_root - torch.expm1(log_root).neg().clamp(min=torch.finfo(torch.float32).tiny).log()


def _product_logit(a: Tensor, b: Tensor) -> Tensor:
    return torch.logaddexp(-a, F.softplus(-a) - b).neg()


class _ProductLogit(torch.autograd.Function):
    """`product_logit` with its closed-form gradient, in half the passes over the map that autograd takes."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        z = _product_logit(a, b)
        ctx.save_for_backward(a, b, z)
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, z = ctx.saved_tensors

        def pulled(x: Tensor) -> Tensor:
            # e^-x (D + 1) / (D (1 + e^-x)), where D = e^-z; z <= x, so that nothing overflows
            slope = torch.addcmul((-x).sigmoid(), (z - x).exp_(), x.sigmoid())
            return slope.mul_(grad).sum_to_size(x.shape)

        return tuple(pulled(x) if needed else None for x, needed in zip((a, b), ctx.needs_input_grad))


class _BackgroundFocalSum(torch.autograd.Function):
    """`background_focal_sum`; its gradient is computed with it, and is the one tensor that is kept."""

    @staticmethod
    def forward(
        ctx: Any, z: Tensor, gamma: float, entries: Tensor, ignored: Tensor | None, constant_importance: bool
    ) -> Tensor:
        p, cost = z.sigmoid(), F.softplus(z)
        importance = p.pow(gamma)
        if ctx.needs_input_grad[0]:
            slope = p.clone() if constant_importance else torch.addcmul(p, 1 - p, cost, value=gamma)
            ctx.save_for_backward(_without(slope.mul_(importance), entries, ignored))
        return _without(importance.mul_(cost), entries, ignored).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * grad, None, None, None, None


def _without(values: Tensor, entries: Tensor, ignored: Tensor | None) -> Tensor:
    """The (M, K) map itself, 0 at some entries (E,) of it, counted row by row, and in ignored rows (I,)."""
    values.view(-1)[entries] = 0
    return values if ignored is None else values.index_fill_(0, ignored, 0)


def background_focal_sum(
    logits: Tensor,
    entries: Tensor,
    *,
    ignored: Tensor | None = None,
    gamma: float = 2.0,
    constant_importance: bool = False,
) -> Tensor:
    """Sum of `s^gamma (-log(1 - s))` over a map, in float32, without a factor.

    What is left out is never added: to take it off again would leave the rounding of a sum that is far larger than
    what remains, above all in the gradient.

    Args:
        logits: (M, K) logits of the scores s.
        entries: (E,) entries `row K + class` to leave out.
        ignored: (I,) rows to leave out, whatever stands in them.
        constant_importance: whether s^gamma is a constant to the gradient.

    Returns:
        A scalar.

    Example:
        >>> background_focal_sum(torch.zeros(2, 3), torch.tensor([0, 1, 2, 3, 4]))  # of the last entry alone
        tensor(0.1733)
    """
    logits = logits.float().contiguous()
    total: Tensor = _BackgroundFocalSum.apply(logits, gamma, entries, ignored, constant_importance)
    return total


def foreground_focal(logits: Tensor, gamma: float = 2.0) -> Tensor:
    """`(1 - s)^gamma (-log s)` of float32 logits, entry by entry; both factors are exact for certain scores too."""
    return (-gamma * F.softplus(logits)).exp() * F.softplus(-logits)


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

    Example:
        >>> nothing, zero = torch.zeros(0, dtype=torch.long), torch.tensor([0])
        >>> focal_loss_sum(torch.zeros(1, 1), zero, zero), focal_loss_sum(torch.zeros(1, 1), nothing, nothing)
        (tensor(0.0433), tensor(0.1300))
    """
    if logits.dim() != 2 or rows.shape != classes.shape or rows.dim() != 1:
        raise ValueError(
            f"focal_loss_sum wants logits (M, K) and rows, classes (P,); got {tuple(logits.shape)}, "
            f"{tuple(rows.shape)}, {tuple(classes.shape)}"
        )
    background = background_focal_sum(logits, rows * logits.shape[1] + classes, ignored=ignored, gamma=gamma)
    positives = foreground_focal(logits[rows, classes].float(), gamma).sum()
    return alpha * positives + (1 - alpha) * background
