"""The worked examples of one-to-few and of dual weighting, and slow forms of both rules, all points by objects."""

import math
from dataclasses import dataclass, replace

import torch

from defcn_ext.structures import DensePredictions, Objects, Pairs, Points
from tests.reference import dense_giou, dense_iou, dense_prior


@dataclass
class Example:
    """Predictions of one image, and its objects."""

    points: Points
    scores: torch.Tensor  # (R, K)
    boxes: torch.Tensor  # (R, 4)
    gt_boxes: torch.Tensor
    gt_classes: torch.Tensor

    @property
    def scene(self):
        return self.points, self.scores, self.boxes, self.gt_boxes, self.gt_classes

    def objects(self):
        return Objects(
            self.gt_boxes, self.gt_classes, torch.zeros_like(self.gt_classes), torch.tensor([[640.0, 640.0]])
        )

    def predictions(self, quality=0.7):
        """The scores as products of a class score and a quality score, as logits that ask for gradients."""
        half = torch.full((1, len(self.points), 1), quality)
        quality_score = torch.maximum(half, self.scores.amax(1).sqrt()[None, :, None])
        logits = (self.scores[None] / quality_score).logit()
        maps = [logits, self.boxes[None].clone(), quality_score.logit()]
        return DensePredictions(*[x.requires_grad_() for x in maps])


def shrunk(box, iou):
    """The object's box with its right side moved in until the overlap is `iou`; GIoU is the same."""
    x1, y1, x2, _ = box
    return [x1, y1, x1 + iou * (x2 - x1), box[3]]


def o2f_example():
    """40-o2f section 12: one object, nine points in its region, point by point p and IoU; all else scores 1e-12."""
    points, box = Points.from_sizes([(5, 5)], [8]), (6.0, 6.0, 34.0, 34.0)
    p = [0.5, 0.4, 0.3, 0.2, 0.6, 0.1, 0.35, 0.25, 0.05]
    iou = [0.6, 0.7, 0.5, 0.8, 0.75, 0.9, 0.4, 0.85, 0.3]
    scores, boxes = torch.full((25, 2), 1e-12), torch.tensor([box]).repeat(25, 1)
    for index, (score, overlap) in zip(O2F_POINTS, zip(p, iou)):
        scores[index, 1] = score
        boxes[index] = torch.tensor(shrunk(box, overlap))
    return Example(points, scores, boxes, torch.tensor([box]), torch.tensor([1]))


O2F_POINTS = [6, 7, 8, 11, 12, 13, 16, 17, 18]  # the table's rows among the 5 x 5 points


def o2f_conflict(classes=(0, 0)):
    """40-o2f section 13: two objects that want one point. The points are 11, 12 and 13 of a 4 x 5 level."""
    points = Points.from_sizes([(4, 5)], [8])
    scores, boxes = torch.full((20, 2), 1e-12), torch.zeros(20, 4)
    predicted = [(0.2, [4, 12, 16, 28]), (0.6, [10, 12, 34, 28]), (0.3, [14, 12, 36, 28])]
    for index, (score, box) in zip((11, 12, 13), predicted):
        scores[index, list(classes)] = score
        boxes[index] = torch.tensor(box, dtype=torch.float32)
    gt_boxes = torch.tensor([[4.0, 12, 28, 28], [12, 12, 36, 28]])
    return Example(points, scores, boxes, gt_boxes, torch.tensor(classes))


def dw_example(count=5):
    """50-dw section 11: points in a row, the first four inside the object of class 0; `count` of them.

    They lie where the centre prior is what the example says, not on a grid, so that the candidates must be listed:
    see `with_listed`.
    """
    s = [0.5, 0.4, 0.6, 0.2, 0.3][:count]
    iou, loss = [0.8, 0.9, 0.5, 0.3, 0.0], [0.2, 0.1, 0.5, 0.75, 1.2]
    box = torch.tensor([60.0, 60.0, 140.0, 140.0])
    x = [100 + 8 * 1.11 * math.sqrt(-2 * math.log(c)) for c in (1.0, 0.6, 0.6, 0.3)] + [200.0]
    xy = torch.tensor([[x, 100.0] for x in x[:count]])
    points = Points(xy, torch.full((count,), 8.0), torch.zeros(count, dtype=torch.long), ((1, count),), (8,))
    boxes = torch.stack([_box_with(box, i, 1 - l) for i, l in zip(iou, loss)])[:count]
    return Example(points, torch.tensor([[x, 0.1] for x in s]), boxes, box[None], torch.tensor([0]))


