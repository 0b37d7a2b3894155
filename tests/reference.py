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


def dense_nearest(points, gt_boxes, k):
    """(G, R): the k points of each level nearest to the object's centre; of equally near ones the first."""
    middle = (gt_boxes[:, None, :2] + gt_boxes[:, None, 2:]).double() / 2
    distance = (points.xy[None].double() - middle).square().sum(-1)
    chosen = torch.zeros(len(gt_boxes), len(points), dtype=torch.bool)
    for level in range(len(points.sizes)):
        members = (points.level == level).nonzero().squeeze(1)
        order = distance[:, members].argsort(dim=1, stable=True)[:, :k]
        chosen.scatter_(1, members[order], True)
    return chosen


def dense_square_iou(points, gt_boxes, scale):
    """(G, R): IoU of the objects with squares around the points, `scale` strides wide."""
    half = points.stride[:, None] * scale / 2
    return dense_iou(gt_boxes, torch.cat([points.xy - half, points.xy + half], dim=1))


def dense_atss(points, gt_boxes, k=9, scale=8):
    """{point: object}, with loops, after 10-defcn section 6."""
    near, iou = dense_nearest(points, gt_boxes, k).numpy(), dense_square_iou(points, gt_boxes, scale).double().numpy()
    inside, best = dense_prior(points, gt_boxes).numpy(), {}
    for g in range(len(gt_boxes)):
        chosen = np.flatnonzero(near[g]).tolist()
        threshold = iou[g, chosen].mean() + iou[g, chosen].std(ddof=1)
        for r in chosen:
            if inside[g, r] and iou[g, r] >= threshold and iou[g, r] > best.get(r, (0, None))[0]:
                best[r] = (iou[g, r], g)
    return {r: g for r, (_, g) in best.items()}


def dense_anchor(points, gt_boxes, scale=4, ties="first"):
    """{point: object}: the square of highest IoU over all levels, of equal ones the first; the larger IoU wins it."""
    iou, best = dense_square_iou(points, gt_boxes, scale), {}
    for g, box in enumerate(gt_boxes):
        r = int(np.flatnonzero(iou[g].numpy() == iou[g].max().item())[0])
        if ties == "nearest":
            equal = (iou[g] >= iou[g].max() * (1 - 1e-6)).nonzero().squeeze(1)
            middle = (box[:2] + box[2:]) / 2
            r = int(equal[(points.xy[equal] - middle).square().sum(1).argmin()])
        if iou[g, r] > best.get(r, (0, None))[0]:
            best[r] = (iou[g, r].item(), g)
    return {r: g for r, (_, g) in best.items()}


def dense_center(points, gt_boxes):
    """{point: object}: on each level the nearest point, if its level is meant for the object; the smallest wins."""
    near, edges = dense_nearest(points, gt_boxes, 1), [-1.0, *[8.0 * s for s in points.strides[:-1]], float("inf")]
    best = {}
    for g, r in near.nonzero().tolist():
        (x, y), (x1, y1, x2, y2), level = points.xy[r].tolist(), gt_boxes[g].tolist(), int(points.level[r])
        area = (x2 - x1) * (y2 - y1)
        fits = edges[level] <= max(x - x1, y - y1, x2 - x, y2 - y) <= edges[level + 1]
        if fits and area < best.get(r, (float("inf"), None))[0]:
            best[r] = (area, g)
    return {r: g for r, (_, g) in best.items()}


def dense_retinanet(anchors, gt_boxes, positive=0.5, negative=0.4, tie=0.0):
    """{anchor: object} and the set of ignored anchors, from the full matrix (20-date section 3).

    With `tie` 0 the later object wins a claim, else the one of larger IoU.
    """
    iou = dense_iou(anchors, gt_boxes).numpy()
    claimed, assigned, ignored = {}, {}, set()
    for g in range(len(gt_boxes)):
        highest = iou[:, g].max()
        for r in np.flatnonzero((iou[:, g] >= highest * (1 - tie)) & (iou[:, g] > 0)):
            if tie == 0 or iou[r, g] > claimed.get(r, (0, None))[0]:
                claimed[r] = (iou[r, g], g)
    for r in range(len(anchors)) if len(gt_boxes) else ():
        g = int(iou[r].argmax())
        if r in claimed:
            assigned[r] = claimed[r][1]
        elif iou[r, g] >= positive:
            assigned[r] = g
        elif iou[r, g] >= negative:
            ignored.add(r)
    return {int(r): g for r, g in assigned.items()}, ignored


