"""Step four by the quality of the boxes: labels of a BCE that are high where the box is good.

What the papers do with all other entries is the loss's: `losses.weighted_loss_sum` says with which exponents.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from defcn_ext._elementwise import alike, power
from defcn_ext.structures import Pairs

from . import quality as quality_steps
from .groups import ranked
from .progress import Moving, ends, moving
from .scene import Scene
from .steps import register_step
from .weighting import Weighting, aligned_label, iou_of, score_of

LEAST_LABEL = 0.01  # of IA-BCE, before the rank


@register_step("weighting")
def aligned(metric: str = "quality", alpha: float = 1.0, beta: float = 6.0) -> Weighting:
    """The task-aligned label `t = m / max m * max IoU`, weights t and 1 - t (TOOD, section 3.2; YOLOv8 to YOLO26).

    The maxima are over the object's selected pairs, so that the best of them has the highest IoU as label; alone, it
    has its IoU.

    Args:
        metric: what m is: "quality", that of the rule, or "tal", the step of that name (DDQ, whose rule is a cost).
        alpha, beta: exponents of the score and of the IoU in "tal".

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> steps = "candidates=inside, quality=tal(alpha=0.5, beta=6), selection=top_k(k=2), weighting=aligned"
        >>> pairs = build_rule(f"Combine({steps})")(*examples.two_objects())
        >>> [round(x, 3) for x in pairs.positive.tolist()], pairs.box is None
        ([0.959, 0.749, 0.967, 0.793], True)
    """
    if metric not in ("quality", "tal"):
        raise ValueError(f"aligned: metric must be 'quality' or 'tal', got {metric!r}")
    own = quality_steps.tal(alpha, beta) if metric == "tal" else None

    def weigh(scene: Scene, pairs: Pairs, quality: Tensor, progress: float) -> Pairs:
        label = aligned_label(scene, pairs, own(scene, pairs.point, pairs.object) if own else quality)
        return replace(pairs, positive=label, negative=1 - label)

    return weigh


@register_step("weighting")
def mal(gamma: float = 1.5) -> Weighting:
    """Matchability-aware labels: `t = IoU^gamma`, weights t and 1 - t (DEIM).

    A pair of a poor box still weighs 1, as what it should be: little.

    Args:
        gamma: exponent of the IoU; that of the loss's importance of other entries should be the same.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> steps = "candidates=center, quality=poto(alpha=0.8), selection=matching, weighting=mal(gamma=1.5)"
        >>> pairs = build_rule(f"Combine({steps})")(*examples.two_objects())
        >>> [round(x, 3) for x in pairs.positive.tolist()]
        [0.94, 0.862]
    """
    if gamma <= 0:
        raise ValueError(f"mal: gamma must be above 0, got {gamma}")

    def weigh(scene: Scene, pairs: Pairs, quality: Tensor, progress: float) -> Pairs:
        label = power(iou_of(scene, pairs), gamma)
        return replace(pairs, positive=label, negative=1 - label)

    return weigh


@register_step("weighting")
def ia_bce(alpha: float = 0.25, tau: Moving[float] = 1.5) -> Weighting:
    """IoU-aware labels that fall with the rank within the object (Align-DETR).

    `t = max(p^alpha IoU^(1 - alpha), 0.01)` and `w = exp(-rank / tau)`, the rank by t from 0 on. Weights `t w` and
    `1 - t w`; w is also the weight of the pair's box loss (`BOX_WEIGHTS: rule`).

    Args:
        alpha: share of the score in t.
        tau: ranks within which w falls by e; a pair (start, end) is a straight line over the training.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> steps = "candidates=inside, quality=poto(alpha=0.75), selection=top_k(k=2)"
        >>> rule = build_rule(f"Combine({steps}, weighting=ia_bce(tau=(1.5, 0.3)))")
        >>> [[round(x, 3) for x in rule(*examples.two_objects(), progress=p).box.tolist()] for p in (0.0, 1.0)]
        [[1.0, 0.513, 1.0, 0.513], [1.0, 0.036, 1.0, 0.036]]
    """
    if not 0 <= alpha <= 1 or min(ends(tau)) <= 0:
        raise ValueError(f"ia_bce: alpha in [0, 1] and tau above 0 must hold; got {alpha}, {tau}")

    def weigh(scene: Scene, pairs: Pairs, quality: Tensor, progress: float) -> Pairs:
        score, iou = score_of(scene, pairs), iou_of(scene, pairs)
        label = alike(lambda p, u: p**alpha * u ** (1 - alpha), score, iou).clamp(min=LEAST_LABEL)
        order, rank = ranked(pairs.object, label, pairs.point)
        decay = torch.empty_like(label)
        decay[order] = alike(torch.exp, rank / -moving(tau, progress))
        return replace(pairs, positive=label * decay, negative=1 - label * decay, box=decay)

    return weigh
