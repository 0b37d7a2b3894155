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
        weighted: whether the losses use the weights of pairs.

    Raises:
        ValueError: the rule weights its pairs, which hard losses would silently ignore, or the other way round.
    """

    reads_first = False
    weighted = False

    def __init__(self, rule: Rule):
        super().__init__()
        if rule.weighting is not None and not self.weighted:
            raise ValueError(f"{type(self).__name__} has hard losses, and the rule weights its pairs; see TYPE")
        if rule.weighting is None and self.weighted:
            raise ValueError(f"{type(self).__name__} wants weights, and the rule gives none; set TYPE: point")
        self.rule = rule

    def places(self, points: Points) -> Points:
        """Where the branch predicts: at the points, unless it has anchors."""
        return points

    def assign(self, points: Points, predictions: DensePredictions, objects: Objects, progress: float = 0.0) -> Pairs:
        """Which points stand for which objects, for the whole batch, on detached float32 predictions.

        `progress` is the share of the training that is over.
        """
        detached = predictions.detach()
        return self.rule(
            self.places(points),
            ScoreView(detached),
            detached.boxes.flatten(0, 1),
            objects.boxes,
            objects.classes,
            objects.image,
            progress=progress,
            image_sizes=objects.image_sizes,
        )
