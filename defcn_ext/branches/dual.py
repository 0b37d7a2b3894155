"""The branch of dual weighting (DW)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from defcn_ext.assignment import Rule
from defcn_ext.assignment.weighting import ClassCenterPrior, DualWeights
from defcn_ext.losses import dual_losses, worker_mean
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points
from detectron2.config import CfgNode, configurable

from .point import PointBranch
from .registry import BRANCH_REGISTRY
from .weighted import check_losses


@BRANCH_REGISTRY.register("dual")
class DualWeightingBranch(PointBranch):
    """Dual weighting's losses as released (DW, section 3; 50-dw, section 5).

    `DualWeightingBranch(num_classes=3)` is DW's.

    Args:
        cls_weight, box_weight: weights of the positive and of the box loss, each weighted by the positive weights and
            divided by the mean over the workers of the number of objects.
        neg_weight: weight of the negative loss, divided by the mean over the workers of the sum of 1 - P.
        neg_gamma: exponent g2 of the importance s^g2 of candidates as negatives (DW Eq. 8); other points have s^2.
        detach_negative: treat the importance of negatives as a constant (the paper).
        class_prior: keep the center prior's mean and width of each class in the state dict, in place of the rule's
            width for all.
        options: those of `PointBranch`; the normalizers are those above.

    Raises:
        ValueError: as for `WeightedBranch`.
    """

    weighted = dual = True
    normalizers = ("positives",)

    @configurable
    def __init__(
        self,
        *,
        rule: Rule | str = "DW",
        cls_weight: float = 0.25,
        box_weight: float = 1.25,
        neg_weight: float = 1.0,
        neg_gamma: float = 2.0,
        detach_negative: bool = False,
        class_prior: bool = False,
        quality_convs: int | None = 0,
        box_bias: float = 4.0,
        **options: Any,
    ):
        check_losses(options)
        if neg_gamma < 0:
            raise ValueError(f"NEG_GAMMA: must not be negative, got {neg_gamma}")
        super().__init__(
            rule=rule,
            cls_weight=cls_weight,
            box_weight=box_weight,
            quality_convs=quality_convs,
            box_bias=box_bias,
            **options,
        )
        self.neg_weight, self.neg_gamma, self.detach_negative = neg_weight, neg_gamma, detach_negative
        if class_prior:
            self._keep_prior(options["num_classes"])

    def _keep_prior(self, num_classes: int) -> None:
        weighting = self.rule.weighting
        if not isinstance(weighting, DualWeights) or weighting.prior is None:
            raise ValueError("CLASS_PRIOR: the RULE has no center prior to be kept for each class")
        self.center_prior = ClassCenterPrior(num_classes)
        self.rule = replace(self.rule, weighting=replace(weighting, prior=self.center_prior))

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        super().add_config(node)
        node.RULE = "DW(mu=5, beta=5)"
        # Weights of the positive loss and of the box loss (50-dw, section 5).
        node.CLS_WEIGHT = 0.25
        node.BOX_WEIGHT = 1.25
        node.BOX_BIAS = 4.0
        node.QUALITY.ENABLED = True
        node.QUALITY.CONVS = 0
        # Weight of the negative loss, exponent g2 of the importance s^g2 of candidates as negatives (DW Eq. 8), whether
        # it is a constant (DW's paper) or not (release).
        node.NEG_WEIGHT = 1.0
        node.NEG_GAMMA = 2.0
        node.DETACH_NEGATIVE = False
        # Whether the center prior has a mean and a width for each class and axis, which lie in the checkpoint; for
        # converted weights whose own are not the 0 and 1.11 strides of the release.
        node.CLASS_PRIOR = False

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str, in_channels: int) -> dict[str, Any]:
        node = cfg.MODEL.DEFCN[name]
        own = {
            "neg_weight": node.NEG_WEIGHT,
            "neg_gamma": node.NEG_GAMMA,
            "detach_negative": node.DETACH_NEGATIVE,
            "class_prior": node.CLASS_PRIOR,
        }
        return {**super().from_config(cfg, name, in_channels), **own}

    def terms(self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> dict[str, Tensor]:
        """
        Returns:
            scalars "cls_pos", "cls_neg" and "box", weighted and normalised.
        """
        positive, negative, spared = dual_losses(
            predictions.score_logits().flatten(0, 1),
            pairs.point,
            objects.classes[pairs.object],
            *pairs.weights,
            ignored=self.ignored(points, objects, pairs),
            candidate_gamma=self.neg_gamma,
            detach_importance=self.detach_negative,
        )
        box = (self.box_loss_of(points, predictions, objects, pairs) * pairs.weights[0]).sum()
        count = worker_mean(torch.full((), float(len(objects)), device=objects.boxes.device))
        return {
            "cls_pos": self.cls_weight * positive / count,
            "cls_neg": self.neg_weight * negative / worker_mean(spared),
            "box": self.box_weight * box / count,
        }
