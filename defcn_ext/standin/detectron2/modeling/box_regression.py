"""Codes between boxes and regression targets, and the regression loss of dense detectors."""

import math

import torch
from fvcore.nn import giou_loss, smooth_l1_loss

from detectron2.layers import cat, ciou_loss, diou_loss
from detectron2.structures import Boxes

__all__ = ["Box2BoxTransform", "Box2BoxTransformLinear", "Box2BoxTransformRotated"]

# exp() of a size delta is limited, so that an untrained regressor cannot overflow: a 16-pixel anchor grows to 1000.
DEFAULT_SCALE_CLAMP = math.log(1000.0 / 16)

_IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


class Box2BoxTransform:
    """R-CNN's code: centre shift relative to the source box, and log ratio of the sizes.

    Args:
        weights: factors on (dx, dy, dw, dh).
        scale_clamp: largest log ratio of sizes when decoding.
    """

    def __init__(self, weights: tuple[float, float, float, float], scale_clamp: float = DEFAULT_SCALE_CLAMP) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """(R, 4) deltas that turn `src_boxes` (R, 4) into `target_boxes` (R, 4). Source boxes must have an area."""
        src_center, src_size = _center_size(src_boxes)
        target_center, target_size = _center_size(target_boxes)
        assert (src_size > 0).all(), "source boxes of Box2BoxTransform must have an area"
        shift = (target_center - src_center) / src_size
        deltas = torch.cat([shift, torch.log(target_size / src_size)], dim=-1)
        return deltas * deltas.new_tensor(self.weights)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (R, 4k) from deltas (R, 4k), k >= 1 for each of `boxes` (R, 4), in float32."""
        deltas = deltas.float().unflatten(1, (-1, 4))
        deltas = deltas / deltas.new_tensor(self.weights)
        center, size = _center_size(boxes.to(deltas.dtype)[:, None])
        shift, log_ratio = deltas.split(2, dim=-1)
        center = center + shift * size
        half = 0.5 * size * log_ratio.clamp(max=self.scale_clamp).exp()
        return torch.cat([center - half, center + half], dim=-1).flatten(1)


class Box2BoxTransformRotated:
    """R-CNN's code for rotated boxes (R, 5): that of `Box2BoxTransform`, and the turn in radians.

    Args:
        weights: factors on (dx, dy, dw, dh, da).
        scale_clamp: largest log ratio of sizes when decoding.
    """

    def __init__(
        self, weights: tuple[float, float, float, float, float], scale_clamp: float = DEFAULT_SCALE_CLAMP
    ) -> None:
        self.weights = weights
        self.scale_clamp = scale_clamp

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """(R, 5) deltas that turn `src_boxes` (R, 5) into `target_boxes` (R, 5), by less than half a turn."""
        src_center, src_size, src_angle = src_boxes.split([2, 2, 1], dim=-1)
        target_center, target_size, target_angle = target_boxes.split([2, 2, 1], dim=-1)
        assert (src_size > 0).all(), "source boxes of Box2BoxTransformRotated must have an area"
        shift = (target_center - src_center) / src_size
        turn = _half_turns(target_angle - src_angle).deg2rad()
        deltas = torch.cat([shift, torch.log(target_size / src_size), turn], dim=-1)
        return deltas * deltas.new_tensor(self.weights)

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (R, 5k) from deltas (R, 5k), k >= 1 for each of `boxes` (R, 5); angles in [-180, 180)."""
        deltas = deltas.unflatten(1, (-1, 5))
        shift, log_ratio, turn = (deltas / deltas.new_tensor(self.weights)).split([2, 2, 1], dim=-1)
        center, size, angle = boxes.to(deltas.dtype)[:, None].split([2, 2, 1], dim=-1)
        size_after = size * log_ratio.clamp(max=self.scale_clamp).exp()
        angle_after = _half_turns(angle + turn.rad2deg())
        return torch.cat([center + shift * size, size_after, angle_after], dim=-1).flatten(1)


class Box2BoxTransformLinear:
    """FCOS's code: the distances from the source box's centre to the four sides (left, top, right, bottom).

    Args:
        normalize_by_size: distances in units of the source box's width and height.
    """

    def __init__(self, normalize_by_size: bool = True) -> None:
        self.normalize_by_size = normalize_by_size

    def get_deltas(self, src_boxes: torch.Tensor, target_boxes: torch.Tensor) -> torch.Tensor:
        """(R, 4) distances from the centres of `src_boxes` (R, 4) to the sides of `target_boxes` (R, 4)."""
        center, size = _center_size(src_boxes)
        deltas = torch.cat([center - target_boxes[..., :2], target_boxes[..., 2:] - center], dim=-1)
        return deltas / size.repeat(1, 2) if self.normalize_by_size else deltas

    def apply_deltas(self, deltas: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes (R, 4k) from distances (R, 4k), k >= 1 for each of `boxes` (R, 4), in float32; below 0 counts as 0."""
        distances = deltas.float().relu().unflatten(1, (-1, 4))
        center, size = _center_size(boxes.to(distances.dtype)[:, None])
        if self.normalize_by_size:
            distances = distances * size.repeat(1, 1, 2)
        left_top, right_bottom = distances.split(2, dim=-1)
        return torch.cat([center - left_top, center + right_bottom], dim=-1).flatten(1)


def _half_turns(angle: torch.Tensor) -> torch.Tensor:
    """The same angle in [-180, 180) degrees."""
    return (angle + 180) % 360 - 180


def _center_size(boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    low, high = boxes[..., :2], boxes[..., 2:]
    return (low + high) / 2, high - low


def _dense_box_regression_loss(
    anchors: list[Boxes | torch.Tensor],
    box2box_transform: Box2BoxTransform | Box2BoxTransformLinear,
    pred_anchor_deltas: list[torch.Tensor],
    gt_boxes: list[torch.Tensor],
    fg_mask: torch.Tensor,
    box_reg_loss_type: str = "smooth_l1",
    smooth_l1_beta: float = 0.0,
) -> torch.Tensor:
    """Sum of the regression loss over the foreground of all images.

    Args:
        anchors: per level, (HWA, 4).
        pred_anchor_deltas: per level, (N, HWA, 4).
        gt_boxes: per image, the box of each anchor (R, 4).
        fg_mask: (N, R), where the loss counts.
        box_reg_loss_type: smooth_l1 (on deltas) or giou, diou, ciou (on decoded boxes).

    Raises:
        ValueError: unknown loss type.
    """
    if box_reg_loss_type != "smooth_l1" and box_reg_loss_type not in _IOU_LOSSES:
        known = ", ".join(["smooth_l1", *_IOU_LOSSES])
        raise ValueError(f"unknown box regression loss {box_reg_loss_type!r}; known: {known}")
    flat = cat([a.tensor if isinstance(a, Boxes) else a for a in anchors])
    src = flat.expand(len(gt_boxes), -1, -1)[fg_mask]
    target = torch.stack(list(gt_boxes))[fg_mask]
    deltas = cat(pred_anchor_deltas, dim=1)[fg_mask]
    if box_reg_loss_type == "smooth_l1":
        target_deltas = box2box_transform.get_deltas(src, target)
        return smooth_l1_loss(deltas, target_deltas, beta=smooth_l1_beta, reduction="sum")
    boxes = box2box_transform.apply_deltas(deltas, src)
    return _IOU_LOSSES[box_reg_loss_type](boxes, target, reduction="sum")
