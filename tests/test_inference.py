"""From dense predictions to detections."""

import pytest
import torch

from defcn_ext.assignment import build_rule
from defcn_ext.branches import PointBranch
from defcn_ext.inference import Inference
from defcn_ext.structures import DensePredictions, Points
from detectron2.structures import Boxes, Instances

POINTS = Points.from_sizes([(2, 2), (1, 1)], [8, 16])  # points 0 to 3, and 4
SIZE = (16, 16)


def make_inference(**options):
    defaults = {"score_thresh": 0.5, "topk_per_level": 1000, "detections_per_image": 100, "nms_thresh": 0.5}
    return Inference(**{**defaults, **options})


def find(scores, centerness=None, how="sqrt", **options):
    """Candidates of images whose scores are (N, R, K); the box of point r of image n is [n, r, n + 50, r + 50]."""
    scores = torch.tensor(scores)
    n, r = torch.meshgrid(torch.arange(len(scores)), torch.arange(len(POINTS)), indexing="ij")
    boxes = torch.stack([n, r, n + 50, r + 50], dim=-1).float()
    if centerness is not None:
        centerness = torch.tensor(centerness).logit().view(1, -1, 1)
    branch = PointBranch(
        in_channels=1,
        num_classes=scores.shape[-1],
        prior_prob=0.01,
        rule=build_rule("POTO"),
        centerness="" if centerness is None else "reg",
        centerness_score=how,
    )
    predictions = DensePredictions(scores.logit(), boxes, centerness=centerness)
    return make_inference(**options).candidates(branch, POINTS, predictions, [SIZE] * len(scores))


def found(instances):
    return list(zip(instances.points.tolist(), instances.pred_classes.tolist()))


def test_candidates_score_strictly_more_than_the_threshold():
    above = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)).item()
    (result,) = find([[[0.5], [above], [0.4], [0.9], [0.5]]])
    assert found(result) == [(3, 0), (1, 0)]


@pytest.mark.parametrize("threshold, count", [(0.0, 5), (1.0, 0)])
def test_thresholds_at_the_ends(threshold, count):
    (result,) = find([[[1e-30], [0.2], [0.3], [0.4], [0.999]]], score_thresh=threshold)
    assert len(result) == count


@pytest.mark.parametrize("topk, expected", [(1000, 5), (4, 5), (3, 4), (1, 2)])
def test_a_level_gives_topk_pairs_and_no_more_than_it_has_points(topk, expected):
    (result,) = find([[[0.6, 0.7, 0.8]] * 5], topk_per_level=topk)
    assert len(result) == expected
    assert (result.points == 4).sum() == 1


def test_each_level_chooses_for_itself():
    scores = [[[0.9, 0.8], [0.7, 0.1], [0.95, 0.1], [0.1, 0.85], [0.51, 0.6]]]
    (result,) = find(scores, topk_per_level=3)
    assert found(result) == [(2, 0), (0, 0), (3, 1), (4, 1)]
    assert result.scores.tolist() == pytest.approx([0.95, 0.9, 0.85, 0.6])


def test_images_keep_their_own_boxes_and_boxes_are_not_clipped():
    scores = torch.full((2, 5, 1), 0.1)
    scores[0, 1], scores[1, 3] = 0.9, 0.8
    first, second = find(scores.tolist())
    assert first.image_size == SIZE
    assert first.pred_boxes.tensor.tolist() == [[0, 1, 50, 51]]
    assert second.pred_boxes.tensor.tolist() == [[1, 3, 51, 53]]


@pytest.mark.parametrize("how, value", [("sqrt", 0.3), ("product", 0.09)])
def test_ranking_and_threshold_look_at_the_score_before_centerness(how, value):
    scores = [[[0.9], [0.8], [0.7], [0.6], [0.4]]]
    (result,) = find(scores, centerness=[0.1, 0.99, 0.99, 0.99, 0.99], how=how, topk_per_level=1)
    assert found(result) == [(0, 0)]  # below the threshold now, and below point 1
    assert result.scores.tolist() == pytest.approx([value])


def test_nothing_found():
    for result in find([[[0.1]] * 5] * 2):
        assert len(result) == 0 and result.pred_boxes.tensor.shape == (0, 4)
        for nms in (False, True):
            assert len(make_inference().finalize(result, nms=nms)) == 0


def detections(boxes, scores, classes=None):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    return Instances(
        SIZE,
        pred_boxes=Boxes(boxes),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes or [0] * len(boxes)),
        points=torch.arange(len(boxes)),
    )


def final(instances, nms, **options):
    return make_inference(**options).finalize(instances, nms=nms).points.tolist()


def test_the_best_remain_and_equal_scores_keep_their_order():
    many = detections([[0, 0, 1, 1]] * 200, [0.5, 0.7] * 100)
    assert final(many, False, detections_per_image=120) == [*range(1, 200, 2), *range(0, 40, 2)]


FULL, HALF = [0, 0, 10, 10], [0, 0, 10, 5]  # IoU exactly 0.5


@pytest.mark.parametrize("threshold, kept", [(0.5, [1, 0]), (0.49, [1])])
def test_nms_spares_an_overlap_of_just_the_threshold(threshold, kept):
    assert final(detections([HALF, FULL], [0.6, 0.9]), True, nms_thresh=threshold) == kept


def test_nms_compares_within_a_class():
    same_box = detections([FULL] * 4, [0.6, 0.7, 0.8, 0.9], [0, 1, 0, 2])
    assert final(same_box, True) == [3, 2, 1]
    assert final(same_box, False) == [3, 2, 1, 0]


def test_the_cut_comes_after_nms():
    twice_and_another = detections([FULL, FULL, [20, 20, 30, 30]], [0.9, 0.8, 0.7])
    assert final(twice_and_another, True, detections_per_image=2) == [0, 2]
    assert final(twice_and_another, False, detections_per_image=2) == [0, 1]
