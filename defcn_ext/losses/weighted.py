"""Classification losses of pairs that carry a positive and a negative weight (DW Eq. 1), in log space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .focal import background_focal_sum


def weighted_loss_sum(
    logits: Tensor,
    rows: Tensor,
    classes: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    ignored: Tensor | None = None,
    background: float = 0.75,
    gamma: float = 2.0,
    pair_gamma: float = 0.0,
    detach_importance: bool = False,
) -> Tensor:
    """Sum of `-positive log(s) - negative log(1 - s)` over pairs, and of the focal loss over all other entries.

    The loss of o2f (its Eq. 4, with the released weights), of the methods in DW's Table 1, and, with a `background`
    of 1 and other exponents, of plain soft labels (YOLOv10: `gamma` 0), of MAL (DEIM: 1.5, detached), of IA-BCE
    (Align-DETR: 2) and of quality focal loss (GFL: 2, and a `pair_gamma` of 2).

    Args:
        logits: (M, K) logits of the scores s; M points of all images.
        rows, classes: (P,) the entry of each pair; one named several times counts for each pair.
        positive, negative: (P,) constants.
        ignored: (I,) rows that add nothing to the loss, none of them in `rows`.
        background, gamma: factor on `s^gamma (-log(1 - s))` of entries without a pair, and its exponent.
        pair_gamma: exponent g of the importance `|s - t|^g` of pairs, t their label `positive / (positive + negative)`;
            the gradient flows through it.
        detach_importance: treat both importances as constants.

    Returns:
        A scalar, float32.

    Example:
        >>> zero, label = torch.tensor([0]), torch.tensor([0.3])
        >>> weighted_loss_sum(torch.zeros(1, 1), zero, zero, label, 1 - label)
        tensor(0.6931)
    """
    z = logits[rows, classes].float()
    of_pairs = positive * F.softplus(-z) + negative * F.softplus(z)
    if pair_gamma:
        score = (z.detach() if detach_importance else z).sigmoid()
        of_pairs = of_pairs * (score - soft_label(positive, negative)).abs() ** pair_gamma
    entries = rows * logits.shape[1] + classes
    of_others = background_focal_sum(
        logits, entries, ignored=ignored, gamma=gamma, constant_importance=detach_importance
    )
    return of_pairs.sum() + background * of_others


def soft_label(positive: Tensor, negative: Tensor) -> Tensor:
    """(P,) `positive / (positive + negative)`: where the pair's loss has its minimum; 0 where it has no weight.

    Example:
        >>> soft_label(torch.tensor([0.3, 0.0]), torch.tensor([0.1, 0.0]))
        tensor([0.7500, 0.0000])
    """
    total = positive + negative
    return torch.where(total > 0, positive / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


def dual_losses(
    logits: Tensor,
    rows: Tensor,
    classes: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    ignored: Tensor | None = None,
    gamma: float = 2.0,
    candidate_gamma: float = 2.0,
    detach_importance: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The classification losses of dual weighting as released (50-dw, section 5), before their normalisers.

    Where several pairs share an entry, the smallest P counts: a point that suits any object is not pushed down.

    Args:
        logits: (M, K) logits of the scores s; M points of all images.
        rows, classes: (P,) the entry of each pair.
        positive: (P,) positive weights, constants.
        negative: (P,) P, the probability of being a negative, constants; 1 for entries without a pair.
        ignored: (I,) rows that add nothing to the losses, none of them in `rows`.
        gamma, candidate_gamma: exponents of the importance of entries without and with a pair (the latter is DW's g2).
        detach_importance: treat the importance as a constant (the paper), instead of as in focal loss.

    Returns:
        the positive sum `positive (-log s)`, the negative sum `P s^g (-log(1 - s))` over all entries, and the sum
        of `1 - P`: scalars, float32.

    Example:
        >>> zero, weights = torch.tensor([0]), (torch.tensor([1.0]), torch.tensor([0.25]))
        >>> dual_losses(torch.zeros(1, 1), zero, zero, *weights)
        (tensor(0.6931), tensor(0.0433), tensor(0.7500))
    """
    entries, pair = (rows * logits.shape[1] + classes).unique(return_inverse=True)
    smallest = negative.new_ones(len(entries)).scatter_reduce(0, pair, negative, "amin")
    z = logits.flatten()[entries].float()
    of_positives = (positive * F.softplus(-z[pair])).sum()
    importance = (-candidate_gamma * F.softplus(-(z.detach() if detach_importance else z))).exp()  # s^g
    of_candidates = (smallest * importance * F.softplus(z)).sum()
    of_others = background_focal_sum(
        logits, entries, ignored=ignored, gamma=gamma, constant_importance=detach_importance
    )
    return of_positives, of_candidates + of_others, (1 - smallest).sum()
