"""The papers' rules that weight their pairs: o2f, dual weighting, and those it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from defcn_ext.structures import Pairs

from . import candidates as candidate_steps
from . import dense
from . import quality as quality_steps
from . import selection as selection_steps
from . import weighting as weighting_steps
from .groups import first_of_group, ranked
from .progress import Moving, is_before
from .rules import Rule, build_rule, register_rule
from .scene import Scene
from .steps import with_options_of


@register_rule("O2F")
@with_options_of(weighting_steps.soft_labels)
def o2f(
    k: Moving[int] = 7,
    alpha: float = 0.8,
    combine: str = "mul",
    radius: float = 1.5,
    **label: Any,
) -> Rule:
    """One-to-few: one certain positive and some ambiguous ones, whose label falls over the training (CVPR 2023).

    Args:
        k: positives an object, the certain one among them, as released; the paper's K = 7 counts the ambiguous ones
            alone, which is k = 8. Only points whose box overlaps the object count. A pair (start, end) changes the
            number over the training.
        alpha, combine, radius: of the POTO quality and of the center prior.
        label: options of the label, those of `weighting.soft_labels`.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("O2F")(*examples.two_objects())
        >>> pairs.object.bincount().tolist()
        [7, 7]
        >>> round(pairs.positive.max().item(), 3)
        1.0
    """
    return Rule(
        candidate_steps.center(radius),
        _overlapping(quality_steps.poto(alpha, combine)),
        selection_steps.top_k(k, above=0.0),
        weighting_steps.soft_labels(**label),
    )


def _overlapping(quality: candidate_steps.Quality) -> candidate_steps.Quality:
    """The same quality, but 0 where the boxes do not overlap; POTO's may be above with `add` or an alpha of 0."""

    def of_overlapping(scene: Scene, point: Tensor, object: Tensor) -> Tensor:
        value = quality(scene, point, object)
        return torch.where(scene.iou(point, object) > 0, value, value.clamp(max=0))

    return of_overlapping


@register_rule("DW")
def dw(
    mu: float = 5.0,
    beta: float = 5.0,
    g1: float = 2.0,
    bag: str = "soft",
    size: float = 0.0,
    form: str = "released",
) -> Rule:
    """Dual weighting: every point inside the box is a positive and a negative to a degree of its own (CVPR 2022).

    Args:
        mu: exponent of the positive weight; released, that in its divisor is 3/5 of it, 3 for the released 5.
        beta: exponent of the IoU in the consistency.
        g1: exponent of the IoU in the negative weight.
        bag: candidates: "soft", all of the box, with a soft center prior; "threshold", those within `size` strides of
            the centre; "topk", the `size` nearest of each level. The latter two without the prior.
        form: "released" or "paper"; they differ in how the box enters the consistency, in what the positive weights
            are divided by, and in the curve of the negative weight (50-dw, section 6).

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("DW")(*examples.two_objects())
        >>> pairs.object.bincount().tolist()
        [10, 80]
        >>> round(pairs.positive.max().item(), 3)
        0.71
    """
    if form not in ("released", "paper"):
        raise ValueError(f"DW: unknown form {form!r}; known: released, paper")
    if bag not in ("soft", "threshold", "topk") or (bag != "soft") != (size > 0):
        raise ValueError(f"DW: bag must be soft, or threshold or topk with a size above 0; got {bag!r}, {size}")
    if bag == "topk" and size != int(size):
        raise ValueError(f"DW: size of the bag topk must be a whole number, got {size}")
    candidates = {
        "soft": lambda: candidate_steps.inside(),
        "threshold": lambda: candidate_steps.near(size),
        "topk": lambda: candidate_steps.in_box(candidate_steps.nearest_per_level(int(size))),
    }
    released = form == "released"
    return Rule(
        candidates[bag](),
        quality_steps.consistency(beta, "giou" if released else "iou"),
        selection_steps.every(),
        weighting_steps.dual(
            mu,
            3.0 * mu / 5.0 if released else mu,
            1.11 if bag == "soft" else 0.0,
            g1,
            1.0 if released else 0.95,
            released,
        ),
    )


