"""The papers' assignment rules: named combinations of the four steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from defcn_ext.structures import Pairs, Points, ScoreView

from . import candidates as candidate_steps
from . import dense
from . import quality as quality_steps
from . import selection as selection_steps
from .anchors import best_squares, overlapping_anchors
from .expression import Call, parse_call
from .scene import Scene, make_scene
from .steps import call_with, check_combination, find_step
from .weighting import Weighting

_RULES: dict[str, Callable[..., Rule]] = {}


@dataclass(frozen=True)
class Rule:
    """candidates -> quality -> selection -> weighting; without a weighting the rule is hard."""

    candidates: candidate_steps.Candidates
    quality: candidate_steps.Quality
    selection: selection_steps.Selection
    weighting: Weighting | None = None

    @torch.no_grad()
    def __call__(
        self,
        points: Points,
        scores: Tensor | ScoreView,
        boxes: Tensor,
        gt_boxes: Tensor,
        gt_classes: Tensor,
        image: Tensor | None = None,
        progress: float = 0.0,
        image_sizes: Tensor | None = None,
    ) -> Pairs:
        """Assigns the objects of one image, or of a batch, to points.

        Args:
            points: the R points of an image.
            scores: (N R, K) probabilities, or `ScoreView.from_logits` of their logits, which rules with a cost read
                more precisely: probabilities above 1 - 6e-8 are 1 to float32. N = 1 for one image.
            boxes: (N R, 4) predicted boxes, pixels, not clipped.
            gt_boxes: (G, 4) objects of all images.
            gt_classes: (G,) their classes.
            image: (G,) the image each object is in; may be left out for one image.
            progress: share of the training that is over, for rules that change with it; a `Progress` where an epoch
                may be no whole number of iterations.
            image_sizes: (N, 2) height and width of each image without padding; without it, the extent of the points.

        Returns:
            the pairs that count. Points of image n are `n R ... (n + 1) R - 1`. No point stands for two objects,
            unless the selection is `every` (DW), which pairs a point with all the objects it is a candidate of.

        Raises:
            ValueError: shapes disagree.
        """
        scene = make_scene(points, scores, boxes, gt_boxes, gt_classes, image, image_sizes)
        pairs = self.candidates(scene, self.quality)
        pairs = self.selection(scene, *self._judged(scene, pairs))
        if self.weighting is None:
            return pairs
        return self.weighting(scene, *self._judged(scene, pairs), progress)

    def _judged(self, scene: Scene, pairs: Pairs) -> tuple[Pairs, Tensor]:
        """The pairs and their quality, which is asked only where no earlier step has handed it on."""
        if pairs.quality is None:
            pairs = replace(pairs, quality=self.quality(scene, pairs.point, pairs.object))
        return pairs, pairs.quality


def register_rule(name: str) -> Callable[[Callable[..., Rule]], Callable[..., Rule]]:
    """Makes a function that returns a `Rule` known under `name`, in `build_rule` and in yaml.

    Raises:
        ValueError: the name is taken.
    """

    def add(build: Callable[..., Rule]) -> Callable[..., Rule]:
        if name in _RULES:
            raise ValueError(f"assignment rule {name!r} is registered already")
        _RULES[name] = build
        return build

    return add


def rules() -> list[str]:
    """The names that `build_rule` knows."""
    return sorted(_RULES)


def build_rule(name: str, **options) -> Rule:
    """Builds a rule from its name and options, or from the text of a call such as `"POTO(alpha=0.8, prior=center)"`.

    Raises:
        ValueError: unknown name or option; names what is known.
    """
    if "(" in name:
        name, written = parse_call(name)
        options = {**written, **options}
    if name not in _RULES:
        raise ValueError(f"unknown assignment rule {name!r}; known: {', '.join(rules())}")
    return call_with(name, _RULES[name], options)


def _prior(name: str, radius: float, uncovered: str) -> candidate_steps.Candidates:
    if name == "center":
        return candidate_steps.center(radius, uncovered)
    if name == "inside":
        return candidate_steps.inside(uncovered)
    raise ValueError(f"unknown spatial prior {name!r}; known: center, inside")


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
    """
    selections = {"matching": selection_steps.matching(invalid), "argmax": selection_steps.top_of_object()}
    if select not in selections:
        raise ValueError(f"POTO: unknown select {select!r}; known: matching, argmax")
    if prior == "global" and uncovered != "drop":
        raise ValueError(f"POTO: prior=global leaves no object uncovered; drop uncovered={uncovered}")
    return Rule(
        dense.everywhere() if prior == "global" else _prior(prior, radius, uncovered),
        quality_steps.poto(alpha, combine),
        selections[select],
    )


