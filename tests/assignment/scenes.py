"""Scenes and rules that the tests of assignment share."""

import torch

from defcn_ext.assignment import build_rule
from defcn_ext.structures import Points

SIZES, STRIDES = [(32, 40), (16, 20), (8, 10), (4, 5), (2, 3)], [8, 16, 32, 64, 128]
POINTS = Points.from_sizes(SIZES, STRIDES)

# RetinaNet's nine: ratios h / w of 0.5, 1, 2, and of each the scales 4, 4 2^(1/3), 4 2^(2/3)
SHAPES = torch.tensor(
    [[4 * 2 ** (i / 3) / ratio**0.5, 4 * 2 ** (i / 3) * ratio**0.5] for ratio in (0.5, 1.0, 2.0) for i in range(3)]
)
ANCHORS = Points.with_anchors(SIZES, STRIDES, SHAPES)

# every registered rule, and what else its options can make of it
RULES = [
    "POTO",
    "POTO(prior=inside, combine=add)",
    "POTO(select=argmax)",
    "POTO(prior=global)",
    "POTO(uncovered=nearest, invalid=0)",
    "ForegroundLoss",
    "MinCost",
    "MinCost(select=argmin, form=xyxy)",
    "Anchor",
    "Anchor(ties=nearest)",
    "Center",
    "FCOS",
    "FCOS(prior=inside)",
    "ATSS",
    "RetinaNet",
    "RetinaNet(ties=near)",
    "QualityFCOS",
    "QualityATSS",
    "QualityTopK",
    "Combine(candidates=size_range(prior=inside(uncovered=nearest)), quality=square_anchor, selection=top_k(k=2))",
]
ONE_TO_ONE = [x for x in RULES if x.startswith(("POTO", "ForegroundLoss", "MinCost", "Anchor"))]
# those that never look at a prediction
BLIND = [
    "Anchor",
    "Anchor(ties=nearest)",
    "Center",
    "FCOS",
    "FCOS(prior=inside)",
    "ATSS",
    "RetinaNet",
    "RetinaNet(ties=near)",
    RULES[-1],
]


def points_for(rule):
    return ANCHORS if rule.startswith("RetinaNet") else POINTS


def crowd(num_objects, seed=0, classes=3, points=POINTS):
    """Random objects, and predictions that hit them more or less."""
    rng = torch.Generator().manual_seed(seed)
    centre = torch.rand(num_objects, 2, generator=rng) * torch.tensor([320.0, 256.0])
    size = 4 + torch.rand(num_objects, 2, generator=rng) ** 2 * 150
    gt_boxes = torch.cat([centre - size / 2, centre + size / 2], 1)
    gt_classes = torch.randint(classes, (num_objects,), generator=rng)
    scores = torch.rand(len(points), classes, generator=rng) ** 3
    ltrb = torch.rand(len(points), 4, generator=rng) * 4 * points.stride[:, None]
    return scores, points.boxes(ltrb), gt_boxes, gt_classes


def assign(rule, scores, boxes, gt_boxes, gt_classes, **others):
    return build_rule(rule)(points_for(rule), scores, boxes, gt_boxes, gt_classes, **others)


def as_dict(pairs):
    """{point: object}."""
    assert len(set(pairs.point.tolist())) == len(pairs), "a point stands for two objects"
    return dict(zip(pairs.point.tolist(), pairs.object.tolist()))
