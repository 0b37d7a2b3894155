"""From dense predictions to detections: top-k, and a peak filter or NMS only where they are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from defcn_ext.branches import Branch
from defcn_ext.inference.nms import greedy_nms
from defcn_ext.inference.other_heads import score_threshold
from defcn_ext.inference.peak_filter import PeakFilter
from defcn_ext.structures import DensePredictions, Points, recording
from detectron2.config import CfgNode
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances


@dataclass(frozen=True)
class Inference:
    """How detections are read off the predictions (00-common, section 9).

    >>> from defcn_ext.branches import PointBranch
    >>> points, branch = Points.from_sizes([(1, 2)], strides=[8]), PointBranch(num_classes=2, in_channels=8)
    >>> boxes = points.boxes(torch.full((1, 2, 4), 4.0))
    >>> predictions = DensePredictions(torch.tensor([[[2.0, -2], [-2, -9]]]), boxes)
    >>> read = Inference(score_thresh=0.5, topk_per_level=10, detections_per_image=5, nms_thresh=0.6)
    >>> (candidates,) = read.candidates(branch, points, predictions, image_sizes=[(8, 16)])
    >>> found = read.finalize(candidates, nms=False)
    >>> found.pred_boxes.tensor.tolist(), found.pred_classes.tolist()
    ([[0.0, 0.0, 8.0, 8.0]], [0])

    Attributes:
        score_thresh: candidates must score strictly more.
        candidates_by: what that and the order of a level's candidates go by where there is a centerness: "class", the
            class score, "final", the score with it, or "order", the class score and an order by the final one.
        topk_per_level: (point, class) pairs kept of each level.
        detections_per_image: how many remain at the end.
        nms_thresh: IoU above which NMS removes the lower score of two boxes of one class.
        topk_within_points: never more of a level than it has points (DeFCN's release).
        one_class_per_point: of the classes of a point only the best is a candidate; of equal ones the first.
        nms_per_level: NMS compares boxes of one level only (DeFCN, Table 2).
        nms_range: NMS compares boxes only whose points lie in one window of so many cells a side; odd, 0 for no
            limit. On one level that is `|dx|, |dy| <= nms_range // 2` cells. Across levels the cells are those of the
            coarser level, and the finer point must lie inside the window around the coarser point: with 1, in its cell.
            Anchors of one cell lie at one place.
        nms_over_classes: NMS compares boxes of all classes, not only of one.
        nms_clipped: NMS compares what of the boxes lies inside the image (mmdetection); else the boxes as predicted. A
            box outside the image suppresses nothing then, and stays until empty boxes are dropped, after the final cut.
        peak_filter: before all else only the peaks of the final scores stay, those with centerness; None to keep all.

    Raises:
        ValueError: `nms_range` is even or negative, or a threshold or a number of detections makes no sense.
    """

    score_thresh: float
    topk_per_level: int
    detections_per_image: int
    nms_thresh: float
    topk_within_points: bool = True
    one_class_per_point: bool = False
    nms_per_level: bool = False
    nms_range: int = 0
    nms_over_classes: bool = False
    nms_clipped: bool = False
    candidates_by: str = "class"
    peak_filter: PeakFilter | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Inference:
        """What `MODEL.DEFCN` says of inference."""
        options, peaks = cfg.MODEL.DEFCN, cfg.MODEL.DEFCN.PEAK_FILTER
        return cls(
            score_thresh=score_threshold(cfg),
            topk_per_level=options.TOPK_CANDIDATES_TEST,
            topk_within_points=options.TOPK_WITHIN_POINTS,
            one_class_per_point=options.ONE_CLASS_PER_POINT,
            detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
            nms_thresh=options.NMS_THRESH_TEST,
            nms_per_level=options.NMS_PER_LEVEL,
            nms_range=options.NMS_RANGE,
            nms_over_classes=options.NMS_OVER_CLASSES,
            nms_clipped=options.NMS_CLIPPED,
            candidates_by=options.CANDIDATES_BY,
            peak_filter=PeakFilter(peaks.TAU, peaks.KERNEL) if peaks.ENABLED else None,
        )

    def __post_init__(self) -> None:
        if self.candidates_by not in ("class", "final", "order"):
            known = "'class', 'final', 'order'"
            raise ValueError(f"MODEL.DEFCN.CANDIDATES_BY: unknown value {self.candidates_by!r}; known: {known}")
        if self.score_thresh > 1:
            raise ValueError(f"MODEL.DEFCN.SCORE_THRESH_TEST must not be above 1, got {self.score_thresh}")
        if not 0 <= self.nms_thresh <= 1:
            raise ValueError(f"MODEL.DEFCN.NMS_THRESH_TEST must lie in [0, 1], got {self.nms_thresh}")
        if self.topk_per_level < 1:
            raise ValueError(f"MODEL.DEFCN.TOPK_CANDIDATES_TEST must be at least 1, got {self.topk_per_level}")
        if self.detections_per_image < 1:
            raise ValueError(f"TEST.DETECTIONS_PER_IMAGE must be at least 1, got {self.detections_per_image}")
        if self.nms_range < 0 or (self.nms_range and self.nms_range % 2 == 0):
            raise ValueError(f"MODEL.DEFCN.NMS_RANGE must be odd, or 0 for no limit, got {self.nms_range}")

    def candidates(
        self, branch: Branch, points: Points, predictions: DensePredictions, image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """The best (point, class) pairs of each image, before NMS and the final cut.

        Returns:
            for each image `Instances` with `pred_boxes` (not clipped), `scores`, `pred_classes`, `points`, the
            indices in [0, R) of the points they come from, and `locations`, (x, y, stride, level) of these points.
        """
        logits = predictions.score_logits()
        return [self._candidates_of_image(branch, points, predictions, logits, n, s) for n, s in enumerate(image_sizes)]

    def _candidates_of_image(
        self,
        branch: Branch,
        points: Points,
        predictions: DensePredictions,
        logits: Tensor,
        image: int,
        image_size: tuple[int, int],
    ) -> Instances:
        boxes, num_classes = predictions.boxes[image], logits.shape[-1]
        finite = boxes.isfinite().all(-1)
        centerness = None if predictions.centerness is None else predictions.centerness[image]
        allowed = logits[image].masked_fill(~finite[:, None], -math.inf)
        if self.peak_filter is not None:
            everywhere = _scores(branch, allowed, centerness)
            allowed = allowed.masked_fill(~self.peak_filter(everywhere, points), -math.inf)
        if self.one_class_per_point:
            allowed = _only_best_class(allowed)
        above, order = allowed > _logit(self.score_thresh), allowed
        if centerness is not None and self.candidates_by != "class":
            order = _scores(branch, allowed, centerness)
            if self.candidates_by == "final":
                above = (allowed > -math.inf) & (order > self.score_thresh)
        index = self._best_of_each_level(above, order, points)
        point, pred_class = index.div(num_classes, rounding_mode="floor"), index % num_classes
        where = (points.xy, points.stride[:, None], points.level[:, None])
        if centerness is not None:
            centerness = centerness[point, 0]
        return Instances(
            image_size,
            pred_boxes=Boxes(boxes[point]),
            scores=_scores(branch, logits[image, point, pred_class], centerness),
            pred_classes=pred_class,
            points=point,
            locations=torch.cat([x[point] for x in where], dim=1),
        )

    def _best_of_each_level(self, above: Tensor, order: Tensor, points: Points) -> Tensor:
        """Indices into the flattened (R, K) `order`: of each level the largest among those `above`, decreasing.

        Of equal ones the earlier is the larger. Nothing here is a number that a recorded graph would keep.
        """
        kept, first = [], 0
        for level, candidates in zip(order.split(points.counts), above.split(points.counts)):
            found = candidates.flatten().nonzero().squeeze(1)
            best = _largest(level.flatten()[found], self.topk_per_level)
            if self.topk_within_points:
                best = best[: level.shape[0]]
            kept.append(found[best] + first)
            first = first + level.shape[0] * level.shape[1]
        return torch.cat(kept)

    def finalize(self, candidates: Instances, *, nms: bool) -> Instances:
        """The best detections by decreasing score, after NMS if asked for; without `locations`.

        Raises:
            ValueError: a graph is recorded, which the NMS of `nms_per_level` and `nms_range` cannot enter.
        """
        keep = self._nms(candidates) if nms else candidates.scores.argsort(descending=True, stable=True)
        kept = candidates[keep[: self.detections_per_image]]
        kept.remove("locations")
        return kept

    def _nms(self, candidates: Instances) -> Tensor:
        boxes, scores, groups = self._compared_boxes(candidates), candidates.scores, candidates.pred_classes
        if self.nms_over_classes:
            groups = torch.zeros_like(groups)
        if not self.nms_per_level and not self.nms_range:
            kept: Tensor = batched_nms(boxes, scores, groups, self.nms_thresh)
            return kept
        if recording():
            raise ValueError("MODEL.DEFCN.NMS_PER_LEVEL and NMS_RANGE are for studies; they cannot be exported")
        xy, stride, level = candidates.locations.split([2, 1, 1], dim=1)
        if self.nms_per_level:
            groups = torch.stack([groups, level[:, 0].long()], dim=1).unique(dim=0, return_inverse=True)[1]
        if not self.nms_range:
            return greedy_nms(boxes, scores, groups, self.nms_thresh)
        # whole cells apart, on one level, half a cell away from the limit
        return greedy_nms(boxes, scores, groups, self.nms_thresh, xy=xy, reach=self.nms_range / 2 * stride[:, 0])

    def _compared_boxes(self, candidates: Instances) -> Tensor:
        boxes = candidates.pred_boxes
        if self.nms_clipped:
            boxes = boxes.clone()
            boxes.clip(candidates.image_size)
        tensor: Tensor = boxes.tensor
        return tensor


def _largest(entries: Tensor, k: int) -> Tensor:
    """Indices of the k largest of (M,) entries, decreasing, or of all; of equal ones the earlier is the larger."""
    if recording() or len(entries) <= k:
        return entries.argsort(descending=True, stable=True)[:k]
    # to sort them all takes long where a fresh model fires all over
    likely = (entries >= entries.topk(k).values[-1]).nonzero().squeeze(1)
    return likely[entries[likely].argsort(descending=True, stable=True)[:k]]


def _only_best_class(logits: Tensor) -> Tensor:
    """The (R, K) logits, minus infinity but for the largest of each row."""
    best = logits.nan_to_num(nan=-math.inf, neginf=-math.inf, posinf=math.inf).argmax(1, keepdim=True)
    return torch.full_like(logits, -math.inf).scatter(1, best, logits.gather(1, best))


def _scores(branch: Branch, logits: Tensor, centerness: Tensor | None) -> Tensor:
    """Final scores from logits and, where there are any, centerness logits that can be expanded to their shape."""
    scores = logits.sigmoid()
    return scores if centerness is None else branch.final_scores(scores, centerness.expand_as(scores))


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.log(probability) - math.log1p(-probability) if probability < 1 else math.inf
