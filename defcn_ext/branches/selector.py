"""The selector: a map that says which of the points that fire on an object is the one to keep (PSS)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from defcn_ext.assignment import Rule
from defcn_ext.layers import MaxFiltering, build_norm
from defcn_ext.layers.towers import conv3x3
from defcn_ext.losses import focal_loss_sum, ranking_loss, worker_mean
from defcn_ext.structures import DensePredictions, HeadFeatures, Objects, Pairs, Points
from detectron2.config import CfgNode, configurable

from .base import check_choice
from .point import build_max_filtering, flatten_levels
from .registry import BRANCH_REGISTRY
from .standing import StandingBranch

READS = ("reg", "cls", "both")


@BRANCH_REGISTRY.register("selector")
class SelectorBranch(StandingBranch):
    """One more map `e` on a one-to-many branch, its base, makes NMS needless (Zhou et al., arXiv 2101.11782).

    The score of a point is `sigma(class) sigma(objectness) sigma(centerness) sigma(e)`, as far as the base has these
    maps; the boxes are the base's. This product is trained one-to-one by focal loss, divided by the number of objects.
    By default no gradient of it reaches the features or the base's scores, so that the base learns what it would learn
    alone, to the bit, also from the same seed.

    `SelectorBranch(in_channels=256)` stands on points; what it stands on is the third argument of `forward`.

    Args:
        in_channels: C of the towers.
        rule: label assignment, one-to-one; with several anchors a cell one that knows them, such as
            "Combine(candidates=overlapping_anchors, quality=poto, selection=matching)".
        num_convs: 3x3 convs of C channels with GN and ReLU before the one that ends in the map.
        reads: tower that the map is computed from, "reg" (the paper), "cls", or "both" on top of each other.
        bias: of the map at the start; at 0 every score starts halved, the order stays the base's.
        max_filtering: 3D Max Filtering of what the map is computed from, or None.
        detach_base: stop the gradient at the base's scores too.
        rule_reads: the scores that the rule sees: the "product", or those of the "base".
        ranking_weight: lambda of the ranking term; 0 for none.
        ranking_margin, ranking_negatives: its gamma_r, and the highest negatives of an image that it looks at.
        per_cell: number of points of a cell of the base; the map has a channel for each.
        detach: stop the gradient at the features.
        options: those of `Branch`.

    Raises:
        ValueError: an option is none of those named, or a number is negative.
    """

    draws_aside = True

    @configurable
    def __init__(
        self,
        *,
        in_channels: int = 256,
        rule: Rule | str = "POTO",
        num_convs: int = 2,
        reads: str = "both",
        bias: float = 0.0,
        max_filtering: MaxFiltering | None = None,
        detach_base: bool = True,
        rule_reads: str = "product",
        ranking_weight: float = 0.0,
        ranking_margin: float = 0.5,
        ranking_negatives: int = 100,
        per_cell: int = 1,
        detach: bool = True,
        **options: Any,
    ):
        super().__init__(rule, detach=detach, **options)
        check_choice("READS", reads, READS)
        check_choice("RULE_READS", rule_reads, ("product", "base"))
        if num_convs < 0 or ranking_weight < 0 or ranking_negatives < 1:
            raise ValueError("CONVS, RANKING.WEIGHT: must not be negative, nor RANKING.NEGATIVES below 1")
        self.reads, self.rule_reads, self.detach_base, self.per_cell = reads, rule_reads, detach_base, per_cell
        self.ranking_weight, self.ranking_margin = ranking_weight, ranking_margin
        self.ranking_negatives = ranking_negatives
        self.max3d = max_filtering
        self.map = _selector_map(channels_read(in_channels, reads), in_channels, num_convs, per_cell, bias)

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        super().add_config(node)
        # TOWERS "" is here for what the base predicts from. No gradient reaches these features, nor the base's scores:
        # to stop only one of the two is neither of the paper's variants.
        node.DETACH = True
        node.DETACH_BASE = True
        # The map: 3x3 convs of as many channels as the towers before its last, the tower it reads, "reg" (the paper),
        # "cls" or "both", and its bias at the start, where 0 halves all scores of the base.
        node.CONVS = 2
        node.READS = "both"
        node.BIAS = 0.0
        # Which scores the rule sees: the "product", or those of the "base".
        node.RULE_READS = "product"
        # Ranking term: lambda (0 for none; 0.25 in the paper), the margin between positives and negatives, and of how
        # many negatives of an image, the highest.
        node.RANKING = CfgNode()
        node.RANKING.WEIGHT = 0.0
        node.RANKING.MARGIN = 0.5
        node.RANKING.NEGATIVES = 100
        # 3D Max Filtering of what the map reads: neighbouring levels, cells of the window, the norm after it.
        node.MAX_FILTERING = CfgNode()
        node.MAX_FILTERING.ENABLED = False
        node.MAX_FILTERING.TAU = 2
        node.MAX_FILTERING.KERNEL = 3
        node.MAX_FILTERING.NORM = "GN"

    @classmethod
    def leans_on(cls, cfg: CfgNode, name: str) -> dict[str, str]:
        """Its base, from whose features it also predicts unless TOWERS says otherwise."""
        needs = super().leans_on(cfg, name)
        return needs if cfg.MODEL.DEFCN[name].TOWERS else {**needs, "features_of": needs["base"]}

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str, in_channels: int) -> dict[str, Any]:
        node = cfg.MODEL.DEFCN[name]
        check_choice("READS", node.READS, READS)
        return {
            **super().from_config(cfg, name, in_channels),
            "in_channels": in_channels,
            "num_convs": node.CONVS,
            "reads": node.READS,
            "bias": node.BIAS,
            "max_filtering": build_max_filtering(node.MAX_FILTERING, channels_read(in_channels, node.READS)),
            "detach_base": node.DETACH_BASE,
            "rule_reads": node.RULE_READS,
            "ranking_weight": node.RANKING.WEIGHT,
            "ranking_margin": node.RANKING.MARGIN,
            "ranking_negatives": node.RANKING.NEGATIVES,
            "per_cell": cls.points_of_cell(cfg, name),
        }

    @property
    def stands_apart(self) -> bool:
        return self.detach and self.detach_base

    def forward(self, points: Points, features: HeadFeatures, base: DensePredictions | None = None) -> DensePredictions:
        """The boxes of the base; its scores, times those of the map."""
        assert base is not None, "a selector stands on another branch"
        seen = self.see(features)
        judged = with_centerness(base.detach() if self.detach_base else base)
        selection = self.select(self.inputs(seen))
        return replace(judged.times(selection), deltas=None, features=seen, base=judged)

    def inputs(self, seen: HeadFeatures) -> list[Tensor]:
        """What the map is computed from, (N, C or 2 C, H_l, W_l) a level."""
        if self.reads == "both":
            levels = [torch.cat(pair, dim=1) for pair in zip(seen.cls, seen.box)]
        else:
            levels = list(seen.cls if self.reads == "cls" else seen.box)
        return levels if self.max3d is None else self.max3d(levels)

    def select(self, levels: Sequence[Tensor]) -> Tensor:
        """(N, R, 1) logits of the map."""
        return flatten_levels([self.map(x) for x in levels], self.per_cell)

    def assign(self, points: Points, predictions: DensePredictions, objects: Objects, progress: float = 0.0) -> Pairs:
        """As for all branches, on the product or on the base's scores alone."""
        judged = predictions if self.rule_reads == "product" else predictions.base
        assert judged is not None
        return super().assign(points, judged, objects, progress)

    def terms(self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> dict[str, Tensor]:
        """
        Returns:
            scalars "cls", the focal loss of the product over the number of objects, and perhaps "rank", the mean of
            the images' ranking terms.
        """
        logits, classes = predictions.score_logits(), objects.classes[pairs.object]
        focal = focal_loss_sum(logits.flatten(0, 1), pairs.point, classes, ignored=pairs.ignored)
        count = worker_mean(torch.full((), float(len(objects)), device=objects.boxes.device))
        losses = {"cls": focal / count}
        if self.ranking_weight:
            ranking = ranking_loss(
                logits,
                pairs.point,
                classes,
                ignored=pairs.ignored,
                margin=self.ranking_margin,
                negatives=self.ranking_negatives,
            )
            losses["rank"] = self.ranking_weight * ranking / len(logits)
        return losses


def with_centerness(predictions: DensePredictions) -> DensePredictions:
    """The same, whose class scores the centerness multiplies, if there is one, whatever it does in the base."""
    centerness = predictions.centerness
    return predictions if centerness is None else replace(predictions, centerness=None).times(centerness)


def channels_read(in_channels: int, reads: str) -> int:
    """Of what the map is computed from, where the towers have `in_channels`."""
    return 2 * in_channels if reads == "both" else in_channels


def _selector_map(in_channels: int, channels: int, num_convs: int, per_cell: int, bias: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        norm = build_norm("GN", channels, "MODEL.FPN.OUT_CHANNELS")
        assert norm is not None
        layers += [conv3x3(in_channels, channels), norm, nn.ReLU(inplace=True)]
        in_channels = channels
    return nn.Sequential(*layers, conv3x3(in_channels, per_cell, bias_value=bias))
