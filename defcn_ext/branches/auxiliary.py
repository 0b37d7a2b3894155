"""DeFCN's auxiliary one-to-many loss (section 3.2.3): a branch without a predictor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from defcn_ext.assignment import Rule
from defcn_ext.losses import focal_loss_sum, worker_mean
from defcn_ext.structures import DensePredictions, HeadFeatures, Objects, Pairs, Points
from detectron2.config import CfgNode, configurable

from .base import Branch
from .registry import BRANCH_REGISTRY


@BRANCH_REGISTRY.register("auxiliary")
class AuxiliaryBranch(Branch):
    """Trains the class scores of another branch, before its objectness, with one-to-many targets.

    Args:
        rule: label assignment; it sees the scores without the objectness.
        cls_weight: weight of the focal loss.
        options: those of `Branch`.
    """

    predicts = False
    reads_features = False
    reads_base = True

    @configurable
    def __init__(self, *, rule: Rule | str = "QualityATSS", cls_weight: float = 1.0, **options: Any):
        super().__init__(rule, **options)
        self.cls_weight = cls_weight

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        super().add_config(node)
        node.RULE = "QualityATSS(k=9, alpha=0.8)"
        # Weight of the focal loss (DeFCN 3.2.3).
        node.CLS_WEIGHT = 1.0

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str, in_channels: int) -> dict[str, Any]:
        node = cfg.MODEL.DEFCN[name]
        return {**super().from_config(cfg, name, in_channels), "cls_weight": node.CLS_WEIGHT}

    def forward(
        self, points: Points, features: HeadFeatures | None, base: DensePredictions | None = None
    ) -> DensePredictions:
        """The predictions of the base without their objectness."""
        assert base is not None, "an auxiliary branch stands on another one"
        return base.without_objectness()

    def terms(self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> dict[str, Tensor]:
        """The focal loss over its own number of positives, as "cls". Boxes are left to the base."""
        count = worker_mean(torch.full((), float(len(pairs)), device=objects.boxes.device))
        logits, classes = predictions.logits.flatten(0, 1), objects.classes[pairs.object]
        loss = focal_loss_sum(logits, pairs.point, classes, ignored=pairs.ignored)
        return {"cls": self.cls_weight * loss / count}
