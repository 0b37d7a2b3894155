"""The branch of one box a point: DeFCN's one-to-one branch, and its FCOS baseline."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from defcn_ext.assignment import Rule
from defcn_ext.head import HeadFeatures, conv3x3
from defcn_ext.layers import MaxFiltering
from defcn_ext.losses import focal_loss_sum, giou_loss, worker_mean
from defcn_ext.losses.boxes import EPS
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points

from .base import Branch

MAX_LOG_DISTANCE = math.log(1e5)  # beyond any image, and far from where areas overflow


class PointBranch(Branch):
    """A predictor, an assignment rule and a loss.

    Args:
        in_channels: C of the towers.
        num_classes: K.
        prior_prob: score of every class at the start.
        rule: label assignment.
        cls_weight, box_weight: weights of the focal and of the GIoU loss.
        box_form: "relu": distances are `max(0, scale t) stride`; "exp": `exp(scale t)` pixels.
        centerness: "cls" or "reg", the tower that predicts it; "" for none.
        centerness_score: "sqrt" or "product", how it enters the final score.
        max_filtering: the 3D Max Filtering layer, or None.

    Raises:
        ValueError: an option is none of those named.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        prior_prob: float,
        rule: Rule,
        cls_weight: float = 1.0,
        box_weight: float = 2.0,
        box_form: str = "relu",
        centerness: str = "",
        centerness_score: str = "sqrt",
        max_filtering: MaxFiltering | None = None,
    ):
        super().__init__(rule)
        _check_choice("BOX_FORM", box_form, ("relu", "exp"))
        _check_choice("CENTERNESS", centerness, ("", "cls", "reg"))
        _check_choice("CENTERNESS_SCORE", centerness_score, ("sqrt", "product"))
        self.cls_weight, self.box_weight = cls_weight, box_weight
        self.box_form = box_form
        self.centerness_tower, self.centerness_score = centerness, centerness_score
        prior_bias = -math.log((1 - prior_prob) / prior_prob)
        self.cls_score = conv3x3(in_channels, num_classes, bias_value=prior_bias)
        self.bbox_pred = conv3x3(in_channels, 4)
        self.centerness = conv3x3(in_channels, 1) if centerness else None
        self.max3d = max_filtering
        self.filter = conv3x3(in_channels, 1) if max_filtering is not None else None

    def forward(
        self, points: Points, features: HeadFeatures, first: DensePredictions | None = None
    ) -> DensePredictions:
        """Predicts at every point. `first`, the predictions of the model's first branch, is not looked at."""
        raw_boxes = [scale(self.bbox_pred(x).float()) for x, scale in zip(features.box, features.scales)]
        filters = centerness = None
        if self.max3d is not None:
            filters = flatten_levels([self.filter(x) for x in self.max3d(features.box)])
        if self.centerness is not None:
            tower = features.cls if self.centerness_tower == "cls" else features.box
            centerness = flatten_levels([self.centerness(x) for x in tower])
        return DensePredictions(
            logits=flatten_levels([self.cls_score(x) for x in features.cls]),
            boxes=points.boxes(self._distances(flatten_levels(raw_boxes), points)),
            filter=filters,
            centerness=centerness,
        )

    def _distances(self, raw: Tensor, points: Points) -> Tensor:
        if self.box_form == "exp":
            return raw.clamp(max=MAX_LOG_DISTANCE).exp()
        return F.relu(raw) * points.stride[:, None]

    def losses(
        self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs
    ) -> dict[str, Tensor]:
        """Focal loss of all points, GIoU loss of the positives, and centerness where there is one (00-common, 5-6).

        Returns:
            scalars "cls", "box" and perhaps "centerness", weighted and normalised.
        """
        count = worker_mean(torch.full((), float(len(pairs)), device=objects.boxes.device))
        classes = objects.classes[pairs.object]
        cls = focal_loss_sum(predictions.score_logits().flatten(0, 1), pairs.point, classes)
        giou = giou_loss(predictions.boxes.flatten(0, 1)[pairs.point], objects.boxes[pairs.object])
        losses = {"cls": self.cls_weight * cls / count}
        if predictions.centerness is None:
            losses["box"] = self.box_weight * giou.sum() / count
            return losses
        target = centerness_target(points, objects, pairs)
        logits = predictions.centerness.flatten()[pairs.point].float()
        losses["box"] = self.box_weight * (giou * target).sum() / worker_mean(target.sum())
        losses["centerness"] = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") / count
        return losses

    def final_scores(self, scores: Tensor, centerness: Tensor) -> Tensor:
        """Joins class scores with centerness logits of the same shape."""
        product = scores * centerness.float().sigmoid()
        return product.sqrt() if self.centerness_score == "sqrt" else product


def flatten_levels(maps: Sequence[Tensor]) -> Tensor:
    """(N, C, H_l, W_l) of each level to (N, R, C)."""
    return torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps], dim=1)


def centerness_target(points: Points, objects: Objects, pairs: Pairs) -> Tensor:
    """(P,) `sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))` of points inside their object (FCOS Eq. 3)."""
    xy = points.xy[pairs.point % len(points)]
    box = objects.boxes[pairs.object]
    left_top, right_bottom = xy - box[:, :2], box[:, 2:] - xy
    ratio = torch.minimum(left_top, right_bottom) / torch.maximum(left_top, right_bottom).clamp(min=EPS)
    return ratio.clamp(min=0).prod(-1).sqrt()


def _check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{key}: unknown value {value!r}; known: {', '.join(map(repr, known))}")
