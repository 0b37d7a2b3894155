"""The papers' rules that give an object one point, or one a level."""

from __future__ import annotations

from . import candidates as candidate_steps
from . import dense
from . import quality as quality_steps
from . import selection as selection_steps
from .anchors import best_squares
from .rules import Rule, register_rule


@register_rule("POTO")
def poto(
    alpha: float = 0.8,
    prior: str = "center",
    radius: float = 1.5,
    select: str = "matching",
    combine: str = "mul",
    invalid: float = -1.0,
    uncovered: str = "drop",
) -> Rule:
    """Prediction-aware one-to-one assignment (DeFCN, section 3.1, Eq. 3-4).

    Args:
        alpha: share of the IoU in the quality.
        prior: "center", "inside" or "global".
        radius: of the center prior, in strides.
        select: "matching", or "argmax" for the best point of each object.
        combine: "mul" or "add" of score and IoU.
        invalid: value of leaving an object out: -1 (DeFCN) or 0 (DATE).
        uncovered: "drop", or "nearest" for an object whose prior holds no point.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("POTO")(*examples.two_objects())
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([0, 69], [0, 1])
    """
    selections = {"matching": selection_steps.matching(invalid), "argmax": selection_steps.top_of_object()}
    if select not in selections:
        raise ValueError(f"POTO: unknown select {select!r}; known: matching, argmax")
    if prior == "global" and uncovered != "drop":
        raise ValueError(f"POTO: prior=global leaves no object uncovered; drop uncovered={uncovered}")
    return Rule(
        dense.everywhere() if prior == "global" else candidate_steps.prior_of(prior, radius, uncovered),
        quality_steps.poto(alpha, combine),
        selections[select],
    )


@register_rule("ForegroundLoss")
def foreground_loss(radius: float = 1.5, giou: float = 2.0, uncovered: str = "drop") -> Rule:
    """One-to-one matching by the smallest foreground loss (DeFCN Eq. 2, Table 1).

    Args:
        radius: of the center prior, in strides.
        giou: weight of the box in the loss.
        uncovered: "drop", or "nearest" for an object whose prior holds no point.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("ForegroundLoss")(*examples.two_objects())
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([0, 69], [0, 1])
    """
    return Rule(
        candidate_steps.center(radius, uncovered), quality_steps.foreground_loss(giou), selection_steps.full_matching()
    )


@register_rule("MinCost")
def min_cost(
    cls: float = 2.0, l1: float = 5.0, giou: float = 2.0, select: str = "matching", form: str = "cxcywh"
) -> Rule:
    """OneNet's minimum cost over all points (Sun et al. 2021; DATE's "POTO x" rows and CrowdHuman configs).

    Args:
        cls, l1, giou: weights of the cost.
        select: "matching", or "argmin" for the cheapest point of each object, of which an object gets none if it is
            taken by a cheaper one.
        form: coordinates of the L1 distance, "cxcywh" (DATE) or "xyxy" (OneNet).

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("MinCost")(*examples.two_objects())
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([0, 64], [0, 1])
    """
    selections = {"matching": selection_steps.full_matching(), "argmin": selection_steps.top_of_object()}
    if select not in selections:
        raise ValueError(f"MinCost: unknown select {select!r}; known: matching, argmin")
    return Rule(dense.everywhere(), quality_steps.min_cost(cls, l1, giou, form), selections[select])


@register_rule("Anchor")
def anchor(scale: float = 4.0, ties: str = "first") -> Rule:
    """One-to-one by the square anchor of highest IoU over all levels (DeFCN, Table 1).

    Args:
        scale: side of the anchors, in strides; the same as that of the branch's anchors.
        ties: which of equal ones is taken, such as all inside the object: the "first" in the order of the points (the
            release), or the "nearest" to the object's centre.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("Anchor")(*examples.two_objects())
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([9, 69], [0, 1])
    """
    if ties not in ("first", "nearest"):
        raise ValueError(f"Anchor: ties must be 'first' or 'nearest', got {ties!r}")
    return Rule(
        best_squares(scale) if ties == "first" else candidate_steps.nearest_per_level(1),
        quality_steps.square_anchor(scale),
        selection_steps.top_of_object(above=0.0),
    )


@register_rule("Center")
def center() -> Rule:
    """On each level the point nearest to the object's centre, if the level is meant for the object's size.

    Usually one point an object, sometimes none or two (DeFCN, Table 1; 10-defcn, section 3).

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("Center")(*examples.two_objects())
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([9, 27], [0, 1])
    """
    return Rule(
        candidate_steps.size_range(candidate_steps.nearest_per_level(1)),
        quality_steps.smallest_area(),
        selection_steps.best_of_point(),
    )