def dense_quality_fcos(points, quality, valid):
    """{point: object}: all valid points of the level of the object's best one; the larger quality wins a point."""
    quality, valid, level, best = quality.numpy(), valid.numpy(), points.level.numpy(), {}
    for g in range(len(quality)):
        if not valid[g].any():
            continue
        chosen = level[np.where(valid[g], quality[g], -1.0).argmax()]
        for r in np.flatnonzero(valid[g] & (level == chosen)).tolist():
            if quality[g, r] > best.get(r, (-1, None))[0]:
                best[r] = (quality[g, r], g)
    return {r: g for r, (_, g) in best.items()}


def dense_top_k(quality, valid, k=9):
    """{point: object}: the k best valid points of each object; the larger quality wins a point."""
    quality, valid, best = quality.numpy(), valid.numpy(), {}
    for g in range(len(quality)):
        order = np.argsort(np.where(valid[g], -quality[g], np.inf), kind="stable")[:k]
        for r in order[valid[g, order]].tolist():
            if quality[g, r] > best.get(r, (-1e30, None))[0]:
                best[r] = (quality[g, r], g)
    return {r: g for r, (_, g) in best.items()}


def dense_giou(a, b):
    """(A, 4), (B, 4) -> (A, B)."""
    low = torch.minimum(a[:, None, :2], b[None, :, :2])
    high = torch.maximum(a[:, None, 2:], b[None, :, 2:])
    hull = (high - low).prod(-1)

    def area(x):
        return (x[:, 2:] - x[:, :2]).clamp(min=0).prod(-1)

    iou = dense_iou(a, b)
    union = (area(a)[:, None] + area(b)[None]) / (1 + iou)
    return iou - (hull - union) / hull.clamp(min=1.19e-7)


def dense_foreground_cost(scores, boxes, gt_boxes, gt_classes, giou=2.0, alpha=0.25, gamma=2):
    """(G, R): the whole focal loss against the one-hot class, all K terms, + 2 (1 - GIoU) (10-defcn section 3)."""
    p, cost = scores.double(), []
    for c in gt_classes.tolist():
        y = torch.nn.functional.one_hot(torch.tensor(c), scores.shape[1])
        terms = -y * alpha * (1 - p) ** gamma * p.log() - (1 - y) * (1 - alpha) * p**gamma * (1 - p).log()
        cost.append(terms.sum(1))
    focal = torch.stack(cost) if cost else p.new_zeros(0, len(boxes))
    return focal + giou * (1 - dense_giou(gt_boxes.double(), boxes.double()))


def dense_min_cost(scores, boxes, gt_boxes, gt_classes, size, form="cxcywh", cls=2.0, l1=5.0, giou=2.0):
    """(G, R): OneNet's cost; `size` is the height and width of the image (20-date section 2)."""
    p = scores[:, gt_classes].T.double()
    focal = 0.25 * (1 - p) ** 2 * -p.log() - 0.75 * p**2 * -(1 - p).log()

    def coordinates(x):
        x = x.double() / torch.tensor([size[1], size[0], size[1], size[0]])
        return x if form == "xyxy" else torch.cat([(x[:, :2] + x[:, 2:]) / 2, x[:, 2:] - x[:, :2]], 1)

    distance = torch.cdist(coordinates(gt_boxes), coordinates(boxes), p=1)
    return cls * focal + l1 * distance - giou * dense_giou(gt_boxes.double(), boxes.double())
