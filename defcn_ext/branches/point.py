"""The branch of one box a point: the one-to-one branches of DeFCN and DATE, and FCOS beside them or alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defcn_ext.assignment import Rule
from defcn_ext.layers import BoxRefinement, MaxFiltering
from defcn_ext.layers.towers import HeadFeatures, SharedHead, conv3x3
from defcn_ext.losses import focal_loss_sum, giou_loss, iou_loss, normalized_l1, worker_mean
from defcn_ext.losses.boxes import EPS
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points

from .base import Branch

SCORE_MAP_CHANNELS = 64  # of the convs before it
MAX_LOG_DISTANCE = math.log(1e5)  # beyond any image, and far from where areas overflow


class PointBranch(Branch):
    """A predictor of one box a point, an assignment rule and a loss.

    Args:
        in_channels: C of the towers.
        num_classes: K.
        prior_prob: score of every class at the start.
        rule: label assignment.
        cls_weight, box_weight, l1_weight: weights of the focal loss, of the box loss, and of the L1 loss of the box as
            shares of its image.
        loss_weight: multiplies all of the branch's losses (DATE's lambda).
        box_loss: "giou" or "iou" (-log IoU).
        normalizer: what the losses are divided by: "positives", their mean over the workers, or "images", for each
            worker the sum over its images of max(1, positives).
        box_form: "relu": distances are `max(0, scale t) stride`; "exp": `exp(scale t)` pixels.
        centerness: "cls" or "reg", the tower that predicts it; "" for none.
        centerness_score: "sqrt" or "product", how it enters the final score.
        max_filtering: the 3D Max Filtering layer, or None.
        quality_convs: convs before the map that multiplies all class scores, read from the box tower or from 3D Max
            Filtering: 0 for none but the last (DeFCN), 1 to 3 (o2f); None for no such map, unless there is 3D Max
            Filtering.
        refinement: reads the sides of the boxes again near their boundaries (DW), or None.
        box_bias: of the box conv at the start; 4 in DW, where boxes must not start empty.
        towers: towers of the branch's own, or None to share the model's.

    Raises:
        ValueError: an option is none of those named.
    """

    box_forms: tuple[str, ...] = ("relu", "exp")
    box_losses: tuple[str, ...] = ("giou", "iou")
    normalizers: tuple[str, ...] = ("positives", "images")
    per_cell: int = 1

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        prior_prob: float,
        rule: Rule,
        cls_weight: float = 1.0,
        box_weight: float = 2.0,
        l1_weight: float = 0.0,
        loss_weight: float = 1.0,
        box_loss: str = "giou",
        normalizer: str = "positives",
        box_form: str = "relu",
        centerness: str = "",
        centerness_score: str = "sqrt",
        max_filtering: MaxFiltering | None = None,
        quality_convs: int | None = None,
        refinement: BoxRefinement | None = None,
        box_bias: float = 0.0,
        towers: SharedHead | None = None,
    ):
        super().__init__(rule)
        check_choice("BOX_FORM", box_form, self.box_forms)
        check_choice("BOX_LOSS", box_loss, self.box_losses)
        check_choice("NORMALIZER", normalizer, self.normalizers)
        check_choice("CENTERNESS", centerness, ("", "cls", "reg"))
        check_choice("CENTERNESS_SCORE", centerness_score, ("sqrt", "product"))
        self.cls_weight, self.box_weight, self.l1_weight = cls_weight, box_weight, l1_weight
        self.loss_weight, self.box_loss, self.normalizer, self.box_form = loss_weight, box_loss, normalizer, box_form
        self.centerness_tower, self.centerness_score = centerness, centerness_score
        prior_bias = -math.log((1 - prior_prob) / prior_prob)
        self.towers = towers
        self.cls_score = conv3x3(in_channels, num_classes * self.per_cell, bias_value=prior_bias)
        self.bbox_pred = conv3x3(in_channels, 4 * self.per_cell, bias_value=box_bias)
        self.centerness = conv3x3(in_channels, 1) if centerness else None
        self.max3d = max_filtering
        if max_filtering is not None and quality_convs is None:
            quality_convs = 0
        self.filter = None if quality_convs is None else score_map(in_channels, quality_convs)
        self.refinement = refinement

    def forward(
        self, points: Points, features: HeadFeatures, first: DensePredictions | None = None
    ) -> DensePredictions:
        """Predicts at every point. `first`, the predictions of the model's first branch, is not looked at."""
        box_tower, cls_tower = features.box, features.cls
        if self.towers is not None:
            own = self.towers(features.pyramid)
            box_tower, cls_tower = own.box, own.cls
        raw_boxes = [scale(self.bbox_pred(x).float()) for x, scale in zip(box_tower, features.scales)]
        raw = flatten_levels(raw_boxes, self.per_cell)
        boxes = self.decode(points, raw)
        filters = centerness = None
        if self.filter is not None:
            tower = box_tower if self.max3d is None else self.max3d(box_tower)
            filters = flatten_levels([self.filter(x) for x in tower])
        if self.centerness is not None:
            tower = cls_tower if self.centerness_tower == "cls" else box_tower
            centerness = flatten_levels([self.centerness(x) for x in tower])
        return DensePredictions(
            logits=flatten_levels([self.cls_score(x) for x in cls_tower], self.per_cell),
            boxes=boxes if self.refinement is None else self.refinement(box_tower, points, boxes),
            filter=filters,
            centerness=centerness,
            deltas=raw if self.box_loss == "delta_l1" else None,
        )

    def decode(self, points: Points, raw: Tensor) -> Tensor:
        """Boxes (N, R, 4) from raw outputs (N, R, 4), times their level's factor (00-common, section 4)."""
        if self.box_form == "exp":
            return points.boxes(raw.clamp(max=MAX_LOG_DISTANCE).exp())
        return points.boxes(F.relu(raw) * points.stride[:, None])

    def losses(
        self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs
    ) -> dict[str, Tensor]:
        """Focal loss of all points, box losses of the positives, and centerness where there is one (00-common, 5-6).

        Returns:
            scalars "cls", "box", and perhaps "l1" and "centerness", weighted and normalised.
        """
        count = self.count(objects, pairs)
        classes = objects.classes[pairs.object]
        logits = predictions.score_logits().flatten(0, 1)
        cls = focal_loss_sum(logits, pairs.point, classes, ignored=self.ignored(points, objects, pairs))
        box = self.box_loss_of(points, predictions, objects, pairs)
        losses = {"cls": self.cls_weight * cls / count}
        if predictions.centerness is None:
            losses["box"] = self.box_weight * box.sum() / count
        else:
            target = centerness_target(points, objects, pairs)
            guess = predictions.centerness.flatten()[pairs.point].float()
            losses["box"] = self.box_weight * (box * target).sum() / worker_mean(target.sum())
            losses["centerness"] = F.binary_cross_entropy_with_logits(guess, target, reduction="sum") / count
        if self.l1_weight:
            losses["l1"] = self.l1_weight * self._l1(predictions, objects, pairs).sum() / count
        return {name: self.loss_weight * value for name, value in losses.items()}

    def count(self, objects: Objects, pairs: Pairs) -> Tensor:
        """What the losses are divided by."""
        if self.normalizer == "positives":
            return worker_mean(torch.full((), float(len(pairs)), device=objects.boxes.device))
        image = objects.image[pairs.object]
        return torch.bincount(image, minlength=len(objects.image_sizes)).clamp(min=1).sum().float()

    def ignored(self, points: Points, objects: Objects, pairs: Pairs) -> Tensor | None:
        """(I,) points that the class loss leaves out, or None."""
        return pairs.ignored

    def box_loss_of(self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> Tensor:
        """(P,) the box loss of each pair, without weight."""
        loss = giou_loss if self.box_loss == "giou" else iou_loss
        return loss(predictions.boxes.flatten(0, 1)[pairs.point], objects.boxes[pairs.object])

    def _l1(self, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> Tensor:
        sizes = objects.image_sizes[objects.image[pairs.object]]
        boxes = predictions.boxes.flatten(0, 1)[pairs.point]
        return normalized_l1(boxes, objects.boxes[pairs.object], sizes)

    def final_scores(self, scores: Tensor, centerness: Tensor) -> Tensor:
        """Joins class scores with centerness logits of the same shape."""
        product = scores * centerness.float().sigmoid()
        return product.sqrt() if self.centerness_score == "sqrt" else product


def score_map(in_channels: int, num_convs: int) -> nn.Module:
    """A map of one channel: `num_convs` convs of 64 channels with norm and ReLU before the last (o2f, section 3.4).

    Raises:
        ValueError: the number is negative.
    """
    if num_convs < 0:
        raise ValueError(f"QUALITY.CONVS: must not be negative, got {num_convs}")
    last = conv3x3(in_channels if num_convs == 0 else SCORE_MAP_CHANNELS, 1)
    if num_convs == 0:
        return last
    layers: list[nn.Module] = []
    for index in range(num_convs):
        conv = conv3x3(in_channels if index == 0 else SCORE_MAP_CHANNELS, SCORE_MAP_CHANNELS)
        layers += [conv, nn.GroupNorm(32, SCORE_MAP_CHANNELS), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, last)


def flatten_levels(maps: Sequence[Tensor], per_cell: int = 1) -> Tensor:
    """(N, A C, H_l, W_l) of each level to (N, R, C), where A is the number of points of a cell."""
    flat = torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps], dim=1)
    return flat if per_cell == 1 else flat.unflatten(2, (per_cell, -1)).flatten(1, 2)


def centerness_target(points: Points, objects: Objects, pairs: Pairs) -> Tensor:
    """(P,) `sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))` of points inside their object (FCOS Eq. 3)."""
    xy = points.xy[pairs.point % len(points)]
    box = objects.boxes[pairs.object]
    left_top, right_bottom = xy - box[:, :2], box[:, 2:] - xy
    ratio = torch.minimum(left_top, right_bottom) / torch.maximum(left_top, right_bottom).clamp(min=EPS)
    return ratio.clamp(min=0).prod(-1).sqrt()


def check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{key}: unknown value {value!r}; known: {', '.join(map(repr, known))}")
