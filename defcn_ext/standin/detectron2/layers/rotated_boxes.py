"""Overlap of rotated boxes: centre x, y, width, height in pixels, angle in degrees, counterclockwise on the screen."""

import torch
from torch import Tensor


def pairwise_iou_rotated(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(R, 5), (G, 5) -> (R, G) float32, exact intersection over union; 0 where nothing is in common.

    Gradients do not flow through it.
    """
    first, second = boxes1.detach().double(), boxes2.detach().double()
    iou = torch.zeros(len(first), len(second), dtype=torch.float32, device=first.device)
    # Only boxes whose circumscribed circles meet can overlap: mostly few of all pairs.
    distance = torch.cdist(first[:, :2], second[:, :2], compute_mode="donot_use_mm_for_euclid_dist")
    reach = (torch.hypot(first[:, 2], first[:, 3])[:, None] + torch.hypot(second[:, 2], second[:, 3])) / 2
    # The temporaries of one chunk take some 100 MB.
    for pairs in (distance < reach).nonzero().split(1 << 18):
        i, j = pairs[:, 0], pairs[:, 1]
        iou[i, j] = _matched_iou(first[i], second[j]).float()
    return iou


def _matched_iou(first: Tensor, second: Tensor) -> Tensor:
    """(P, 5), (P, 5) -> (P,), the IoU of each row with the same row of the other."""
    half = second[:, None, 2:4] / 2
    common = _area_in_upright_box(_corners_seen_from(first, second), half[..., 0], half[..., 1])
    union = first[:, 2] * first[:, 3] + second[:, 2] * second[:, 3] - common
    return torch.where(common > 0, common / union, torch.zeros_like(common))


def _corners_seen_from(first: Tensor, second: Tensor) -> Tensor:
    """(P, 5), (P, 5) -> (P, 4, 2), the corners of the first boxes along the sides of the second, from its centre."""
    angle, relative = second[:, 4].deg2rad(), (first[:, 4] - second[:, 4]).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    dx, dy = first[:, 0] - second[:, 0], first[:, 1] - second[:, 1]
    center = torch.stack([dx * cos - dy * sin, dx * sin + dy * cos], dim=1)
    cos, sin = relative.cos() / 2, relative.sin() / 2
    right = torch.stack([cos * first[:, 2], -sin * first[:, 2]], dim=1)
    down = torch.stack([sin * first[:, 3], cos * first[:, 3]], dim=1)
    return center[:, None] + torch.stack([right + down, right - down, -right - down, down - right], dim=1)


def _area_in_upright_box(polygon: Tensor, half_width: Tensor, half_height: Tensor) -> Tensor:
    """(P, corners, 2), (P, 1), (P, 1) -> (P,), the area of a polygon inside a box around the origin.

    By Green's theorem the area of a polygon is the sum of `integral y dx` over its edges; of its part inside the box,
    the same with x and y limited to the box. Unlike a list of corners, that is continuous in all coordinates: edges
    that (almost) coincide need no special case.
    """
    x0, y0 = polygon[..., 0], polygon[..., 1]
    x1, y1 = x0.roll(-1, 1), y0.roll(-1, 1)
    left, right = _limit(x0, half_width), _limit(x1, half_width)
    start = y0 + _fraction(left - x0, x1 - x0) * (y1 - y0)
    end = y0 + _fraction(right - x0, x1 - x0) * (y1 - y0)
    # y limited to the box: level at first, sloped, level again.
    low, high = _limit(start, half_height), _limit(end, half_height)
    before, after = _fraction(low - start, end - start), _fraction(end - high, end - start)
    mean = before * low + (1 - before - after) * (low + high) / 2 + after * high
    return ((right - left) * mean).sum(dim=1).abs()


def _limit(values: Tensor, bound: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(values, -bound), bound)


def _fraction(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole in [0, 1]; 0 of nothing."""
    return torch.where(whole == 0, torch.zeros_like(part), part / whole).clamp(0.0, 1.0)
