"""A small picture for the examples in docstrings, and for a first try in a console."""

from __future__ import annotations

import torch
from torch import Tensor

from defcn_ext.structures import Points


def two_objects(anchors: bool = False) -> tuple[Points, Tensor, Tensor, Tensor, Tensor]:
    """What a rule is called with: 64 x 64 pixels, two classes, an object of each, and what a fair detector says.

    The first object lies at the top left and is 24 pixels wide, the second fills the picture. Points 0 to 63 are those
    of stride 8, row by row, and 64 to 79 those of stride 16.

    Args:
        anchors: whether every point has a square of four strides around it.

    Returns:
        points, scores (R, K), boxes (R, 4), gt_boxes (G, 4), gt_classes (G,).
    """
    sizes, strides = [(8, 8), (4, 4)], [8, 16]
    points = Points.from_sizes(sizes, strides)
    if anchors:
        points = Points.with_anchors(sizes, strides, torch.tensor([[4.0, 4.0]]), offset=0.5)
    gt_boxes = torch.tensor([[0.0, 0, 24, 24], [2, 2, 62, 62]])
    near = ((points.xy < 24).all(1) & (points.level == 0))[:, None]
    boxes = torch.where(near, gt_boxes[0], gt_boxes[1]) + points.xy.repeat(1, 2) / 16
    scores = torch.where(near, torch.tensor([0.8, 0.1]), torch.tensor([0.1, 0.7]))
    return points, scores, boxes, gt_boxes, torch.tensor([0, 1])
