"""Slow, obvious forms of what the package does sparsely: full (objects x points) matrices, loops, a dense solver."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment


def dense_iou(a, b):
    """(A, 4), (B, 4) -> (A, B)."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    inter = (high - low).clamp(min=0).prod(-1)

    def area(x):
        return (x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1)

    return inter / (area(a)[:, None] + area(b)[None] - inter).clamp(min=1.19e-7)


def dense_prior(points, gt_boxes, radius=None):
    """(G, R): strictly inside the box, and inside the centre square where `radius` is given."""
    box = gt_boxes[:, None].expand(-1, len(points), -1)
    if radius is not None:
        middle = (box[..., :2] + box[..., 2:]) / 2
        reach = radius * points.stride[None, :, None]
        box = torch.cat([torch.maximum(middle - reach, box[..., :2]), torch.minimum(middle + reach, box[..., 2:])], -1)
    xy = points.xy[None]
    return torch.cat([xy - box[..., :2], box[..., 2:] - xy], -1).amin(-1) > 0


def dense_poto_quality(scores, boxes, gt_boxes, gt_classes, alpha=0.8):
    """(G, R)."""
    return scores[:, gt_classes].T ** (1 - alpha) * dense_iou(gt_boxes, boxes) ** alpha


def dense_match(quality, valid, invalid=-1.0):
    """The optimum over the full matrix, less the invalid pairs: [(object, point)], and its total quality."""
    matrix = torch.where(valid, quality, torch.tensor(float(invalid))).double().numpy()
    rows, columns = linear_sum_assignment(matrix, maximize=True)
    keep = valid.numpy()[rows, columns]
    return list(zip(rows[keep].tolist(), columns[keep].tolist())), float(matrix[rows, columns].sum())


def dense_fcos(points, gt_boxes, radius=1.5):
    """{point: object} by size range and smallest area, with loops."""
    valid = dense_prior(points, gt_boxes, radius)
    edges = [-1.0, *[8.0 * s for s in points.strides[:-1]], float("inf")]
    assigned = {}
    for r in range(len(points)):
        level, (x, y) = int(points.level[r]), points.xy[r].tolist()
        best = None
        for g, (x1, y1, x2, y2) in enumerate(gt_boxes.tolist()):
            reach = max(x - x1, y - y1, x2 - x, y2 - y)
            if valid[g, r] and edges[level] <= reach <= edges[level + 1]:
                area = (x2 - x1) * (y2 - y1)
                if best is None or area < best[0]:
                    best = (area, g)
        if best is not None:
            assigned[r] = best[1]
    return assigned


def dense_quality_atss(points, scores, boxes, gt_boxes, gt_classes, k=9):
    """{point: object}, with loops, after 10-defcn section 6."""
    quality = dense_poto_quality(scores, boxes, gt_boxes, gt_classes).numpy()
    inside = dense_prior(points, gt_boxes).numpy()
    level = points.level.numpy()
    best = {}
    for g in range(len(gt_boxes)):
        chosen = []
        for l in range(len(points.sizes)):
            members = np.flatnonzero(level == l)
            chosen += members[np.argsort(-quality[g, members], kind="stable")[:k]].tolist()
        values = quality[g, chosen]
        threshold = values.mean() + values.std(ddof=1)
        for r in chosen:
            q = quality[g, r]
            if q >= threshold and q > 0 and inside[g, r] and q > best.get(r, (-1, None))[0]:
                best[r] = (q, g)
    return {r: g for r, (_, g) in best.items()}
