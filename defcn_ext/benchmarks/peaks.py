"""What stands in place of NMS: peaks among overlapping boxes of the whole map, against NMS of the candidates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from defcn_ext.benchmarks.scenes import crowded_image, seconds
from defcn_ext.layers import max_over_rivals
from defcn_ext.structures import Points
from detectron2.layers import batched_nms

IOU = 0.7
TOP_K = 1000  # (point, class) pairs of each level that NMS sees


def best_of_levels(scores: Tensor, points: Points) -> tuple[Tensor, Tensor]:
    """(point, class) of the `TOP_K` best pairs of each level."""
    kept, first = [], 0
    for level in scores.split(points.counts):
        best = level.flatten().topk(min(TOP_K, level.numel())).indices
        kept.append(best + first * scores.shape[1])
        first += len(level)
    pairs = torch.cat(kept)
    return pairs.div(scores.shape[1], rounding_mode="floor"), pairs % scores.shape[1]


def benchmark_peaks(objects: Sequence[int], repeats: int, num_classes: int) -> str:
    """Both on one crowded 800 x 1216 image, from the best class of each point, and from the candidates.

    Returns:
        a markdown table of times, and NMS's divided by that of the peaks.
    """
    rows = ["| objects | candidates | NMS (ms) | peaks (ms) | NMS / peaks |", "|---|---|---|---|---|"]
    for count in objects:
        candidates, slow, fast = _times(count, repeats, num_classes)
        rows.append(f"| {count} | {candidates} | {1e3 * slow:.1f} | {1e3 * fast:.1f} | {slow / fast:.1f}x |")
    return "\n".join(rows)


def _times(count: int, repeats: int, num_classes: int) -> tuple[int, float, float]:
    points, scores, boxes, _, _ = crowded_image(count, num_classes, seed=0)
    best, label_of_best = scores.max(1)
    point, label = best_of_levels(scores, points)
    slow = seconds(lambda: batched_nms(boxes[point], scores[point, label], label, IOU), repeats)
    fast = seconds(lambda: max_over_rivals(best[None], boxes[None], label_of_best[None], points, iou=IOU), repeats)
    return len(point), slow, fast
