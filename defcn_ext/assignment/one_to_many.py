"""The papers' rules that give an object any number of points, all full positives."""

from __future__ import annotations

from . import candidates as candidate_steps
from . import dense
from . import quality as quality_steps
from . import selection as selection_steps
from .anchors import overlapping_anchors
from .progress import Moving
from .rules import Rule, register_rule


@register_rule("FCOS")
def fcos(prior: str = "center", radius: float = 1.5) -> Rule:
    """All points of the prior on the level meant for the object's size; the smallest object wins (Tian et al. 2019).

    Args:
        prior: "center" (DeFCN's baseline) or "inside" (DATE's branch).
        radius: of the center prior, in strides.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("FCOS")(*examples.two_objects())
        >>> pairs.object.bincount().tolist()
        [9, 4]
    """
    return Rule(
        candidate_steps.size_range(candidate_steps.prior_of(prior, radius, "drop")),
        quality_steps.smallest_area(),
        selection_steps.best_of_point(),
    )


@register_rule("ATSS")
def atss(k: int = 9, scale: float = 8.0) -> Rule:
    """Mean plus standard deviation of the IoU of fixed anchors as threshold (Zhang et al. 2020, Algorithm 1).

    Args:
        k: nearest points an object and level.
        scale: side of the square anchors, in strides.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("ATSS")(*examples.two_objects())
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([27, 28, 35, 36], [1, 1, 1, 1])
    """
    return Rule(
        candidate_steps.nearest_per_level(k),
        quality_steps.square_anchor(scale),
        selection_steps.mean_plus_std(inside=True),
    )


@register_rule("RetinaNet")
def retinanet(positive: float = 0.5, negative: float = 0.4, ties: str = "equal") -> Rule:
    """Anchors by their IoU: positive, ignored, background (Lin et al. 2017); every object also claims its best anchors.

    Args:
        positive: IoU from which on an anchor is positive.
        negative: IoU below which it is background; between the two it is ignored.
        ties: which anchors an object claims as its best: "equal" or "near"; see `selection.thresholds`.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("RetinaNet")(*examples.two_objects(anchors=True))
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([9, 69, 70, 73, 74], [0, 1, 1, 1, 1])
    """
    return Rule(
        overlapping_anchors(low=negative),
        quality_steps.anchor_iou(),
        selection_steps.thresholds(positive, negative, ties=ties),
    )


@register_rule("QualityFCOS")
def quality_fcos(alpha: float = 0.8, prior: str = "center", radius: float = 1.5) -> Rule:
    """FCOS whose level is the one of the object's best point instead of the one of its size (DeFCN, appendix A).

    Args:
        alpha: share of the IoU in the quality.
        prior, radius: as for FCOS.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("QualityFCOS")(*examples.two_objects())
        >>> pairs.object.bincount().tolist()
        [9, 4]
    """
    return Rule(
        candidate_steps.prior_of(prior, radius, "drop"), quality_steps.poto(alpha), selection_steps.best_level()
    )


@register_rule("QualityTopK")
def quality_top_k(k: Moving[int] = 9, alpha: float = 0.8) -> Rule:
    """The k points of highest quality inside the object's box, over all levels (DeFCN, appendix A).

    Args:
        k: points an object; a pair (start, end) changes the number over the training.
        alpha: share of the IoU in the quality.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("QualityTopK")(*examples.two_objects())
        >>> pairs.object.bincount().tolist()
        [9, 9]
    """
    return Rule(candidate_steps.inside(), quality_steps.poto(alpha), selection_steps.top_k(k))


@register_rule("QualityATSS")
def quality_atss(k: int = 9, alpha: float = 0.8) -> Rule:
    """DeFCN's auxiliary rule: the ATSS threshold on POTO's quality (section 3.2.3).

    Args:
        k: candidates an object and level.
        alpha: share of the IoU in the quality.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("QualityATSS")(*examples.two_objects())
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([0, 1, 8, 64], [0, 0, 0, 1])
    """
    return Rule(dense.best_per_level(k), quality_steps.poto(alpha), selection_steps.mean_plus_std(inside=True))
