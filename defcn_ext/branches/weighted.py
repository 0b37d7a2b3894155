"""The branch of soft labels: one-to-few and others whose rule weights its pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from defcn_ext.assignment import Rule
from defcn_ext.losses import soft_label, weighted_loss_sum, worker_mean
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
        background_gamma: exponent of the importance s^gamma of these entries: 2, 1.5 (MAL), 0 for a plain BCE.
        pair_gamma: exponent of the importance |s - t|^gamma of pairs, t the share `positive / (positive + negative)`; 0
            for none, 2 for quality focal loss.
        detach_importance: treat both importances as constants (DEIM's release).
        box_weights: "" for none; "centerness", the FCOS centerness of the point (o2f as released); "label", the share
            t. The box loss is divided by the mean over the workers of their sum, of "centerness" however small (40-o2f,
            section 6.2), of "label" at least 1 (TOOD). "rule", those that the rule gives (`ia_bce`), with the divisor
            of the class loss.
        normalizer: that of `PointBranch`; "labels", the sum of the shares t; or "objects", their number; of both the
            mean over the workers. The class loss is divided by it, and the box loss where nothing else is said above.
        options: those of `PointBranch`.

    Raises:
        ValueError: an option is none of those named, or has no meaning here; or the rule does not fit.
    """

    weighted = True
    normalizers = (*PointBranch.normalizers, "labels", "objects")

    @configurable
    def __init__(
        self,
        *,
        rule: Rule | str = "O2F",
        background: float = 0.75,
        background_gamma: float = 2.0,
        pair_gamma: float = 0.0,
        detach_importance: bool = False,
        box_weights: str = "centerness",
        quality_convs: int | None = 3,
        **options: Any,
    ):
        check_losses(options)
        super().__init__(rule=rule, quality_convs=quality_convs, **options)
        check_choice("BOX_WEIGHTS", box_weights, ("", "centerness", "label", "rule"))
        if background_gamma < 0:
            raise ValueError(f"BACKGROUND_GAMMA: must not be negative, got {background_gamma}")
        if pair_gamma != 0 and not pair_gamma >= 1:  # below 1 the gradient has no bound at s = t
            raise ValueError(f"PAIR_GAMMA: must be 0 or at least 1, got {pair_gamma}")
        self.background, self.background_gamma = background, background_gamma
        self.pair_gamma, self.detach_importance = pair_gamma, detach_importance
        self.box_weights = box_weights

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        super().add_config(node)
        node.RULE = "O2F(k=7, alpha=0.8, t_max=0.6, t_min=0.2, schedule=step, epochs=12)"
        node.QUALITY.ENABLED = True
        # Factor on the background's focal loss, without its alpha (o2f).
        node.BACKGROUND_WEIGHT = 0.75
        # Exponent of the background's importance s^gamma: 2 (focal loss), 1.5 (MAL), 0 (plain BCE: YOLOv10).
        node.BACKGROUND_GAMMA = 2.0
        # Exponent of the importance |s - label|^gamma of pairs: 0 for none, 2 for quality focal loss (DDQ).
        node.PAIR_GAMMA = 0.0
        # Whether these importances are constants to the gradient (DEIM).
        node.DETACH_IMPORTANCE = False
        # Weights of the box loss: "" for none, "centerness" (o2f as released), "label" (TOOD), or "rule", those that
        # the RULE gives (ia_bce).
        node.BOX_WEIGHTS = "centerness"

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str, in_channels: int) -> dict[str, Any]:
        node = cfg.MODEL.DEFCN[name]
        own = {
            "background": node.BACKGROUND_WEIGHT,
            "background_gamma": node.BACKGROUND_GAMMA,
            "pair_gamma": node.PAIR_GAMMA,
            "detach_importance": node.DETACH_IMPORTANCE,
            "box_weights": node.BOX_WEIGHTS,
        }
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
            gamma=self.background_gamma,
            pair_gamma=self.pair_gamma,
            detach_importance=self.detach_importance,
        )
        count = self.count(objects, pairs)
        weight, box_count = self._box_weights(points, objects, pairs, count)
        box = (self.box_loss_of(points, predictions, objects, pairs) * weight).sum()
        return {"cls": self.cls_weight * cls / count, "box": self.box_weight * box / box_count}

    def count(self, objects: Objects, pairs: Pairs) -> Tensor:
        """What the classification loss is divided by."""
        if self.normalizer == "labels":
            return worker_mean(soft_label(*pairs.weights).sum())
        if self.normalizer == "objects":
            return worker_mean(torch.full((), float(len(objects)), device=objects.boxes.device))
        return super().count(objects, pairs)

    def _box_weights(
        self, points: Points, objects: Objects, pairs: Pairs, count: Tensor
    ) -> tuple[Tensor | float, Tensor]:
        """(P,) weights of the box loss, and what it is divided by."""
        if self.box_weights == "":
            return 1.0, count
        if self.box_weights == "rule":
            assert pairs.box is not None, "check_pairs sees to that"
            return pairs.box, count
        if self.box_weights == "label":
            weight = soft_label(*pairs.weights)
            return weight, worker_mean(weight.sum())
        weight = centerness_target(points, objects, pairs)
        return weight, worker_mean(weight.sum(), floor=1e-6)

    def check_pairs(self, pairs: Pairs) -> None:
        """
        Raises:
            ValueError: the boxes should have weights that the rule does not give.
        """
        if self.box_weights == "rule" and pairs.box is None:
            raise ValueError("BOX_WEIGHTS: 'rule' wants a RULE that gives some, such as a weighting of ia_bce")


def check_losses(options: dict[str, Any]) -> None:
    """
    Raises:
        ValueError: an option asks for a loss that only hard losses have beside them.
    """
    if options.get("centerness"):
        raise ValueError("CENTERNESS: only TYPE 'point' trains it; set it to '', and QUALITY.ENABLED to True instead")
    if options.get("l1_weight"):
        raise ValueError("L1_WEIGHT: only TYPE 'point' has this loss; set it to 0")
