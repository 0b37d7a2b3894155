"""The loss on the first branch's scores without their filter."""

import pytest
import torch

from defcn_ext.branches import AuxiliaryBranch
from defcn_ext.structures import DensePredictions, Objects, Pairs, Points

POINTS = Points.from_sizes([(1, 3)], [8])
OBJECTS = Objects(torch.tensor([[0.0, 0, 24, 8]]), torch.tensor([1]), torch.tensor([0]))


class Noting:
    """A rule that keeps the scores and boxes it was shown, and gives the object to the first `count` points."""

    weighting = None

    def __init__(self, count):
        self.count = count

    def __call__(self, points, scores, boxes, gt_boxes, gt_classes, image, **_):
        self.scores, self.boxes = scores[torch.arange(len(boxes))], boxes
        return Pairs(torch.arange(self.count), torch.zeros(self.count, dtype=torch.long))


@pytest.fixture
def first():
    """Scores of 0.5, cut down to 0.25 by the filter."""
    return DensePredictions(
        logits=torch.zeros(1, 3, 2, requires_grad=True),
        boxes=torch.rand(1, 3, 4, requires_grad=True),
        objectness=torch.zeros(1, 3, 1, requires_grad=True),
    )


def step(first, count, **options):
    branch = AuxiliaryBranch(rule=Noting(count), **options)
    predictions = branch(POINTS, None, first)
    return branch, branch.losses(POINTS, predictions, OBJECTS, branch.assign(POINTS, predictions, OBJECTS))


def test_it_sees_the_scores_without_the_filter(first):
    branch, _ = step(first, 1)
    assert branch.rule.scores.tolist() == [[0.5, 0.5]] * 3
    assert torch.equal(branch.rule.boxes, first.boxes[0])
    assert first.score_logits().sigmoid()[0, 0, 0].item() == pytest.approx(0.25)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_focal_loss_is_divided_by_its_own_number_of_positives(first, count):
    _, terms = step(first, count, cls_weight=0.5)
    total = count * 0.0433217 + (6 - count) * 0.1299651
    assert {name: value.item() for name, value in terms.items()} == pytest.approx({"cls": 0.5 * total / max(1, count)})


def test_points_its_rule_ignores_cost_nothing(first):
    branch = AuxiliaryBranch(rule=Noting(1))
    predictions = branch(POINTS, None, first)
    zero = torch.tensor([0])
    terms = branch.losses(POINTS, predictions, OBJECTS, Pairs(zero, zero, ignored=torch.tensor([2])))
    assert terms["cls"].item() == pytest.approx(0.0433217 + 3 * 0.1299651)


def test_it_moves_neither_boxes_nor_filter(first):
    branch, terms = step(first, 2)
    sum(terms.values()).backward()
    assert first.logits.grad.abs().min() > 0
    assert first.boxes.grad is None and first.objectness.grad is None
    assert list(branch.parameters()) == []
