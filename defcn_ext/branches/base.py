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
        dual: whether they give the negative weights an importance s^g (`Pairs.focal_negative`; DW).

    Raises:
        ValueError: the rule does not give the weights that the losses use, or gives some that they would ignore.
    """

    reads_first = False
    weighted = False
    dual = False

    def __init__(self, rule: Rule):
        super().__init__()
        self._check_weights(rule)
        self.rule = rule

    def _check_weights(self, rule: Rule) -> None:
        dual = getattr(rule.weighting, "leaves_importance", False)
        if rule.weighting is not None and not self.weighted:
            fitting = "dual" if dual else "weighted"
            raise ValueError(f"TYPE: its losses are hard, and the RULE weights its pairs; set TYPE to {fitting!r}")
        if rule.weighting is None and self.weighted:
            raise ValueError("TYPE: its losses want weights, and the RULE gives none; set TYPE to 'point'")
        if self.dual and not dual:
            raise ValueError(
                "TYPE: 'dual' takes the negative weight for a probability, and the RULE gives soft labels; set TYPE to "
                "'weighted'"
            )
        if dual and not self.dual:
            raise ValueError(
                "TYPE: 'weighted' lacks the importance that the RULE leaves to the loss; set TYPE to 'dual'"
            )

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
