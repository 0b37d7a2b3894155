"""What a rule is, and how one is found by name.

The rules of the papers are in one_to_one.py, one_to_many.py and weighted_rules.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from defcn_ext.structures import Pairs, Points, ScoreView

from .candidates import Candidates, Quality
from .expression import parse_call
from .scene import Scene, make_scene
from .selection import Selection
from .steps import call_with
from .weighting import Weighting

_RULES: dict[str, Callable[..., Rule]] = {}
Build = TypeVar("Build", bound=Callable[..., "Rule"])


@dataclass(frozen=True)
class Rule:
    """candidates -> quality -> selection -> weighting; without a weighting the rule is hard."""

    candidates: Candidates
    quality: Quality
    selection: Selection
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
            ValueError: shapes disagree, or what should be probabilities are logits.
        """
        scene = make_scene(points, scores, boxes, gt_boxes, gt_classes, image, image_sizes, progress)
        pairs = self.candidates(scene, self.quality)
        pairs = self.selection(scene, *self._judged(scene, pairs))
        if self.weighting is None:
            return pairs
        return self.weighting(scene, *self._judged(scene, pairs), progress)

    def _judged(self, scene: Scene, pairs: Pairs) -> tuple[Pairs, Tensor]:
        """The pairs and their quality, which is asked only where no earlier step has handed it on."""
        quality = pairs.quality
        if quality is None:
            quality = self.quality(scene, pairs.point, pairs.object)
            pairs = replace(pairs, quality=quality)
        return pairs, quality


def register_rule(name: str) -> Callable[[Build], Build]:
    """Makes a function that returns a `Rule` known under `name`, in `build_rule` and in yaml.

    Raises:
        ValueError: the name is taken.
    """

    def add(build: Build) -> Build:
        if name in _RULES:
            raise ValueError(f"assignment rule {name!r} is registered already")
        _RULES[name] = build
        return build

    return add


def rules() -> list[str]:
    """The names that `build_rule` knows."""
    return sorted(_RULES)


def build_rule(name: str, **options: Any) -> Rule:
    """Builds a rule from its name and options, or from the text of a call such as `"POTO(alpha=0.8, prior=center)"`.

    Raises:
        ValueError: unknown name or option; names what is known.
    """
    if "(" in name:
        name, written = parse_call(name)
        options = {**written, **options}
    if name not in _RULES:
        raise ValueError(f"unknown assignment rule {name!r}; known: {', '.join(rules())}")
    rule: Rule = call_with(name, _RULES[name], options)
    return rule