def with_listed(rule, count=4):
    """The same rule, whose candidates are the first points with object 0."""
    pairs = Pairs(torch.arange(count), torch.zeros(count, dtype=torch.long), covered=torch.tensor([True]))
    return replace(rule, candidates=lambda scene, quality: pairs)


def _box_with(box, iou, giou):
    """A box of these overlaps with `box`: moved in, moved beside it, or moved diagonally."""
    x1, y1, x2, y2 = box.tolist()
    width, height = x2 - x1, y2 - y1
    if abs(iou - giou) < 1e-9:
        return torch.tensor(shrunk((x1, y1, x2, y2), iou))
    if iou == 0:
        gap = -2 * giou / (1 + giou) * width  # giou = -gap / (2 width + gap)
        return torch.tensor([x2 + gap, y1, x2 + gap + width, y2])
    shared = 2 * iou / (1 + iou)  # of either area

    def moved(dx):
        dy = 1 - shared / (1 - dx)
        return torch.tensor([x1 + dx * width, y1 + dy * height, x2 + dx * width, y2 + dy * height])

    low, high = 0.0, 0.5  # along y alone giou = iou; it falls towards the diagonal
    for _ in range(60):
        middle = (low + high) / 2
        above = dense_giou(moved(middle)[None].double(), box[None].double()).item() > giou
        low, high = (middle, high) if above else (low, middle)
    return moved(low)


def dense_o2f(points, scores, boxes, gt_boxes, gt_classes, ceiling, k=7, alpha=0.8, radius=1.5):
    """{point: (object, label)}, with loops, after 40-o2f sections 3 to 5; the certain ones have label 1."""
    iou, inside = dense_iou(gt_boxes, boxes).double(), dense_prior(points, gt_boxes, radius)
    p = scores[:, gt_classes].T.double()
    quality = p ** (1 - alpha) * iou**alpha * inside
    owner = {}
    for g in range(len(gt_boxes)):
        order = quality[g].argsort(descending=True, stable=True)[: min(k, int((inside[g] & (iou[g] > 0)).sum()))]
        for r in order.tolist():
            if quality[g, r] > 0 and (r not in owner or quality[g, r] > quality[owner[r], r]):
                owner[r] = g
    result = {}
    for g in range(len(gt_boxes)):
        mine = sorted((r for r, h in owner.items() if h == g), key=lambda r: -quality[g, r])
        for rank, r in enumerate(mine):
            result[r] = (g, 1.0 if rank == 0 else (p[g, r] / max(p[g, q] for q in mine[1:]) * ceiling).item())
    return result


def dense_dw(points, scores, boxes, gt_boxes, gt_classes, mu=5.0, norm_mu=3.0, beta=5.0, paper=False, bag=None):
    """(G, R) positive weights and (G, R) P, float64, after 50-dw sections 2 to 6; P is 1 outside the bags.

    `bag` (G, R) are the candidates, with a centre prior of 1; None for the whole box, with the soft prior.
    """
    iou, giou = dense_iou(gt_boxes, boxes).double(), dense_giou(gt_boxes.double(), boxes.double())
    inside = dense_prior(points, gt_boxes) if bag is None else bag
    centre = (gt_boxes[:, None, :2] + gt_boxes[:, None, 2:]).double() / 2
    steps = (points.xy[None].double() - centre) / points.stride[None, :, None]
    prior = torch.exp(-steps.square().sum(-1) / (2 * 1.11**2)) if bag is None else torch.ones_like(iou)
    t = scores[:, gt_classes].T.double() * (iou**beta if paper else torch.exp(-beta * (1 - giou)))
    total = (inside * prior * t * (norm_mu * t).exp()).sum(1, keepdim=True).clamp(min=1e-12)
    positive = inside * prior * t * (mu * t).exp() / total
    zero_at = 0.95 if paper else 1.0
    u = (iou**2 - zero_at**2) / (0.25 - zero_at**2)
    for g in range(len(gt_boxes)):
        if not paper and inside[g].any():
            low, high = u[g, inside[g]].min(), u[g, inside[g]].max().clamp(max=1)
            u[g] = (u[g] - low + 1e-12) / (high - low + 1e-12)
    return positive, torch.where(inside & (iou >= 0.5), u.clamp(0, 1), 1.0)