@register_rule("FCOS")
def fcos(prior: str = "center", radius: float = 1.5) -> Rule:
    """All points of the prior on the level meant for the object's size; the smallest object wins (Tian et al. 2019).

    Args:
        prior: "center" (DeFCN's baseline) or "inside" (DATE's branch).
        radius: of the center prior, in strides.
    """
    return Rule(
        candidate_steps.size_range(_prior(prior, radius, "drop")),
        quality_steps.smallest_area(),
        selection_steps.best_of_point(),
    )


@register_rule("ForegroundLoss")
def foreground_loss(radius: float = 1.5, giou: float = 2.0, uncovered: str = "drop") -> Rule:
    """One-to-one matching by the smallest foreground loss (DeFCN Eq. 2, Table 1).

    Args:
        radius: of the center prior, in strides.
        giou: weight of the box in the loss.
        uncovered: "drop", or "nearest" for an object whose prior holds no point.
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
    """
    return Rule(
        candidate_steps.size_range(candidate_steps.nearest_per_level(1)),
        quality_steps.smallest_area(),
        selection_steps.best_of_point(),
    )


@register_rule("ATSS")
def atss(k: int = 9, scale: float = 8.0) -> Rule:
    """Mean plus standard deviation of the IoU of fixed anchors as threshold (Zhang et al. 2020, Algorithm 1).

    Args:
        k: nearest points an object and level.
        scale: side of the square anchors, in strides.
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
    """
    return Rule(_prior(prior, radius, "drop"), quality_steps.poto(alpha), selection_steps.best_level())


@register_rule("QualityTopK")
def quality_top_k(k: int = 9, alpha: float = 0.8) -> Rule:
    """The k points of highest quality inside the object's box, over all levels (DeFCN, appendix A).

    Args:
        k: points an object.
        alpha: share of the IoU in the quality.
    """
    return Rule(candidate_steps.inside(), quality_steps.poto(alpha), selection_steps.top_k(k))


@register_rule("QualityATSS")
def quality_atss(k: int = 9, alpha: float = 0.8) -> Rule:
    """DeFCN's auxiliary rule: the ATSS threshold on POTO's quality (section 3.2.3).

    Args:
        k: candidates an object and level.
        alpha: share of the IoU in the quality.
    """
    return Rule(dense.best_per_level(k), quality_steps.poto(alpha), selection_steps.mean_plus_std(inside=True))


@register_rule("Combine")
def combine(
    candidates: Call | str, quality: Call | str, selection: Call | str, weighting: Call | str | None = None
) -> Rule:
    """Any steps that go together, as in `Combine(candidates=inside, quality=poto(alpha=0.6), selection=matching)`.

    Args:
        candidates, quality, selection, weighting: registered steps, `steps.steps(kind)` lists them.

    Raises:
        ValueError: a step is unknown, or the steps make no sense together.
    """
    (c, find), (q, judge), (s, select) = (
        find_step(kind, written)
        for kind, written in (("candidates", candidates), ("quality", quality), ("selection", selection))
    )
    check_combination(c, q, s)
    if "shares_points" in s.traits and weighting is None:
        raise ValueError(f"{s.name} lets a point serve several objects, which hard losses cannot; add a weighting")
    return Rule(find, judge, select, None if weighting is None else find_step("weighting", weighting)[1])
