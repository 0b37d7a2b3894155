"""What the four steps of an assignment rule look at."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from defcn_ext._elementwise import alike
from defcn_ext.losses.boxes import normalized_l1, paired_giou, paired_iou
from defcn_ext.structures import Points, ScoreView

# The nearest to 0 and 1 that float32 has: probabilities of 0 and 1 have the logits of these, -87.3 and 16.6
LEAST, MOST = torch.finfo(torch.float32).tiny, 1 - 2.0**-24


@dataclass(frozen=True)
class Scene:
    """One batch of predictions and objects. All objects of all images stand in one list.

    Attributes:
        points: the R points of one image; every image of the batch has the same.
        scores: (N R, K) probabilities; a tensor, or a `ScoreView` that computes only what is read.
        boxes: (N R, 4) predicted boxes, float32.
        gt_boxes: (G, 4) boxes of the objects, float32.
        gt_classes: (G,) their classes.
        image: (G,) index of the image each object is in.
        image_sizes: (N, 2) height and width of each image without padding, pixels.
        progress: share of the training that is over, for steps that change with it.
    """

    points: Points
    scores: Tensor | ScoreView
    boxes: Tensor
    gt_boxes: Tensor
    gt_classes: Tensor
    image: Tensor
    image_sizes: Tensor
    progress: float = field(default=0.0, kw_only=True)

    @property
    def num_objects(self) -> int:
        return len(self.gt_boxes)

    def location(self, point: Tensor) -> Tensor:
        """Index, in [0, R), of batch-wide point indices."""
        return point % len(self.points)

    def score(self, point: Tensor, object: Tensor) -> Tensor:
        """Score of the object's class at the point. The index tensors broadcast, here and below."""
        return self.scores[point, self.gt_classes[object]].float()

    def logit(self, point: Tensor, object: Tensor) -> Tensor:
        """Logit of `score`."""
        if isinstance(self.scores, ScoreView):
            return self.scores.logit((point, self.gt_classes[object]))
        return _logit(self.score(point, object))

    def class_logits(self, point: Tensor) -> Tensor:
        """(..., K) logits of all scores at points (...); NaN or infinite where the prediction is."""
        if isinstance(self.scores, ScoreView):
            return self.scores.logit(point)
        return _logit(self.scores[point].float())

    def iou(self, point: Tensor, object: Tensor) -> Tensor:
        """IoU of the predicted box with the object; NaN where the prediction is not finite."""
        box = self.boxes[point]
        return paired_iou(box, self.gt_boxes[object]) + 0 * box.sum(-1)

    def giou(self, point: Tensor, object: Tensor) -> Tensor:
        """GIoU of the predicted box with the object; NaN where the prediction is not finite."""
        box = self.boxes[point]
        return paired_giou(box, self.gt_boxes[object]) + 0 * box.sum(-1)

    def l1(self, point: Tensor, object: Tensor, form: str) -> Tensor:
        """L1 distance of the predicted box and the object as shares of the image; see `losses.normalized_l1`."""
        size = self.image_sizes[self.image[object]]
        return normalized_l1(self.boxes[point], self.gt_boxes[object], size, form)

    def ltrb(self, point: Tensor, object: Tensor) -> Tensor:
        """Distances from the point to the left, top, right and bottom side of the object, pixels; negative outside."""
        xy = self.points.xy[self.location(point)]
        box = self.gt_boxes[object]
        return torch.cat([xy - box[..., :2], box[..., 2:] - xy], dim=-1)


def _logit(probability: Tensor) -> Tensor:
    """NaN where the probability is not finite: an infinity must not look like certainty."""
    return alike(torch.logit, probability.clamp(LEAST, MOST)) + 0 * probability


def make_scene(
    points: Points,
    scores: Tensor | ScoreView,
    boxes: Tensor,
    gt_boxes: Tensor,
    gt_classes: Tensor,
    image: Tensor | None = None,
    image_sizes: Tensor | None = None,
    progress: float = 0.0,
) -> Scene:
    """Checks the shapes and turns everything to float32, without its gradient.

    Without `image_sizes` every image is as large as the finest level.

    Raises:
        ValueError: shapes disagree, or what should be probabilities are logits.
    """
    total, num_points = len(boxes), len(points)
    if len(scores.shape) != 2 or scores.shape[0] != total or tuple(boxes.shape) != (total, 4):
        raise ValueError(
            f"scores and boxes must be (N R, K) and (N R, 4), got {tuple(scores.shape)}, {tuple(boxes.shape)}"
        )
    if isinstance(scores, Tensor) and _are_logits(scores):
        raise ValueError("scores must be probabilities; give logits as ScoreView.from_logits(logits)")
    if num_points == 0 or total % num_points:
        raise ValueError(f"{total} predictions are not a whole number of images of {num_points} points")
    if tuple(gt_boxes.shape) != (len(gt_classes), 4):
        raise ValueError(
            f"gt_boxes and gt_classes must be (G, 4), (G,), got {tuple(gt_boxes.shape)}, {tuple(gt_classes.shape)}"
        )
    if image is None:
        if total != num_points:
            raise ValueError(f"a batch of {total // num_points} images needs `image`, the index of each object's image")
        image = torch.zeros_like(gt_classes)
    if image_sizes is None:
        extent = [side * points.strides[0] for side in points.sizes[0]]
        image_sizes = torch.tensor([extent] * (total // num_points), dtype=torch.float32, device=boxes.device)
    gt_boxes, boxes = gt_boxes.detach().float(), boxes.detach().float()
    return Scene(points, scores, boxes, gt_boxes, gt_classes, image, image_sizes, progress=progress)


def _are_logits(scores: Tensor) -> bool:
    """Whether the first rows leave [0, 1], as logits do at once. Not asked on a GPU, which would be waited for."""
    first = scores[:64].detach()
    return not scores.is_cuda and bool((first.isfinite() & ((first < 0) | (first > 1))).any())
