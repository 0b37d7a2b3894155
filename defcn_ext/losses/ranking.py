"""The ranking term of the selector (Zhou et al., arXiv 2101.11782): positives above the highest negatives."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def ranking_loss(
    logits: Tensor,
    rows: Tensor,
    classes: Tensor,
    *,
    ignored: Tensor | None = None,
    margin: float = 0.5,
    negatives: int = 100,
) -> Tensor:
    """Sum over the images of `1/n sum over positives, sum over the n highest negatives of max(0, margin - s+ + s-)`.

    Args:
        logits: (N, R, K) logits of the scores s.
        rows, classes: (P,) the positives; row `image R + point`.
        ignored: (I,) rows without negatives.
        margin: gamma_r, by which a positive should score more than a negative.
        negatives: n, fewer where an image has fewer entries.

    Returns:
        A scalar, without the factor lambda.

    Raises:
        ValueError: the shapes disagree.

    Example:
        >>> logits = torch.tensor([0.6, 0.3, 0.5, 0.2, 0.1]).logit().view(1, 5, 1)
        >>> 0.25 * ranking_loss(logits, torch.tensor([0, 1]), torch.tensor([0, 0]), negatives=3)
        tensor(0.1583)
    """
    if logits.dim() != 3 or rows.shape != classes.shape or rows.dim() != 1:
        raise ValueError(
            f"ranking_loss wants logits (N, R, K) and rows, classes (P,); got {tuple(logits.shape)}, "
            f"{tuple(rows.shape)}, {tuple(classes.shape)}"
        )
    entries = logits.float().flatten(1)
    index, counts = _highest_negatives(logits, rows, classes, ignored, min(negatives, entries.shape[1]))
    low = entries.gather(1, index).sigmoid() * counts
    high = logits.flatten(0, 1)[rows, classes].float().sigmoid()
    image = rows.div(logits.shape[1], rounding_mode="floor")
    hinge = (margin - high[:, None] + low[image]).clamp(min=0) * counts[image]
    return hinge.sum() / index.shape[1]


@torch.no_grad()
def _highest_negatives(
    logits: Tensor, rows: Tensor, classes: Tensor, ignored: Tensor | None, count: int
) -> tuple[Tensor, Tensor]:
    """(N, n) entries of each image by decreasing logit, and 1.0 where such an entry is a negative, else 0.0."""
    left = logits.detach().float().flatten(0, 1).clone()
    left[rows, classes] = -math.inf
    if ignored is not None:
        left[ignored] = -math.inf
    highest = left.view(len(logits), -1).topk(count, dim=1)
    return highest.indices, (highest.values > -math.inf).float()
