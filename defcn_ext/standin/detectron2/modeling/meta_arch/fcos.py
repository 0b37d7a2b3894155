"""FCOS (https://arxiv.org/abs/1904.01355): one point a cell, labelled by centre and size, and centerness.

Letters in shapes: `N` images, `K` classes, `G` objects of an image, `R` points of all levels. A point is represented
by an anchor: a box around it, as wide as the stride of its level.
"""

import torch
from fvcore.nn import sigmoid_focal_loss_jit
from torch import nn
from torch.nn import functional as F

from detectron2.layers import ShapeSpec, cat
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import Backbone
from detectron2.modeling.box_regression import (
    Box2BoxTransform,
    Box2BoxTransformLinear,
    _dense_box_regression_loss,
)
from detectron2.structures import Boxes, ImageList, Instances, pairwise_point_box_distance
from detectron2.utils.events import get_event_storage

from .dense_detector import DenseDetector
from .retinanet import RetinaNet, RetinaNetHead

__all__ = ["FCOS"]

# A level is responsible for objects whose farthest side is 4 to 8 strides away from the point.
SIZE_RANGE = (4, 8)

# The moving average of positive points in a batch starts here.
INITIAL_LOSS_NORMALIZER = 300


class FCOS(DenseDetector):
    """The detector; see `FCOSHead` for its predictions.

    Args:
        box2box_transform: code of the boxes; None takes distances to the sides, in strides.
        center_sampling_radius: a point may stand for an object if it lies this close to its centre, in strides.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str] | None = None,
        box2box_transform: Box2BoxTransform | Box2BoxTransformLinear | None = None,
        num_classes: int,
        center_sampling_radius: float = 1.5,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        test_score_thresh: float = 0.2,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.6,
        max_detections_per_image: int = 100,
        pixel_mean: list[float],
        pixel_std: list[float],
    ) -> None:
        super().__init__(backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.num_classes = num_classes
        shapes = backbone.output_shape()
        strides = [shapes[name].stride for name in self.head_in_features]
        self.anchor_generator = DefaultAnchorGenerator(
            sizes=[[stride] for stride in strides], aspect_ratios=[1.0], strides=strides
        )
        self.box2box_transform = box2box_transform or Box2BoxTransformLinear(normalize_by_size=True)
        self.center_sampling_radius = center_sampling_radius
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image

    def forward_training(
        self,
        images: ImageList,
        features: list[torch.Tensor],
        predictions: list[list[torch.Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, torch.Tensor]:
        logits, deltas, centerness = self._transpose_dense_predictions(predictions, [self.num_classes, 4, 1])
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, gt_labels, deltas, gt_boxes, centerness)

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per image: the class of each point (R,), K for background; and its box (R, 4), 0 for background.

        A point that may stand for several objects stands for the smallest.
        """
        labels, boxes = [], []
        for objects in gt_instances:
            allowed = self._allowed_pairs(anchors, objects.gt_boxes)
            classes = torch.full(allowed.shape[1:], self.num_classes, dtype=torch.int64, device=allowed.device)
            box = allowed.new_zeros((len(classes), 4), dtype=torch.float32)
            if len(objects) > 0:
                area = objects.gt_boxes.area()[:, None].where(allowed, torch.inf)
                match, positive = area.argmin(dim=0), allowed.any(dim=0)
                classes[positive] = objects.gt_classes[match[positive]]
                box[positive] = objects.gt_boxes.tensor[match[positive]]
            labels.append(classes)
            boxes.append(box)
        return labels, boxes

    def _allowed_pairs(self, anchors: list[Boxes], gt_boxes: Boxes) -> torch.Tensor:
        """(G, R): which points may stand for which objects, by centre, inside and size range."""
        points = Boxes.cat(anchors).get_centers()
        strides = torch.cat([level.tensor[:, 2] - level.tensor[:, 0] for level in anchors])
        low, high = SIZE_RANGE[0] * strides, SIZE_RANGE[1] * strides
        low[: len(anchors[0])] = 0
        high[len(high) - len(anchors[-1]) :] = torch.inf

        from_center = (points[None] - gt_boxes.get_centers()[:, None]).abs().amax(dim=2)
        sides = pairwise_point_box_distance(points, gt_boxes).transpose(0, 1)
        farthest = sides.amax(dim=2)
        near = from_center < self.center_sampling_radius * strides
        return near & (sides.amin(dim=2) > 0) & (farthest > low) & (farthest < high)

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
        pred_centerness: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Focal, GIoU and centerness losses, over a moving average of the number of positive points.

        Args:
            pred_logits, pred_anchor_deltas, pred_centerness: per level, (N, HW, K), (N, HW, 4) and (N, HW, 1).
            gt_labels, gt_boxes: per image, as `label_anchors` returns them.
        """
        labels = torch.stack(gt_labels)
        positive = labels != self.num_classes
        num_positive = positive.sum().item()
        get_event_storage().put_scalar("num_pos_anchors", num_positive / len(labels))
        normalizer = self._ema_update("loss_normalizer", max(num_positive, 1), INITIAL_LOSS_NORMALIZER)

        logits = cat(pred_logits, dim=1)
        targets = F.one_hot(labels, self.num_classes + 1)[..., :-1].to(logits.dtype)
        loss_cls = sigmoid_focal_loss_jit(
            logits, targets, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma, reduction="sum"
        )
        loss_loc = _dense_box_regression_loss(
            anchors, self.box2box_transform, pred_anchor_deltas, gt_boxes, positive, box_reg_loss_type="giou"
        )
        centerness = cat(pred_centerness, dim=1).squeeze(dim=2)[positive]
        centerness_targets = self.compute_ctrness_targets(anchors, gt_boxes)[positive].to(centerness.dtype)
        loss_ctr = F.binary_cross_entropy_with_logits(centerness, centerness_targets, reduction="sum")
        return {
            "loss_fcos_cls": loss_cls / normalizer,
            "loss_fcos_loc": loss_loc / normalizer,
            "loss_fcos_ctr": loss_ctr / normalizer,
        }

    def compute_ctrness_targets(self, anchors: list[Boxes], gt_boxes: list[torch.Tensor]) -> torch.Tensor:
        """(N, R): 1 in the middle of a box, falling to 0 at its sides (Eq. 3); undefined for points outside."""
        points = Boxes.cat(anchors).get_centers()
        boxes = torch.stack(gt_boxes)
        sides = torch.stack([points - boxes[..., :2], boxes[..., 2:] - points])
        return (sides.amin(dim=0) / sides.amax(dim=0)).prod(dim=-1).sqrt()

    def forward_inference(
        self, images: ImageList, features: list[torch.Tensor], predictions: list[list[torch.Tensor]]
    ) -> list[Instances]:
        logits, deltas, centerness = self._transpose_dense_predictions(predictions, [self.num_classes, 4, 1])
        scores = [(x.sigmoid() * c.sigmoid()).sqrt() for x, c in zip(logits, centerness)]
        anchors = self.anchor_generator(features)
        return [
            self.inference_single_image(
                anchors, [level[i] for level in scores], [level[i] for level in deltas], image_size
            )
            for i, image_size in enumerate(images.image_sizes)
        ]

    inference_single_image = RetinaNet.inference_single_image


class FCOSHead(RetinaNetHead):
    """RetinaNet's head for one anchor a cell, with a centerness logit from the box tower."""

    def __init__(self, *, input_shape: list[ShapeSpec], conv_dims: list[int], **kwargs) -> None:
        super().__init__(input_shape=input_shape, conv_dims=conv_dims, num_anchors=1, **kwargs)
        self.ctrness = nn.Conv2d(conv_dims[-1], 1, 3, padding=1)
        nn.init.normal_(self.ctrness.weight, std=0.01)
        nn.init.zeros_(self.ctrness.bias)

    def forward(
        self, features: list[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Per level: logits (N, K, H, W), distances (N, 4, H, W), centerness logits (N, 1, H, W)."""
        assert len(features) == self._num_features, f"{len(features)} features for {self._num_features} levels"
        logits, deltas, centerness = [], [], []
        for x in features:
            box_features = self.bbox_subnet(x)
            logits.append(self.cls_score(self.cls_subnet(x)))
            deltas.append(self.bbox_pred(box_features))
            centerness.append(self.ctrness(box_features))
        return logits, deltas, centerness
