"""The graph that takes pixels and ends in boxes: the detector's own layers, and an end made of operators that all
runtimes have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defcn_ext.config import UserError
from defcn_ext.meta_arch import DeFCN
from defcn_ext.structures import DensePredictions, Points

from .nms import kept_by_nms

MOST = 3840  # entries of a top-k; the most that TensorRT has
LARGEST = 3e38  # of float32; what is not below it is no number


@dataclass(frozen=True)
class End:
    """What the end of the graph keeps.

    Attributes:
        top_k: detections of each image, those of score 0 included.
        per_level: points of each level, and (point, class) pairs of each level, that can become detections.
        score_thresh: pairs must score strictly more, as the detector's inference says.
        one_class: of the classes of a point only the best counts.
        nms: whether NMS comes before the final cut.
        by_score: whether the order of a level is that of the final scores; else of those without centerness.
    """

    top_k: int
    per_level: int
    score_thresh: float
    one_class: bool
    nms: bool
    by_score: bool

    @classmethod
    def of(cls, model: DeFCN, *, top_k: int | None = None, one_class: bool = False, nms: bool = False) -> End:
        """What equals the inference of a detector, as far as the constants allow.

        A detection among the best `top_k` of an image is among the best `top_k` of its level, and so is its point: no
        more are needed where the order of a level is the final one. With NMS or centerness it is not: as many are kept
        as the detector itself keeps.

        Raises:
            UserError: the constants, or what the detector's inference does, cannot be exported.
        """
        read = model.inference
        top_k = read.detections_per_image if top_k is None else top_k
        if not 1 <= top_k <= MOST:
            raise UserError(f"--top-k must lie between 1 and {MOST}, got {top_k}")
        centerness = small_predictions(model).centerness is not None
        by_score = centerness and read.candidates_by != "class"
        reordered = nms or (centerness and not by_score)
        per_level = read.topk_per_level if reordered else min(top_k, read.topk_per_level)
        if per_level > MOST:
            raise UserError(f"MODEL.DEFCN.TOPK_CANDIDATES_TEST must not be above {MOST} for an export, got {per_level}")
        if read.peak_filter is not None:
            raise UserError("MODEL.DEFCN.PEAK_FILTER is for studies; it cannot be exported")
        if nms and (read.nms_per_level or read.nms_range):
            raise UserError("MODEL.DEFCN.NMS_PER_LEVEL and NMS_RANGE are for studies; they cannot be exported")
        return cls(top_k, per_level, read.score_thresh, one_class or read.one_class_per_point, nms, by_score)


class Candidates(NamedTuple):
    """Pairs of one level, or of all, best first within a level: scores (N, M), 0 where there is none; boxes
    (N, M, 4); classes (N, M) int32."""

    scores: Tensor
    boxes: Tensor
    labels: Tensor


class BoxGraph(nn.Module):
    """(N, C, H, W) pixels to boxes, scores and labels, of any H and W.

    Everything of which the size is data becomes a constant: a top-k per level over the points by their best class, one
    over the (point, class) pairs of these points, and one over the levels. Equal to `Inference` of the detector, with
    scores of 0 where that gives fewer detections.

    Args:
        model: in evaluation mode.
        end: what is kept.
    """

    def __init__(self, model: DeFCN, end: End):
        super().__init__()
        self.model, self.end = model, end
        self.branch = model.branches[model.test_branch]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            images: (N, C, H, W) float, 0 to 255, in the config's order of channels.

        Returns:
            boxes (N, k, 4), x1, y1, x2, y2 in pixels of `images`, inside them; scores (N, k), decreasing, 0 for those
            that fill up; labels (N, k) int32.
        """
        height, width = images.shape[-2:]
        points, features = self.model.extract(self.padded((images - self.model.pixel_mean) / self.model.pixel_std))
        predictions = self.model.predict(points, features, self.model.test_branch)
        candidates = self.candidates(self.branch.places(points), predictions)
        if self.end.nms:
            candidates = self.suppressed(candidates, height, width)
        return self.best(candidates, height, width)

    def padded(self, images: Tensor) -> Tensor:
        """Zeros at the right and bottom, up to what the backbone wants."""
        height, width = images.shape[-2:]
        square = self.model.backbone.padding_constraints.get("square_size", 0)
        if square:
            return F.pad(images, (0, square - width, 0, square - height))
        divisor = max(1, self.model.backbone.size_divisibility)
        rows, columns = ((side + divisor - 1) // divisor * divisor for side in (height, width))
        return F.pad(images, (0, columns - width, 0, rows - height))

    def candidates(self, points: Points, predictions: DensePredictions) -> Candidates:
        """The best pairs of every level, one level after the other."""
        found, first = [], 0
        for count in points.counts:
            found.append(self.best_of_level(_points(predictions, first, count), count))
            first = first + count
        return Candidates(*(torch.cat(parts, dim=1) for parts in zip(*found)))

    def best_of_level(self, level: DensePredictions, count: int) -> Candidates:
        """The best pairs of the R points of a level, from the points that are best by their best class."""
        num_classes, known = level.logits.shape[-1], isinstance(count, int)
        points = min(self.end.per_level, count) if known else self.end.per_level
        within = self.model.inference.topk_within_points
        pairs = points if within or not known else min(self.end.per_level, points * num_classes)
        best = self.order(_best_class(level), level)[..., 0]
        if not known:  # a top-k of a constant length, whatever the level has
            best = F.pad(best, (0, points), value=-math.inf)
        best, index = best.topk(points)
        chosen = _chosen(level, index if known else index.clamp(max=count - 1))
        logits = torch.where((best > -LARGEST)[..., None], chosen.score_logits(), -math.inf)
        if self.end.one_class:
            logits = _only_best(logits)
        value, pair = self.order(logits, chosen).flatten(1).topk(pairs)
        pair = pair.int()  # what follows is arithmetic of int32
        slot = pair.div(num_classes, rounding_mode="trunc")
        there = value > -LARGEST
        if within and not known:
            there = there & (torch.arange(pairs, dtype=torch.int32, device=pair.device) < count)
        scores = value if self.end.by_score else value.sigmoid()
        if chosen.centerness is not None and not self.end.by_score:
            scores = self.branch.final_scores(scores, _rows(chosen.centerness, slot)[..., 0])
        return Candidates(torch.where(there, scores, 0.0), _rows(chosen.boxes, slot), pair - slot * num_classes)

    def order(self, logits: Tensor, level: DensePredictions) -> Tensor:
        """What the pairs of points (N, M, K) are ordered by, minus infinity below the threshold: logits, or scores."""
        thresh, by = self.end.score_thresh, self.model.inference.candidates_by
        if not self.end.by_score or by == "order":
            logits = torch.where(logits > _logit(thresh), logits, -math.inf)
        if not self.end.by_score:
            return logits
        assert level.centerness is not None
        scores = self.branch.final_scores(logits.sigmoid(), level.centerness.expand_as(logits))
        kept = (logits > -LARGEST) & (scores > (thresh if by == "final" else -1.0))
        return torch.where(kept, scores, -math.inf)

    def suppressed(self, found: Candidates, height: int, width: int) -> Candidates:
        """The candidates, with scores of 0 for those that NMS removes."""
        read, num_classes = self.model.inference, self.model.num_classes
        boxes = _clipped(found.boxes, height, width) if read.nms_clipped else found.boxes
        groups = torch.zeros_like(found.labels) if read.nms_over_classes else found.labels
        kept = kept_by_nms(boxes, found.scores, groups, num_classes, read.nms_thresh)
        return found._replace(scores=torch.where(kept, found.scores, 0.0))

    def best(self, found: Candidates, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """The final cut, and what Detectron2 does after it: boxes are clipped, empty ones dropped."""
        missing = self.end.top_k - found.scores.shape[1]
        if missing > 0:
            scores, labels = (F.pad(x, (0, missing)) for x in (found.scores, found.labels))
            found = Candidates(scores, F.pad(found.boxes, (0, 0, 0, missing)), labels)
        scores, index = found.scores.topk(self.end.top_k)
        boxes, labels = _clipped(_rows(found.boxes, index), height, width), found.labels.gather(1, index)
        filled = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
        scores, index = torch.where(filled, scores, 0.0).topk(self.end.top_k)  # those without an area go to the end
        there = scores > 0
        boxes = torch.where(there[..., None], _rows(boxes, index), 0.0)
        return boxes, scores, torch.where(there, labels.gather(1, index), 0)


@torch.no_grad()
def small_predictions(model: DeFCN) -> DensePredictions:
    """What a detector says of one small black image: which maps it has, whatever its branch is."""
    side = 2 * max(32, model.backbone.size_divisibility)
    points, features = model.extract(torch.zeros(1, len(model.pixel_mean), side, side, device=model.device))
    return model.predict(points, features, model.test_branch)


def _points(predictions: DensePredictions, first: int, count: int) -> DensePredictions:
    """Those of one level."""
    return _each(predictions, lambda x: x.narrow(1, first, count))


def _chosen(level: DensePredictions, index: Tensor) -> DensePredictions:
    """Those of the points (N, M)."""
    return _each(level, lambda x: _rows(x, index))


def _each(predictions: DensePredictions, change: Callable[[Tensor], Tensor]) -> DensePredictions:
    maps = {name: getattr(predictions, name) for name in ("logits", "boxes", "objectness", "centerness")}
    return DensePredictions(**{name: None if x is None else change(x) for name, x in maps.items()})


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """(N, R, C) at the indices (N, M): (N, M, C)."""
    return x.gather(1, index.long()[..., None].expand(-1, -1, x.shape[-1]))


def _best_class(level: DensePredictions) -> Tensor:
    """(N, R, 1) logits of the best score of each point; minus infinity where this or the box is no number.

    The other factors of a score are those of the point, so that the best class is known before they are looked at.
    """
    best = replace(level, logits=level.logits.amax(-1, keepdim=True)).score_logits()
    numbers = level.boxes.sum(-1, keepdim=True).abs() < LARGEST  # a sum is finite only if all its terms are
    return torch.where((best > -LARGEST) & numbers, best, -math.inf)


def _only_best(logits: Tensor) -> Tensor:
    """(N, M, K) logits, minus infinity but for the first of the largest of each row."""
    classes = torch.arange(logits.shape[-1], device=logits.device)
    return torch.where(classes == logits.argmax(-1, keepdim=True), logits, -math.inf)


def _clipped(boxes: Tensor, height: int, width: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    x1, x2 = (x.clamp(0, width) for x in (x1, x2))
    y1, y2 = (y.clamp(0, height) for y in (y1, y2))
    return torch.stack([x1, y1, x2, y2], dim=-1)


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.log(probability) - math.log1p(-probability) if probability < 1 else math.inf
