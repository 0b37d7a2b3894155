"""What must hold for every rule, whatever the objects and the predictions."""

import pytest
import torch

from defcn_ext.assignment import rules
from defcn_ext.structures import DensePredictions, Points, ScoreView
from tests.assignment.scenes import (
    BLIND,
    ONE_TO_ONE,
    RULES,
    SHAPES,
    as_dict,
    assign,
    build_rule,
    crowd,
    points_for,
)

every_rule = pytest.mark.parametrize("rule", RULES)


def test_every_rule_of_the_papers_is_here():
    names = {x.split("(")[0] for x in RULES}
    assert names == {
        *("POTO", "ForegroundLoss", "MinCost", "Anchor", "Center", "FCOS", "ATSS", "RetinaNet"),
        *("QualityFCOS", "QualityATSS", "QualityTopK", "Combine"),
    }
    assert names <= set(rules())


def scene_for(rule, gt_boxes, seed=0, classes=None):
    """Random predictions, with these objects."""
    gt_boxes = torch.tensor(gt_boxes, dtype=torch.float32).reshape(-1, 4)
    classes = torch.zeros(len(gt_boxes), dtype=torch.long) if classes is None else torch.tensor(classes)
    return *crowd(0, seed, points=points_for(rule))[:2], gt_boxes, classes


def check(rule, pairs, num_objects, num_points):
    """What holds of any result."""
    as_dict(pairs)
    assert pairs.covered.shape == (num_objects,) and pairs.covered.dtype == torch.bool
    assert pairs.point.dtype == pairs.object.dtype == torch.long
    assert ((pairs.point >= 0) & (pairs.point < num_points)).all()
    assert ((pairs.object >= 0) & (pairs.object < num_objects)).all()
    uncovered = ~pairs.covered[pairs.object]
    assert "nearest" in rule or not uncovered.any(), "an object without candidates has a positive"
    if rule in ONE_TO_ONE:
        assert len(set(pairs.object.tolist())) == len(pairs), "an object has two points"
    if pairs.ignored is not None:
        assert not set(pairs.ignored.tolist()) & set(pairs.point.tolist())


@every_rule
@pytest.mark.parametrize("num_objects", [0, 1, 500])
def test_any_number_of_objects(rule, num_objects):
    points = points_for(rule)
    pairs = assign(rule, *crowd(num_objects, 7, points=points))
    check(rule, pairs, num_objects, len(points))
    assert len(pairs) == 0 if num_objects == 0 else len(pairs) > 0


ODD = {
    "smaller than a stride": [[100, 100, 103, 103], [60, 60, 68, 68], [4.5, 4.5, 7, 7], [20, 20, 90, 90]],
    "without area": [[50, 50, 50, 50], [20, 30, 80, 30], [44, 20, 44, 90], [20, 20, 90, 90]],
    "partly outside": [[-60, -60, 40, 40], [300, 200, 500, 400], [-100, 50, 600, 90], [20, 20, 90, 90]],
    "wholly outside": [[-90, -90, -40, -40], [900, 900, 990, 990], [-5000, 20, -4000, 90], [20, 20, 90, 90]],
    "on the grid": [[12, 12, 76, 76], [32, 32, 96, 96], [0, 0, 320, 256], [20, 20, 90, 90]],
}


@every_rule
@pytest.mark.parametrize("kind", ODD)
def test_odd_objects(rule, kind):
    scene = scene_for(rule, ODD[kind])
    pairs = assign(rule, *scene)
    check(rule, pairs, 4, len(points_for(rule)))
    alone = assign(rule, scene[0], scene[1], scene[2][3:], scene[3][3:])
    assert len(alone) > 0  # the ordinary object is not hurt by the others where they cannot reach it
    if kind == "wholly outside" and not rule.startswith(("POTO(prior=global", "MinCost", "POTO(unc")):
        mine = pairs.point[pairs.object == 3].tolist()
        assert set(mine) == set(alone.point.tolist())


