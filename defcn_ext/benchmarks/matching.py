"""Exact matching: the full matrix against sparse pairs."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from defcn_ext.assignment import build_rule
from defcn_ext.assignment.candidates import center
from defcn_ext.assignment.scene import make_scene
from defcn_ext.benchmarks.scenes import crowded_image, seconds
from defcn_ext.structures import Points


def dense_poto(points: Points, scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> float:
    """The obvious route: the full quality matrix, then scipy's dense solver. Returns the total quality."""
    xy, reach = points.xy[None], 1.5 * points.stride[None, :, None]
    middle = (gt_boxes[:, None, :2] + gt_boxes[:, None, 2:]) / 2
    low = torch.maximum(middle - reach, gt_boxes[:, None, :2])
    high = torch.minimum(middle + reach, gt_boxes[:, None, 2:])
    inside = torch.cat([xy - low, high - xy], -1).amin(-1) > 0
    top_left = torch.maximum(gt_boxes[:, None, :2], boxes[None, :, :2])
    bottom_right = torch.minimum(gt_boxes[:, None, 2:], boxes[None, :, 2:])
    intersection = (bottom_right - top_left).clamp(min=0).prod(-1)
    area_a = (gt_boxes[:, 2:] - gt_boxes[:, :2]).clamp(min=0).prod(-1)
    area_b = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(-1)
    iou = intersection / (area_a[:, None] + area_b[None] - intersection).clamp(min=1e-7)
    quality = scores[:, gt_classes].T ** 0.2 * iou**0.8
    matrix = torch.where(inside, quality, -1.0).numpy()
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    return float(matrix[rows, columns].clip(min=0).sum())


def sparse_poto(points: Points, scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> int:
    """The rule of this package, everything included: candidates, quality, matching. Returns the number of pairs."""
    return len(build_rule("POTO")(points, scores, boxes, gt_boxes, gt_classes))


def benchmark_matching(counts: list[int], repeats: int, num_classes: int) -> str:
    """POTO on one 800 x 1216 image: dense quality matrix and dense solver against sparse pairs, in one run.

    Returns:
        a markdown table, with the ratio of the medians.
    """
    rows = ["| objects | candidates | dense (ms) | sparse (ms) | ratio |", "|---|---|---|---|---|"]
    for count in counts:
        image = crowded_image(count, num_classes, seed=count)
        dense = seconds(lambda image=image: dense_poto(*image), repeats)
        sparse = seconds(lambda image=image: sparse_poto(*image), repeats * 5)
        pairs = num_candidates(*image)
        rows.append(f"| {count} | {pairs} | {1e3 * dense:.1f} | {1e3 * sparse:.2f} | {dense / sparse:.0f}x |")
        print(f"{count} objects done", flush=True)
    return "\n".join(rows)


def num_candidates(points: Points, scores: Tensor, boxes: Tensor, gt_boxes: Tensor, gt_classes: Tensor) -> int:
    """How many (point, object) pairs the center prior leaves."""
    return len(center(1.5)(make_scene(points, scores, boxes, gt_boxes, gt_classes), None))
