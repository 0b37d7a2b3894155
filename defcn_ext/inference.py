"""From dense predictions to detections: top-k, and NMS only where it is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from defcn_ext.branches import PointBranch
from defcn_ext.structures import DensePredictions, Points
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, Instances


@dataclass(frozen=True)
class Inference:
    """How detections are read off the predictions (00-common, section 9).

    Attributes:
        score_thresh: candidates must score strictly more; with centerness it is the class score that counts.
        topk_per_level: (point, class) pairs kept of each level, never more than the level has points.
        detections_per_image: how many remain at the end.
        nms_thresh: IoU above which NMS removes the lower score of two boxes of one class.
    """

    score_thresh: float
    topk_per_level: int
    detections_per_image: int
    nms_thresh: float

    def candidates(
        self, branch: PointBranch, points: Points, predictions: DensePredictions, image_sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """The best (point, class) pairs of each image, before the final cut.

        Returns:
            for each image `Instances` with `pred_boxes` (not clipped), `scores`, `pred_classes` and `points`, the
            indices in [0, R) of the points they come from.
        """
        logits = predictions.score_logits()
        return [self._candidates_of_image(branch, points, predictions, logits, n, s) for n, s in enumerate(image_sizes)]

    def _candidates_of_image(
        self,
        branch: PointBranch,
        points: Points,
        predictions: DensePredictions,
        logits: Tensor,
        image: int,
        image_size: tuple[int, int],
    ) -> Instances:
        kept_logits, kept_index, first = [], [], 0
        for count in points.counts:
            level = logits[image, first : first + count].flatten()
            values, index = self._best_of_level(level, count)
            kept_logits.append(values)
            kept_index.append(index + first * logits.shape[-1])
            first += count
        index = torch.cat(kept_index)
        point = index.div(logits.shape[-1], rounding_mode="floor")
        scores = torch.cat(kept_logits).sigmoid()
        finite = predictions.boxes[image, point].isfinite().all(-1).nonzero().squeeze(1)
        index, point, scores = index[finite], point[finite], scores[finite]
        if predictions.centerness is not None:
            scores = branch.final_scores(scores, predictions.centerness[image, point, 0])
        return Instances(
            image_size,
            pred_boxes=Boxes(predictions.boxes[image, point]),
            scores=scores,
            pred_classes=index % logits.shape[-1],
            points=point,
        )

    def _best_of_level(self, logits: Tensor, num_points: int) -> tuple[Tensor, Tensor]:
        """The largest entries, by decreasing value, among those above the threshold, and their indices."""
        above = (logits > _logit(self.score_thresh)).nonzero().squeeze(1)
        values, order = logits[above].topk(min(self.topk_per_level, num_points, len(above)))
        return values, above[order]

    def finalize(self, candidates: Instances, *, nms: bool) -> Instances:
        """The best detections by decreasing score, after NMS per class if asked for."""
        if nms:
            keep = batched_nms(
                candidates.pred_boxes.tensor, candidates.scores, candidates.pred_classes, self.nms_thresh
            )
        else:
            keep = candidates.scores.argsort(descending=True, stable=True)
        return candidates[keep[: self.detections_per_image]]


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.log(probability) - math.log1p(-probability) if probability < 1 else math.inf
