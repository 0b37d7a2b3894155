"""Peaks: of boxes over one place only the best nearby keeps its score, which makes NMS needless without training."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from defcn_ext.layers import max_over_rivals
from defcn_ext.losses.focal import product_logit
from defcn_ext.structures import DensePredictions, HeadFeatures, Points
from defcn_ext.structures.predictions import HIGH
from detectron2.config import CfgNode, configurable

from .registry import BRANCH_REGISTRY
from .standing import StandingBranch


@BRANCH_REGISTRY.register("peaks")
class PeaksBranch(StandingBranch):
    """Lowers the scores of points that have a better rival; nothing is trained, and nothing is removed.

    A rival is a neighbour in space or in scale of the same best class whose box overlaps the point's own
    (`max_over_rivals`). It is a suppression, and says so: what sets it apart from NMS is that each point looks at a
    fixed number of neighbours, all points at once, so that it is a part of the graph like a max filter, as is DeFCN's
    3D Max Filtering of scores (Table 5), to which it adds the look at the boxes.

    >>> points, peaks = Points.from_sizes([(1, 3)], strides=[8]), PeaksBranch(factor=0.5)
    >>> boxes = torch.tensor([[[0.0, 0, 10, 10], [1, 0, 11, 10], [9, 0, 19, 10]]])
    >>> base = DensePredictions(torch.tensor([[[2.0], [0.0], [0.0]]]), boxes)
    >>> [round(x, 2) for x in peaks(points, None, base).score_logits().sigmoid().flatten().tolist()]
    [0.88, 0.25, 0.5]

    Args:
        iou: rivals overlap by more than this.
        factor: of the class score of a point that has a better rival; 0 removes it. A soft factor keeps what may still
            be the better box, ranked behind.
        tau: number of neighbouring levels taken in, half of them on each side; even.
        kernel: side of the window, in cells of the coarser of two levels; odd.
        over_classes: whether points of other classes are rivals too.
        base: lower-case name of the branch whose predictions it reads.

    Raises:
        ValueError: a number is out of range.
    """

    trains = reads_features = False

    @configurable
    def __init__(
        self,
        *,
        iou: float = 0.7,
        factor: float = 0.3,
        tau: int = 2,
        kernel: int = 3,
        over_classes: bool = False,
        base: str = "",
        per_cell: int = 1,
    ):
        super().__init__("POTO", base=base)
        if not 0 <= iou < 1 or not 0 <= factor <= 1:
            raise ValueError(f"IOU must lie in [0, 1) and FACTOR in [0, 1], got {iou} and {factor}")
        if tau < 0 or tau % 2 or kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"TAU must be even and not negative, KERNEL odd and positive, got {tau} and {kernel}")
        self.iou, self.factor, self.tau, self.kernel, self.over_classes = iou, factor, tau, kernel, over_classes
        self.per_cell = per_cell

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        # The branch before it whose predictions it reads; "" for the first.
        node.BASE = ""
        # Points are rivals whose boxes overlap by more than this.
        node.IOU = 0.7
        # Of the class score of a point with a better rival; 0 removes it.
        node.FACTOR = 0.3
        # The neighbourhood: levels, half of them on each side, and cells of the coarser level a side.
        node.TAU = 2
        node.KERNEL = 3
        # Whether points of other classes are rivals too.
        node.OVER_CLASSES = False

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str, in_channels: int) -> dict[str, Any]:
        node = cfg.MODEL.DEFCN[name]
        return {
            "iou": node.IOU,
            "factor": node.FACTOR,
            "tau": node.TAU,
            "kernel": node.KERNEL,
            "over_classes": node.OVER_CLASSES,
            "base": cls.leans_on(cfg, name)["base"],
            "per_cell": cls.points_of_cell(cfg, name),
        }

    def final_scores(self, scores: Tensor, centerness: Tensor) -> Tensor:
        """As the base joins them."""
        return (
            self._base[0].final_scores(scores, centerness) if self._base else super().final_scores(scores, centerness)
        )

    def forward(
        self, points: Points, features: HeadFeatures | None, base: DensePredictions | None = None
    ) -> DensePredictions:
        """The predictions of the base, whose class scores are multiplied by `factor` where there is a better rival."""
        assert base is not None, "peaks are those of another branch"
        best, label = base.score_logits().detach().max(-1)
        if base.centerness is not None:
            best = product_logit(best, base.centerness.detach()[..., 0].float())
        if self.over_classes:
            label = torch.zeros_like(label)
        highest = max_over_rivals(
            best, base.boxes.detach(), label, self.places(points), iou=self.iou, tau=self.tau, kernel=self.kernel
        )
        factor = torch.where(best >= highest, HIGH, _logit(self.factor))
        return replace(base.times(factor[..., None]), base=base)

    def try_rule(self) -> None:
        """There is no rule that might not suit."""


def _logit(probability: float) -> float:
    if probability in (0, 1):
        return HIGH if probability else -HIGH
    return math.log(probability) - math.log1p(-probability)