@every_rule
@pytest.mark.parametrize("classes", [[0, 0, 1], [0, 2, 1]])
def test_the_same_box_twice(rule, classes):
    scene = scene_for(rule, [[20, 20, 120, 110], [20, 20, 120, 110], [150, 60, 220, 130]], classes=classes)
    pairs = assign(rule, *scene)
    check(rule, pairs, 3, len(points_for(rule)))
    found = set(pairs.object.tolist())
    assert 2 in found and found & {0, 1}
    if rule in ONE_TO_ONE and "arg" not in rule and not rule.startswith("Anchor"):
        assert found == {0, 1, 2}  # a matching gives each of the two a point
    if rule == "RetinaNet":
        assert found == {0, 1, 2}  # the later of two claims wins, and the first keeps the other positives
    elif rule in BLIND:
        assert found == {0, 2}  # the first takes all that both want


@every_rule
def test_levels_of_one_cell(rule):
    sizes, strides = [(1, 1), (1, 1), (1, 1)], [8, 16, 32]
    with_anchors = rule.startswith("RetinaNet")
    points = Points.with_anchors(sizes, strides, SHAPES) if with_anchors else Points.from_sizes(sizes, strides)
    scores, boxes = torch.rand(len(points), 2), points.boxes(torch.rand(len(points), 4) * 20)
    gt_boxes = torch.tensor([[0.0, 0, 30, 30], [1, 2, 9, 11], [3, 3, 14, 14], [0, 0, 8, 8]])
    pairs = build_rule(rule)(points, scores, boxes, gt_boxes, torch.tensor([0, 1, 0, 1]))
    check(rule, pairs, 4, len(points))


@every_rule
def test_a_batch_is_assigned_like_its_images(rule):
    """Three images of different sizes, the second empty, their objects in a mixed order."""
    points = points_for(rule)
    images = [crowd(n, seed, points=points) for n, seed in [(15, 0), (0, 1), (8, 2)]]
    sizes = torch.tensor([[256.0, 320.0], [200.0, 300.0], [224.0, 288.0]])
    alone = [assign(rule, *x, image_sizes=sizes[i : i + 1]) for i, x in enumerate(images)]
    order = torch.randperm(23, generator=torch.Generator().manual_seed(3))
    scores, boxes = (torch.cat([x[i] for x in images]) for i in (0, 1))
    gt_boxes, gt_classes = (torch.cat([x[i] for x in images])[order] for i in (2, 3))
    image = torch.tensor([0] * 15 + [2] * 8)[order]
    batch = assign(rule, scores, boxes, gt_boxes, gt_classes, image=image, image_sizes=sizes)
    place = order.argsort().tolist()  # where each object stands in the mixed list
    expected = {}
    for index, start in [(0, 0), (2, 15)]:
        for point, object in as_dict(alone[index]).items():
            expected[point + index * len(points)] = place[object + start]
    assert as_dict(batch) == expected and len(expected) > 8
    covered = torch.cat([x.covered for x in alone])
    assert torch.equal(batch.covered, covered[order])
    if batch.ignored is not None:
        shifted = [x.ignored + i * len(points) for i, x in enumerate(alone)]
        assert set(batch.ignored.tolist()) == set(torch.cat(shifted).tolist())


@every_rule
def test_the_order_of_the_objects_does_not_matter(rule):
    scene = crowd(40, 4, points=points_for(rule))
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    first = as_dict(assign(rule, *scene))
    second = as_dict(assign(rule, *scene[:2], scene[2][order], scene[3][order]))
    assert first == {point: int(order[object]) for point, object in second.items()}


@every_rule
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read_as_float32(rule, dtype):
    scores, boxes, gt_boxes, gt_classes = crowd(30, 5, points=points_for(rule))
    half = assign(rule, scores.to(dtype), boxes.to(dtype), gt_boxes, gt_classes)
    full = assign(rule, scores.to(dtype).float(), boxes.to(dtype).float(), gt_boxes, gt_classes)
    assert as_dict(half) == as_dict(full)


@every_rule
@pytest.mark.parametrize("with_filter", [False, True])
def test_a_score_view_gives_what_its_probabilities_give(rule, with_filter):
    scores, boxes, gt_boxes, gt_classes = crowd(30, 6, points=points_for(rule))
    logits = scores.clamp(0.001, 0.999).logit()[None]
    filter = torch.randn(1, len(boxes), 1, generator=torch.Generator().manual_seed(0)) if with_filter else None
    predictions = DensePredictions(logits, boxes[None], filter)
    dense = predictions.score_logits()[0].sigmoid()
    expected = assign(rule, dense, boxes, gt_boxes, gt_classes)
    assert as_dict(assign(rule, ScoreView(predictions), boxes, gt_boxes, gt_classes)) == as_dict(expected)


