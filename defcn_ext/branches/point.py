"""The branch of one box a point: the one-to-one branches of DeFCN and DATE, and FCOS beside them or alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defcn_ext.assignment import Rule
from defcn_ext.layers import BoxRefinement, MaxFiltering
from defcn_ext.layers.score_map import score_map
from defcn_ext.layers.towers import conv3x3
from defcn_ext.losses import focal_loss_sum, giou_loss, iou_loss, normalized_l1, worker_mean
from defcn_ext.losses.boxes import EPS
from defcn_ext.structures import DensePredictions, HeadFeatures, Objects, Pairs, Points
from detectron2.config import CfgNode, configurable

from .base import Branch, check_choice
from .registry import BRANCH_REGISTRY

MAX_LOG_DISTANCE = math.log(1e5)  # beyond any image, and far from where areas overflow


@BRANCH_REGISTRY.register("point")
class PointBranch(Branch):
    """A predictor of one box a point, an assignment rule and hard losses. `PointBranch(num_classes=3)` is POTO's.

    >>> branch, points = PointBranch(num_classes=3, in_channels=8), Points.from_sizes([(2, 2)], strides=[8])
    >>> features = HeadFeatures(cls=[torch.rand(1, 8, 2, 2)], box=[torch.rand(1, 8, 2, 2)])
    >>> objects = Objects.from_lists([[[1, 1, 9, 9]]], [[2]])
    >>> predictions = branch(points, features)
    >>> losses = branch.losses(points, predictions, objects, branch.assign(points, predictions, objects))
    >>> sorted(losses)
    ['box', 'cls']

    Args:
        num_classes: K.
        in_channels: C of the towers.
        prior_prob: score of every class at the start.
        rule: label assignment, or the text of one.
        cls_weight, box_weight, l1_weight: weights of the focal loss, of the box loss, and of the L1 loss of the box as
            shares of its image.
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
        quality_kernel: side of these convs, 3 (with norm) or 1 (without; DDQ).
        quality_score: "product" of the class score and the map, or its root, "sqrt" (DDQ).
        refinement: reads the sides of the boxes again near their boundaries (DW), or None.
        box_bias: of the box conv at the start; 4 in DW, where boxes must not start empty.
        options: those of `Branch`.

    Raises:
        ValueError: an option is none of those named.
    """

    box_forms: tuple[str, ...] = ("relu", "exp")
    box_losses: tuple[str, ...] = ("giou", "iou")
    normalizers: tuple[str, ...] = ("positives", "images")

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int = 256,
        prior_prob: float = 0.01,
        rule: Rule | str = "POTO",
        cls_weight: float = 1.0,
        box_weight: float = 2.0,
        l1_weight: float = 0.0,
        box_loss: str = "giou",
        normalizer: str = "positives",
        box_form: str = "relu",
        centerness: str = "",
        centerness_score: str = "sqrt",
        max_filtering: MaxFiltering | None = None,
        quality_convs: int | None = None,
        quality_kernel: int = 3,
        quality_score: str = "product",
        refinement: BoxRefinement | None = None,
        box_bias: float = 0.0,
        **options: Any,
    ):
        super().__init__(rule, **options)
        check_choice("BOX_FORM", box_form, self.box_forms)
        check_choice("BOX_LOSS", box_loss, self.box_losses)
        check_choice("NORMALIZER", normalizer, self.normalizers)
        check_choice("CENTERNESS", centerness, ("", "cls", "reg"))
        check_choice("CENTERNESS_SCORE", centerness_score, ("sqrt", "product"))
        check_choice("QUALITY.SCORE", quality_score, ("product", "sqrt"))
        self.cls_weight, self.box_weight, self.l1_weight = cls_weight, box_weight, l1_weight
        self.box_loss, self.normalizer, self.box_form = box_loss, normalizer, box_form
        self.centerness_tower, self.centerness_score = centerness, centerness_score
        prior_bias = -math.log((1 - prior_prob) / prior_prob)
        self.cls_score = conv3x3(in_channels, num_classes * self.per_cell, bias_value=prior_bias)
        self.bbox_pred = conv3x3(in_channels, 4 * self.per_cell, bias_value=box_bias)
        self.centerness = conv3x3(in_channels, self.per_cell) if centerness else None
        self.max3d = max_filtering
        if max_filtering is not None and quality_convs is None:
            quality_convs = 0
        # predicts the objectness; checkpoints know it by the name that DeFCN gave it
        map = None if quality_convs is None else score_map(in_channels, quality_convs, self.per_cell, quality_kernel)
        self.filter, self.quality_score = map, quality_score
        self.refinement = refinement

    @classmethod
    def add_config(cls, node: CfgNode) -> None:
        super().add_config(node)
        # Weights of the focal loss, of the box loss, and of the L1 loss of (cx, cy, w, h) as shares of the image (DATE,
        # OneNet).
        node.CLS_WEIGHT = 1.0
        node.BOX_WEIGHT = 2.0
        node.L1_WEIGHT = 0.0
        # Box loss: "giou", "iou" (-log IoU; DATE's FCOS branch), or "delta_l1" (L1 of the deltas; RetinaNet).
        node.BOX_LOSS = "giou"
        # What the losses are divided by: "positives", their mean over the workers, or "images", for each worker the sum
        # over its images of max(1, positives) (DATE's RetinaNet branch); for "weighted" also "labels" or "objects".
        node.NORMALIZER = "positives"
        # How raw outputs become boxes: distances by "relu" (times stride) or "exp" (pixels). "delta" is the older way
        # to write TYPE "anchor".
        node.BOX_FORM = "relu"
        # Bias of the box conv at the start; 4 in DW, whose weights vanish on empty boxes.
        node.BOX_BIAS = 0.0
        # A map that multiplies all class scores, with so many 64-channel convs before it (o2f: 3; DW: 0), of 3x3 and a
        # norm or, KERNEL 1, of 1x1 and none (DDQ); whether the score is the "product" or its root, "sqrt" (DDQ).
        node.QUALITY = CfgNode()
        node.QUALITY.ENABLED = False
        node.QUALITY.CONVS = 3
        node.QUALITY.KERNEL = 3
        node.QUALITY.SCORE = "product"
        # Box refinement by boundary points (DW); beyond the map they read "zeros" (release) or the "border".
        node.REFINE = CfgNode()
        node.REFINE.ENABLED = False
        node.REFINE.PADDING = "zeros"
        # Tower that predicts the centerness: "reg" (DeFCN), "cls" (DATE), or "" for none.
        node.CENTERNESS = ""
        # Final score with centerness: "sqrt" of the product (DeFCN), or "product" (DATE).
        node.CENTERNESS_SCORE = "sqrt"
        # 3D Max Filtering: tau neighbouring levels, a window of `kernel` cells, the norm after it ("" for none).
        node.MAX_FILTERING = CfgNode()
        node.MAX_FILTERING.ENABLED = False
        node.MAX_FILTERING.TAU = 2
        node.MAX_FILTERING.KERNEL = 3
        node.MAX_FILTERING.NORM = "GN"

    @classmethod
    def kind(cls, node: CfgNode) -> type[Branch]:
        """Anchors were a box form of this type before they were a type."""
        former = cls is PointBranch and node.BOX_FORM == "delta" and "ANCHORS" in node
        return BRANCH_REGISTRY.get("anchor") if former else cls

    @classmethod
    def from_config(cls, cfg: CfgNode, name: str, in_channels: int) -> dict[str, Any]:
        options, node = cfg.MODEL.DEFCN, cfg.MODEL.DEFCN[name]
        cls._check_box_form(node)
        return {
            "num_classes": options.NUM_CLASSES,
            "in_channels": in_channels,
            "prior_prob": options.PRIOR_PROB,
            "cls_weight": node.CLS_WEIGHT,
            "box_weight": node.BOX_WEIGHT,
            "l1_weight": node.L1_WEIGHT,
            "box_loss": node.BOX_LOSS,
            "normalizer": node.NORMALIZER,
            "box_form": node.BOX_FORM,
            "centerness": node.CENTERNESS,
            "centerness_score": node.CENTERNESS_SCORE,
            "max_filtering": build_max_filtering(node.MAX_FILTERING, in_channels),
            "quality_convs": node.QUALITY.CONVS if node.QUALITY.ENABLED else None,
            "quality_kernel": node.QUALITY.KERNEL,
            "quality_score": node.QUALITY.SCORE,
            "refinement": BoxRefinement(in_channels, node.REFINE.PADDING) if node.REFINE.ENABLED else None,
            "box_bias": node.BOX_BIAS,
            **super().from_config(cfg, name, in_channels),
        }

    @classmethod
    def _check_box_form(cls, node: CfgNode) -> None:
        """
        Raises:
            ValueError: the form is unknown, or this or another key has no meaning without anchors.
        """
        check_choice("BOX_FORM", node.BOX_FORM, ("relu", "exp", "delta"))
        if node.BOX_FORM == "delta":
            advice = "set TYPE to 'anchor'" if cls is PointBranch else "set BOX_FORM to relu or exp"
            raise ValueError(f"TYPE {node.TYPE!r} is made for points, not for anchors: {advice}")
        for key, used in (("BOX_LOSS", node.BOX_LOSS == "delta_l1"), ("IGNORE_PADDING", node.get("IGNORE_PADDING"))):
            if used:
                raise ValueError(f"{key}: {node[key]} is for anchors; set BOX_FORM to 'delta', got {node.BOX_FORM!r}")

    def forward(self, points: Points, features: HeadFeatures, base: DensePredictions | None = None) -> DensePredictions:
        """Predicts at every point. `base`, the predictions of another branch, is not looked at."""
        seen = self.see(features)
        scales = seen.scales or [nn.Identity()] * len(seen.box)
        raw_boxes = [scale(self.bbox_pred(x).float()) for x, scale in zip(seen.box, scales)]
        raw = flatten_levels(raw_boxes, self.per_cell)
        boxes = self.decode(points, raw)
        objectness = centerness = None
        if self.filter is not None:
            tower = seen.box if self.max3d is None else self.max3d(seen.box)
            objectness = flatten_levels([self.filter(x) for x in tower], self.per_cell)
        if self.centerness is not None:
            tower = seen.cls if self.centerness_tower == "cls" else seen.box
            centerness = flatten_levels([self.centerness(x) for x in tower], self.per_cell)
        return DensePredictions(
            logits=flatten_levels([self.cls_score(x) for x in seen.cls], self.per_cell),
            boxes=boxes if self.refinement is None else self.refinement(seen.box, points, boxes),
            objectness=objectness,
            centerness=centerness,
            deltas=raw if self.box_loss == "delta_l1" else None,
            features=seen,
            rooted=self.quality_score == "sqrt" and objectness is not None,
        )

    def decode(self, points: Points, raw: Tensor) -> Tensor:
        """Boxes (N, R, 4) from raw outputs (N, R, 4), times their level's factor (00-common, section 4)."""
        if self.box_form == "exp":
            return points.boxes(raw.clamp(max=MAX_LOG_DISTANCE).exp())
        return points.boxes(F.relu(raw) * points.stride[:, None])

    def terms(self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> dict[str, Tensor]:
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
            target = centerness_target(self.places(points), objects, pairs)
            guess = predictions.centerness.flatten()[pairs.point].float()
            losses["box"] = self.box_weight * (box * target).sum() / worker_mean(target.sum())
            losses["centerness"] = F.binary_cross_entropy_with_logits(guess, target, reduction="sum") / count
        if self.l1_weight:
            losses["l1"] = self.l1_weight * self._l1(predictions, objects, pairs).sum() / count
        return losses

    def count(self, objects: Objects, pairs: Pairs) -> Tensor:
        """What the losses are divided by."""
        if self.normalizer == "positives":
            return worker_mean(torch.full((), float(len(pairs)), device=objects.boxes.device))
        image = objects.image[pairs.object]
        return torch.bincount(image, minlength=len(objects.sizes)).clamp(min=1).sum().float()

    def ignored(self, points: Points, objects: Objects, pairs: Pairs) -> Tensor | None:
        """(I,) points that the class loss leaves out, or None."""
        return pairs.ignored

    def box_loss_of(self, points: Points, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> Tensor:
        """(P,) the box loss of each pair, without weight."""
        loss = giou_loss if self.box_loss == "giou" else iou_loss
        return loss(predictions.boxes.flatten(0, 1)[pairs.point], objects.boxes[pairs.object])

    def _l1(self, predictions: DensePredictions, objects: Objects, pairs: Pairs) -> Tensor:
        sizes = objects.sizes[objects.image[pairs.object]]
        boxes = predictions.boxes.flatten(0, 1)[pairs.point]
        return normalized_l1(boxes, objects.boxes[pairs.object], sizes)

    def final_scores(self, scores: Tensor, centerness: Tensor) -> Tensor:
        """Joins class scores with centerness logits of the same shape."""
        product = scores * centerness.float().sigmoid()
        return product.sqrt() if self.centerness_score == "sqrt" else product


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


def build_max_filtering(node: CfgNode, channels: int) -> MaxFiltering | None:
    """The layer that a node MAX_FILTERING describes.

    Raises:
        ValueError: a key is out of range.
    """
    try:
        return MaxFiltering(channels, node.TAU, node.KERNEL, node.NORM) if node.ENABLED else None
    except ValueError as error:
        raise ValueError(str(error).replace("MaxFiltering", "MAX_FILTERING")) from None
