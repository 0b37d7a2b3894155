import pytest
import torch

from defcn_ext.evaluation.outcomes import Outcome, Tally, judge, tally
from detectron2.structures import Boxes, Instances

FOUND, DUPLICATE, WRONG = Outcome


def objects(boxes, classes):
    gt = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    return Instances((100, 100), gt_boxes=Boxes(gt), gt_classes=torch.tensor(classes, dtype=torch.long))


def detections(boxes, scores, classes):
    return Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        scores=torch.tensor(scores, dtype=torch.float32),
        pred_classes=torch.tensor(classes, dtype=torch.long),
    )


def test_the_better_score_finds_and_the_other_repeats():
    found = detections([[0, 0, 10, 10], [0, 0, 10, 9]], [0.5, 0.9], [0, 0])
    assert judge(found, objects([[0, 0, 10, 10]], [0])).tolist() == [DUPLICATE, FOUND]


def test_true_neighbours_are_no_duplicates():
    # The objects' IoU is 80 / 120 = 0.667: each detection is on both objects, and each finds one.
    pair = objects([[0, 0, 10, 10], [2, 0, 12, 10]], [0, 0])
    found = detections([[0, 0, 10, 10], [2, 0, 12, 10], [1, 0, 11, 10]], [0.9, 0.8, 0.7], [0, 0, 0])
    assert judge(found, pair).tolist() == [FOUND, FOUND, DUPLICATE]


@pytest.mark.parametrize(
    ("box", "label"),
    [
        ([0, 0, 10, 5], 0),  # IoU exactly 0.5 is not above the threshold
        ([0, 0, 10, 10], 1),  # another class
        ([50, 50, 60, 60], 0),
    ],
)
def test_wrong(box, label):
    assert judge(detections([box], [0.9], [label]), objects([[0, 0, 10, 10]], [0])).tolist() == [WRONG]


def test_equal_scores_go_in_order():
    found = detections([[0, 0, 10, 10]] * 3, [0.5] * 3, [0] * 3)
    assert judge(found, objects([[0, 0, 10, 10]], [0])).tolist() == [FOUND, DUPLICATE, DUPLICATE]


def test_nothing_there():
    assert judge(detections([], [], []), objects([[0, 0, 10, 10]], [0])).tolist() == []
    assert judge(detections([[0, 0, 9, 9]], [0.5], [0]), objects([], [])).tolist() == [WRONG]
    assert Tally().duplicates_per_object == 0.0


def test_tallies_add_up():
    one = tally(torch.tensor([FOUND, DUPLICATE, DUPLICATE]), 4)
    two = tally(torch.tensor([FOUND, WRONG]), 1)
    assert one == Tally(objects=4, found=1, duplicates=2, wrong=0)
    assert one + two == Tally(objects=5, found=2, duplicates=2, wrong=1)
    assert (one + two).detections == 5
    assert (one + two).duplicates_per_object == 1.0