BAD = {
    "nan boxes": lambda scores, boxes, bad: (scores, torch.where(bad, torch.nan, boxes)),
    "infinite boxes": lambda scores, boxes, bad: (scores, torch.where(bad, torch.inf, boxes)),
    "nan scores": lambda scores, boxes, bad: (torch.where(bad, torch.nan, scores), boxes),
    "infinite scores": lambda scores, boxes, bad: (torch.where(bad, torch.inf, scores), boxes),
    "nan logits": lambda scores, boxes, bad: (view(torch.where(bad, torch.nan, scores.logit()), boxes), boxes),
    "infinite logits": lambda scores, boxes, bad: (view(torch.where(bad, torch.inf, scores.logit()), boxes), boxes),
    "minus infinity": lambda scores, boxes, bad: (view(torch.where(bad, -torch.inf, scores.logit()), boxes), boxes),
    "infinite logits under a filter": lambda scores, boxes, bad: (
        view(torch.where(bad, torch.inf, scores.logit()), boxes, torch.ones(1, len(boxes), 1)),
        boxes,
    ),
    "an infinite filter": lambda scores, boxes, bad: (
        view(scores.logit(), boxes, torch.where(bad, torch.inf, 1.0)[None]),
        boxes,
    ),
}


def view(logits, boxes, filter=None):
    return ScoreView(DensePredictions(logits[None], boxes[None], filter))


@every_rule
@pytest.mark.parametrize("kind", BAD)
def test_predictions_that_are_not_finite_are_the_last_choice(rule, kind):
    """Every other point is bad; a few large objects have finite alternatives on every level they use."""
    points = points_for(rule)
    gt_boxes = [[10, 10, 130, 120], [150, 20, 300, 140], [40, 130, 200, 250]]
    scores, boxes, gt_boxes, classes = scene_for(rule, gt_boxes, classes=[0, 1, 2])
    scores = scores.clamp(0.001, 0.999)
    bad = (torch.arange(len(points)) % 2 == 0)[:, None]
    pairs = assign(rule, *BAD[kind](scores, boxes, bad), gt_boxes, classes)
    check(rule, pairs, 3, len(points))
    if rule in BLIND:
        assert as_dict(pairs) == as_dict(assign(rule, scores, boxes, gt_boxes, classes))
    else:
        assert set(pairs.object.tolist()) == {0, 1, 2}
        assert rule == "QualityFCOS" or not bad[pairs.point].any()  # QualityFCOS takes a level as a whole
    everything = torch.ones_like(bad)
    check(rule, assign(rule, *BAD[kind](scores, boxes, everything), gt_boxes, classes), 3, len(points))


@pytest.mark.parametrize("rule", ["POTO(prior=inside)", "POTO(prior=inside, combine=add)", "ForegroundLoss(radius=9)"])
def test_even_a_quality_of_zero_is_better_than_none(rule):
    """Two points, the first diverged, the second far from the object: DeFCN starts with many boxes without area."""
    points = Points.from_sizes([(1, 2)], [8])
    scores, boxes = torch.tensor([[torch.nan], [0.5]]), torch.tensor([[0.0, 0, 16, 8], [900, 900, 901, 901]])
    pairs = build_rule(rule)(points, scores, boxes, torch.tensor([[0.0, 0, 16, 8]]), torch.tensor([0]))
    assert pairs.point.tolist() == [1]


@every_rule
def test_predictions_that_learn(rule):
    """As they come from a model; the pairs are constants."""
    scores, boxes, *objects = crowd(6, 3, points=points_for(rule))
    pairs = assign(rule, scores.requires_grad_(), boxes.requires_grad_(), *objects)
    plain = assign(rule, scores.detach(), boxes.detach(), *objects)
    assert torch.equal(pairs.point, plain.point) and torch.equal(pairs.object, plain.object)
    assert pairs.quality is None or not pairs.quality.requires_grad
