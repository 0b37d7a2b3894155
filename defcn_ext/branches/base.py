"""What all branches have in common."""

from __future__ import annotations

from torch import nn

from defcn_ext.assignment import Rule
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points, ScoreView


class Branch(nn.Module):
    """A predictor, an assignment rule and a loss.

    A subclass gives `forward(points, features, first) -> DensePredictions`, and
    `losses(points, predictions, objects, pairs)`, a dict of scalars by short names such as "cls" and "box".

    Attributes:
        reads_first: whether `forward` needs the predictions of the model's first branch.

    Raises:
        ValueError: the rule weights its pairs, which hard losses would silently ignore.
    """

    reads_first = False

    def __init__(self, rule: Rule):
        super().__init__()
        if rule.weighting is not None:
            raise ValueError(f"{type(self).__name__} has hard losses, and the rule weights its pairs")
        self.rule = rule

    def places(self, points: Points) -> Points:
        """Where the branch predicts: at the points, unless it has anchors."""
        return points

    def assign(self, points: Points, predictions: DensePredictions, objects: Objects) -> Pairs:
        """Which points stand for which objects, for the whole batch, on detached float32 predictions."""
        detached = predictions.detach()
        return self.rule(
            self.places(points),
            ScoreView(detached),
            detached.boxes.flatten(0, 1),
            objects.boxes,
            objects.classes,
            objects.image,
            image_sizes=objects.image_sizes,
        )
