"""RetinaNet (https://arxiv.org/abs/1708.02002): dense anchors, thresholds on IoU, focal loss.

Letters in shapes: `N` images, `K` classes, `A` anchors a cell, `R` anchors of all levels.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from fvcore.nn import sigmoid_focal_loss_jit
from torch import nn
from torch.nn import functional as F

from detectron2.config import CfgNode, configurable
from detectron2.layers import CycleBatchNormList, ShapeSpec, batched_nms, cat, get_norm
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.modeling.backbone import Backbone, build_backbone
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, ImageList, Instances, pairwise_iou
from detectron2.utils.events import get_event_storage

from .build import META_ARCH_REGISTRY
from .dense_detector import DenseDetector

__all__ = ["RetinaNet"]

# The moving average of positive anchors in a batch starts here.
INITIAL_LOSS_NORMALIZER = 100


@META_ARCH_REGISTRY.register()
class RetinaNet(DenseDetector):
    """The detector; see `RetinaNetHead` for its predictions."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str],
        anchor_generator: nn.Module,
        box2box_transform: Box2BoxTransform,
        anchor_matcher: Matcher,
        num_classes: int,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        pixel_mean: list[float],
        pixel_std: list[float],
        vis_period: int = 0,
        input_format: str = "BGR",
    ) -> None:
        super().__init__(backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std)
        self.num_classes = num_classes
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.anchor_matcher = anchor_matcher
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.vis_period = vis_period
        self.input_format = input_format

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        retinanet = cfg.MODEL.RETINANET
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        shapes = [shapes[name] for name in retinanet.IN_FEATURES]
        return {
            "backbone": backbone,
            "head": RetinaNetHead(cfg, shapes),
            "head_in_features": retinanet.IN_FEATURES,
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "box2box_transform": Box2BoxTransform(weights=retinanet.BBOX_REG_WEIGHTS),
            "anchor_matcher": Matcher(retinanet.IOU_THRESHOLDS, retinanet.IOU_LABELS, allow_low_quality_matches=True),
            "num_classes": retinanet.NUM_CLASSES,
            "focal_loss_alpha": retinanet.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": retinanet.FOCAL_LOSS_GAMMA,
            "smooth_l1_beta": retinanet.SMOOTH_L1_LOSS_BETA,
            "box_reg_loss_type": retinanet.BBOX_REG_LOSS_TYPE,
            "test_score_thresh": retinanet.SCORE_THRESH_TEST,
            "test_topk_candidates": retinanet.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": retinanet.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "vis_period": cfg.VIS_PERIOD,
            "input_format": cfg.INPUT.FORMAT,
        }

    def forward_training(
        self,
        images: ImageList,
        features: list[torch.Tensor],
        predictions: list[list[torch.Tensor]],
        gt_instances: list[Instances],
    ) -> dict[str, torch.Tensor]:
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances)
        return self.losses(anchors, logits, gt_labels, deltas, gt_boxes)

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], gt_instances: list[Instances]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per image: the class of each anchor (R,), K for background, -1 to ignore; and its box (R, 4)."""
        all_anchors = Boxes.cat(anchors)
        labels, boxes = [], []
        for objects in gt_instances:
            matches, match_labels = self.anchor_matcher(pairwise_iou(objects.gt_boxes, all_anchors))
            if len(objects) > 0:
                classes = objects.gt_classes[matches]
                classes[match_labels == 0] = self.num_classes
                classes[match_labels == -1] = -1
                boxes.append(objects.gt_boxes.tensor[matches])
            else:
                classes = torch.full_like(matches, self.num_classes)
                boxes.append(torch.zeros_like(all_anchors.tensor))
            labels.append(classes)
        return labels, boxes

    def losses(
        self,
        anchors: list[Boxes],
        pred_logits: list[torch.Tensor],
        gt_labels: list[torch.Tensor],
        pred_anchor_deltas: list[torch.Tensor],
        gt_boxes: list[torch.Tensor],
    ) -> dict[str, torch.Tensor]:
        """Focal loss and box regression, over a moving average of the number of positive anchors.

        Args:
            pred_logits, pred_anchor_deltas: per level, (N, HWA, K) and (N, HWA, 4).
            gt_labels, gt_boxes: per image, as `label_anchors` returns them.
        """
        labels = torch.stack(gt_labels)
        counted = labels >= 0
        positive = counted & (labels != self.num_classes)
        num_positive = positive.sum().item()
        get_event_storage().put_scalar("num_pos_anchors", num_positive / len(labels))
        normalizer = self._ema_update("loss_normalizer", max(num_positive, 1), INITIAL_LOSS_NORMALIZER)

        logits = cat(pred_logits, dim=1)[counted]
        targets = F.one_hot(labels[counted], self.num_classes + 1)[:, :-1].to(logits.dtype)
        loss_cls = sigmoid_focal_loss_jit(
            logits, targets, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma, reduction="sum"
        )
        loss_box_reg = _dense_box_regression_loss(
            anchors,
            self.box2box_transform,
            pred_anchor_deltas,
            gt_boxes,
            positive,
            box_reg_loss_type=self.box_reg_loss_type,
            smooth_l1_beta=self.smooth_l1_beta,
        )
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}

    def forward_inference(
        self, images: ImageList, features: list[torch.Tensor], predictions: list[list[torch.Tensor]]
    ) -> list[Instances]:
        logits, deltas = self._transpose_dense_predictions(predictions, [self.num_classes, 4])
        anchors = self.anchor_generator(features)
        return [
            self.inference_single_image(
                anchors, [level[i].sigmoid() for level in logits], [level[i] for level in deltas], image_size
            )
            for i, image_size in enumerate(images.image_sizes)
        ]

    def inference_single_image(
        self,
        anchors: list[Boxes],
        box_cls: list[torch.Tensor],
        box_delta: list[torch.Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """Decodes each level and suppresses duplicates of a class.

        Args:
            box_cls: per level, scores (HWA, K).
            box_delta: per level, (HWA, 4).
        """
        found = self._decode_multi_level_predictions(
            anchors, box_cls, box_delta, self.test_score_thresh, self.test_topk_candidates, image_size
        )
        keep = batched_nms(found.pred_boxes.tensor, found.scores, found.pred_classes, self.test_nms_thresh)
        return found[keep[: self.max_detections_per_image]]


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions, shared by all levels: one ends in class logits, one in box deltas.

    Args:
        input_shape: of each level.
        conv_dims: output channels of the tower's convolutions.
        norm: in the towers. With "BN" and "SyncBN" every level has its own statistics.
        prior_prob: the score that an untrained classifier gives to everything.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes: int,
        num_anchors: int,
        conv_dims: list[int],
        norm: str | Callable[[int], nn.Module] = "",
        prior_prob: float = 0.01,
    ) -> None:
        super().__init__()
        self._num_features = len(input_shape)
        if norm in ("BN", "SyncBN"):
            norm = _level_norm(norm, len(input_shape))
        self.cls_subnet = _tower([input_shape[0].channels, *conv_dims], norm)
        self.bbox_subnet = _tower([input_shape[0].channels, *conv_dims], norm)
        self.cls_score = nn.Conv2d(conv_dims[-1], num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(conv_dims[-1], num_anchors * 4, 3, padding=1)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)
        nn.init.constant_(self.cls_score.bias, math.log(prior_prob / (1 - prior_prob)))

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict:
        num_anchors = build_anchor_generator(cfg, input_shape).num_cell_anchors
        assert len(set(num_anchors)) == 1, f"a shared head needs equal numbers of anchors a level, got {num_anchors}"
        return {
            "input_shape": input_shape,
            "num_classes": cfg.MODEL.RETINANET.NUM_CLASSES,
            "num_anchors": num_anchors[0],
            "conv_dims": [input_shape[0].channels] * cfg.MODEL.RETINANET.NUM_CONVS,
            "norm": cfg.MODEL.RETINANET.NORM,
            "prior_prob": cfg.MODEL.RETINANET.PRIOR_PROB,
        }

    def forward(self, features: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Per level: logits (N, A * K, H, W) and deltas (N, A * 4, H, W)."""
        assert len(features) == self._num_features, f"{len(features)} features for {self._num_features} levels"
        logits = [self.cls_score(self.cls_subnet(x)) for x in features]
        return logits, [self.bbox_pred(self.bbox_subnet(x)) for x in features]


def _tower(channels: list[int], norm: str | Callable[[int], nn.Module]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for in_channels, out_channels in pairwise(channels):
        layers.append(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        if norm:
            layers.append(get_norm(norm, out_channels))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def _level_norm(norm: str, num_levels: int) -> Callable[[int], nn.Module]:
    bn_class = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}[norm]
    return lambda channels: CycleBatchNormList(num_levels, bn_class=bn_class, num_features=channels)
