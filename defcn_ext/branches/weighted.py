"""The branch of soft labels: one-to-few and others whose rule weights its pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from defcn_ext.assignment import Rule
from defcn_ext.losses import weighted_loss_sum, worker_mean
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points
from detectron2.config import CfgNode, configurable

from .base import check_choice
from .point import PointBranch, centerness_target
from .registry import BRANCH_REGISTRY


@BRANCH_REGISTRY.register("weighted")
class WeightedBranch(PointBranch):
    """Trains each pair as positive and negative at once, to the degree that the rule says (o2f Eq. 4; DW Eq. 1).

    `WeightedBranch(num_classes=3)` is one-to-few's, score map included.

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

    @configurable
    def __init__(
        self,
        *,
        rule: Rule | str = "O2F",
        background: float = 0.75,
        box_weights: str = "centerness",
        quality_convs: int | None = 3,
        **options: Any,
    ):
        check_losses(options)
        super().__init__(rule=rule, quality_convs=quality_convs, **options)
        check_choice("BOX_WEIGHTS", box_weights, ("", "centerness", "label"))
        self.background, self.box_weights = background, box_weights

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        super().add_config(node)
        node.RULE = "O2F(k=7, alpha=0.8, t_max=0.6, t_min=0.2, schedule=step, epochs=12)"
        node.QUALITY.ENABLED = True
        # Factor on the background's focal loss, without its alpha (o2f).
        node.BACKGROUND_WEIGHT = 0.75
        # Weights of the box loss: "" for none, "centerness" (o2f as released) or "label" (TOOD).
        node.BOX_WEIGHTS = "centerness"

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str, in_channels: int) -> dict[str, Any]:
        node = cfg.MODEL.DEFCN[name]
        own = {"background": node.BACKGROUND_WEIGHT, "box_weights": node.BOX_WEIGHTS}
        return {**super().from_config(cfg, name, in_channels), **own}

    def terms(self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> dict[str, Tensor]:
        """
        Returns:
            scalars "cls" and "box", weighted and normalised.
        """
        logits, classes = predictions.score_logits().flatten(0, 1), objects.classes[pairs.object]
        cls = weighted_loss_sum(
            logits,
            pairs.point,
            classes,
            *pairs.weights,
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
        return {"cls": self.cls_weight * cls / count, "box": self.box_weight * box_sum / box_count}

    def count(self, objects: Objects, pairs: Pairs) -> Tensor:
        """What the classification loss is divided by."""
        if self.normalizer == "labels":
            return worker_mean(soft_label(pairs).sum())
        return super().count(objects, pairs)

    def _box_weights(self, points: Points, objects: Objects, pairs: Pairs) -> Tensor:
        return soft_label(pairs) if self.box_weights == "label" else centerness_target(points, objects, pairs)


def check_losses(options: dict[str, Any]) -> None:
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
    positive, negative = pairs.weights
    total = positive + negative
    return torch.where(total > 0, positive / total.clamp(min=torch.finfo(total.dtype).tiny), 0.0)