def _atss(weighting: weighting_steps.Weighting) -> Rule:
    atss = build_rule("ATSS")
    return Rule(atss.candidates, atss.quality, atss.selection, weighting)


@register_rule("GFL")
def gfl() -> Rule:
    """ATSS with the labels of quality focal loss (DW, Table 1).

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("GFL")(*examples.two_objects())
        >>> pairs.object.bincount().tolist()
        [0, 4]
        >>> round(pairs.positive.max().item(), 3)
        0.033
    """
    return _atss(weighting_steps.gfl())


@register_rule("VFL")
def vfl() -> Rule:
    """ATSS with the labels of varifocal loss (DW, Table 1).

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("VFL")(*examples.two_objects())
        >>> pairs.object.bincount().tolist()
        [0, 4]
        >>> round(pairs.positive.max().item(), 3)
        0.794
    """
    return _atss(weighting_steps.vfl())


@register_rule("TOOD")
def tood(k: int = 13, beta: float = 6.0) -> Rule:
    """The k most aligned points, as far as they lie in the box, with aligned labels (TOOD, section 3.2; DW, Table 1).

    Args:
        k: points an object, of all levels together.
        beta: exponent of the IoU in the alignment `s IoU^beta`.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("TOOD")(*examples.two_objects())
        >>> pairs.object.bincount().tolist()
        [9, 13]
        >>> round(pairs.positive.max().item(), 3)
        0.069
    """
    return Rule(
        dense.best_per_level(k),
        quality_steps.consistency(beta, "iou"),
        _top_k_in_box(k),
        weighting_steps.tood(),
    )


def _top_k_in_box(k: int) -> selection_steps.Selection:
    """The k best points of each object, less those outside its box; a shared point goes to the largest IoU (TOOD)."""

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        order, rank = ranked(pairs.object, quality, pairs.point)
        pairs = pairs[order[(rank < k) & (quality[order] > 0)].sort().values]
        pairs = candidate_steps.covering(scene, pairs[scene.ltrb(pairs.point, pairs.object).amin(-1) > 0])
        iou = scene.iou(pairs.point, pairs.object)
        return pairs[first_of_group(pairs.point, iou, pairs.object).sort().values]

    return select


@register_rule("MuSu")
def musu(k: int = 13, beta: float = 6.0) -> Rule:
    """TOOD's points and labels with MuSu's weights (DW, Table 1; MuSu's own label is not known here).

    Args:
        k, beta: as for TOOD.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("MuSu")(*examples.two_objects())
        >>> pairs.object.bincount().tolist()
        [9, 13]
        >>> round(pairs.positive.max().item(), 3)
        0.069
    """
    return Rule(
        dense.best_per_level(k),
        quality_steps.consistency(beta, "iou"),
        _top_k_in_box(k),
        weighting_steps.musu(),
    )


@dataclass(frozen=True)
class Hybrid(Rule):
    """A rule that hands over to another during the training; its own steps are the later rule's."""

    early: Rule = field(kw_only=True)
    switch: float = 2 / 3

    def __call__(self, *args: Any, **options: Any) -> Pairs:
        """As `Rule.__call__`; `progress` by name."""
        if is_before(options.get("progress", 0.0), self.switch):
            return self.early(*args, **options)
        return super().__call__(*args, **options)


@register_rule("HybridEpoch")
def hybrid_epoch(early: str = "FCOS", late: str = "POTO", switch: float = 2 / 3) -> Rule:
    """One-to-many targets at first, one-to-one later (o2f, Table 5; after H-DETR).

    Args:
        early, late: the names of two rules without weights, with their default options.
        switch: share of the training after which the second takes over; the papers do not give it.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> pairs = build_rule("HybridEpoch")(*examples.two_objects())
        >>> pairs.object.bincount().tolist()
        [9, 4]
    """
    if not 0 < switch < 1:
        raise ValueError(f"HybridEpoch: switch must lie in (0, 1), got {switch}")
    first, second = build_rule(early), build_rule(late)
    if first.weighting is not None or second.weighting is not None:
        raise ValueError(f"HybridEpoch: {early} or {late} weights its pairs; take rules without weights")
    return Hybrid(second.candidates, second.quality, second.selection, early=first, switch=switch)
