"""The papers' assignment rules: named combinations of the four steps."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from defcn_ext.structures import Pairs, Points, ScoreView

from . import candidates as candidate_steps
from . import quality as quality_steps
from . import selection as selection_steps
from .expression import parse_call
from .scene import make_scene
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
    ) -> Pairs:
        """Assigns the objects of one image, or of a batch, to points.

        Args:
            points: the R points of an image.
            scores: (N R, K) probabilities; N = 1 for one image.
            boxes: (N R, 4) predicted boxes, pixels, not clipped.
            gt_boxes: (G, 4) objects of all images.
            gt_classes: (G,) their classes.
            image: (G,) the image each object is in; may be left out for one image.
            progress: share of the training that is over, for rules that change with it.

        Returns:
            the pairs that count. Points of image n are `n R ... (n + 1) R - 1`. No point stands for two objects.

        Raises:
            ValueError: shapes disagree.
        """
        scene = make_scene(points, scores, boxes, gt_boxes, gt_classes, image)
        pairs = self.candidates(scene, self.quality)
        pairs = self.selection(scene, pairs, self.quality(scene, pairs.point, pairs.object))
        if self.weighting is None:
            return pairs
        return self.weighting(scene, pairs, self.quality(scene, pairs.point, pairs.object), progress)


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
    known = inspect.signature(_RULES[name]).parameters
    unknown = [key for key in options if key not in known]
    if unknown:
        raise ValueError(f"{name}: unknown option {unknown[0]!r}; known: {', '.join(known) or 'none'}")
    for key, value in options.items():
        _check_type(f"{name}: option {key}", value, known[key].default)
    return _RULES[name](**options)


def _check_type(what: str, value: object, default: object) -> None:
    """A value from yaml must be of the type of the option's default; a whole number may stand for a float."""
    if default is None or default is inspect.Parameter.empty:
        return
    if not isinstance(value, (int, float) if isinstance(default, float) else type(default)):
        raise ValueError(f"{what} must be a {type(default).__name__}, like {default!r}; got {value!r}")


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
        candidate_steps.everywhere() if prior == "global" else _prior(prior, radius, uncovered),
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


@register_rule("QualityATSS")
def quality_atss(k: int = 9, alpha: float = 0.8) -> Rule:
    """DeFCN's auxiliary rule: the ATSS threshold on POTO's quality (section 3.2.3).

    Args:
        k: candidates an object and level.
        alpha: share of the IoU in the quality.
    """
    return Rule(
        candidate_steps.best_per_level(k), quality_steps.poto(alpha), selection_steps.mean_plus_std(inside=True)
    )
