"""Branches whose rule weights its pairs: soft labels (o2f and others) and dual weighting (DW)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from defcn_ext.losses import dual_losses, weighted_loss_sum, worker_mean
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points

from .point import PointBranch, centerness_target, check_choice


class WeightedBranch(PointBranch):
    """Trains each pair as positive and negative at once, to the degree that the rule says (o2f Eq. 4; DW Eq. 1).

    Args:
        background: factor on the focal loss of all entries without a pair; 0.75 (o2f) is 1 - alpha of focal loss.
        box_weights: "" for none; "centerness", the FCOS centerness of the point (o2f as released); "label", the share
            `positive / (positive + negative)`. The box loss is divided by the mean over the workers of their sum, of
            "centerness" however small (40-o2f, section 6.2), of "label" at least 1 (TOOD).
        normalizer: that of `PointBranch`, or "labels", the mean over the workers of the sum of these shares.
        options: those of `PointBranch`.

    Raises:
        ValueError: an option is none of those named, or has no meaning here; or the rule does not fit.
    """

    weighted = True
    normalizers = (*PointBranch.normalizers, "labels")

    def __init__(self, *, background: float = 0.75, box_weights: str = "centerness", **options):
        _check_losses(options)
        super().__init__(**options)
        check_choice("BOX_WEIGHTS", box_weights, ("", "centerness", "label"))
        self.background, self.box_weights = background, box_weights

    def losses(
        self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs
    ) -> dict[str, Tensor]:
        """
        Returns:
            scalars "cls" and "box", weighted and normalised.
        """
        logits, classes = predictions.score_logits().flatten(0, 1), objects.classes[pairs.object]
        cls = weighted_loss_sum(
            logits,
            pairs.point,
            classes,
            pairs.positive,
            pairs.negative,
            ignored=self.ignored(points, objects, pairs),
            background=self.background,
        )
        box = self.box_loss_of(points, predictions, objects, pairs)
        count = self.count(objects, pairs)
        if self.box_weights:
            weight = self._box_weights(points, objects, pairs)
            floor = 1e-6 if self.box_weights == "centerness" else 1.0
            box_sum, box_count = (box * weight).sum(), worker_mean(weight.sum(), floor=floor)
        else:
            box_sum, box_count = box.sum(), count
        losses = {"cls": self.cls_weight * cls / count, "box": self.box_weight * box_sum / box_count}
        return {name: self.loss_weight * value for name, value in losses.items()}

    def count(self, objects: Objects, pairs: Pairs) -> Tensor:
        """What the classification loss is divided by."""
        if self.normalizer == "labels":
            return worker_mean(soft_label(pairs).sum())
        return super().count(objects, pairs)

    def _box_weights(self, points: Points, objects: Objects, pairs: Pairs) -> Tensor:
        return soft_label(pairs) if self.box_weights == "label" else centerness_target(points, objects, pairs)


def _check_losses(options: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: an option asks for a loss that only hard losses have beside them.
    """
    if options.get("centerness"):
        raise ValueError("CENTERNESS: only TYPE 'point' trains it; set it to '', and QUALITY.ENABLED to True instead")
    if options.get("l1_weight"):
        raise ValueError("L1_WEIGHT: only TYPE 'point' has this loss; set it to 0")


def soft_label(pairs: Pairs) -> Tensor:
    """(P,) `positive / (positive + negative)`: where the pair's loss has its minimum; 0 where it has no weight."""
    total = pairs.positive + pairs.negative
    return torch.where(total > 0, pairs.positive / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)


class DualWeightingBranch(PointBranch):
    """Dual weighting's losses as released (DW, section 3; 50-dw, section 5).

    Args:
        cls_weight, box_weight: weights of the positive and of the box loss, each weighted by the positive weights and
            divided by the mean over the workers of the number of objects.
        neg_weight: weight of the negative loss, divided by the mean over the workers of the sum of 1 - P.
        neg_gamma: exponent g2 of the importance s^g2 of candidates as negatives (DW Eq. 8); other points have s^2.
        detach_negative: treat the importance of negatives as a constant (the paper).
        options: those of `PointBranch`; the normalizers are those above.

    Raises:
        ValueError: as for `WeightedBranch`.
    """

    weighted = dual = True
    normalizers = ("positives",)

    def __init__(self, *, neg_weight: float = 1.0, neg_gamma: float = 2.0, detach_negative: bool = False, **options):
        _check_losses(options)
        if neg_gamma < 0:
            raise ValueError(f"NEG_GAMMA: must not be negative, got {neg_gamma}")
        super().__init__(**options)
        self.neg_weight, self.neg_gamma, self.detach_negative = neg_weight, neg_gamma, detach_negative

    def losses(
        self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs
    ) -> dict[str, Tensor]:
        """
        Returns:
            scalars "cls_pos", "cls_neg" and "box", weighted and normalised.
        """
        positive, negative, spared = dual_losses(
            predictions.score_logits().flatten(0, 1),
            pairs.point,
            objects.classes[pairs.object],
            pairs.positive,
            pairs.negative,
            ignored=self.ignored(points, objects, pairs),
            candidate_gamma=self.neg_gamma,
            detach_importance=self.detach_negative,
        )
        box = (self.box_loss_of(points, predictions, objects, pairs) * pairs.positive).sum()
        count = worker_mean(torch.full((), float(len(objects)), device=objects.boxes.device))
        losses = {
            "cls_pos": self.cls_weight * positive / count,
            "cls_neg": self.neg_weight * negative / worker_mean(spared),
            "box": self.box_weight * box / count,
        }
        return {name: self.loss_weight * value for name, value in losses.items()}
