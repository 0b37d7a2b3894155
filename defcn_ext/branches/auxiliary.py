"""DeFCN's auxiliary one-to-many loss (section 3.2.3): a branch without a predictor."""

from __future__ import annotations

import torch
from torch import Tensor

from defcn_ext.assignment import Rule
from defcn_ext.layers.towers import HeadFeatures
from defcn_ext.losses import focal_loss_sum, worker_mean
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points

from .base import Branch


class AuxiliaryBranch(Branch):
    """Trains the class scores of the first branch, before the filter, with one-to-many targets.

    Args:
        rule: label assignment; it sees the scores without the filter.
        cls_weight: weight of the focal loss.
    """

    reads_first = True

    def __init__(self, *, rule: Rule, cls_weight: float = 1.0):
        super().__init__(rule)
        self.cls_weight = cls_weight

    def forward(
        self, points: Points, features: HeadFeatures, first: DensePredictions | None = None
    ) -> DensePredictions:
        """The predictions of the first branch without their filter."""
        return first.without_filter()

    def losses(
        self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs
    ) -> dict[str, Tensor]:
        """The focal loss over its own number of positives, as "cls". Boxes are left to the first branch."""
        count = worker_mean(torch.full((), float(len(pairs)), device=objects.boxes.device))
        logits, classes = predictions.logits.flatten(0, 1), objects.classes[pairs.object]
        loss = focal_loss_sum(logits, pairs.point, classes, ignored=pairs.ignored)
        return {"cls": self.cls_weight * loss / count}
