"""From dense predictions to detections."""

import pytest
import torch

from defcn_ext.assignment import build_rule
from defcn_ext.branches import PointBranch
from defcn_ext.inference import Inference
from defcn_ext.inference.peak_filter import PeakFilter
from defcn_ext.structures import DensePredictions, Points
from detectron2.structures import Boxes, Instances

POINTS = Points.from_sizes([(2, 2), (1, 1)], [8, 16])  # points 0 to 3, and 4
SIZE = (16, 16)


def make_inference(**options):
    defaults = {"score_thresh": 0.5, "topk_per_level": 1000, "detections_per_image": 100, "nms_thresh": 0.5}
    return Inference(**{**defaults, **options})


def find(scores, centerness=None, how="sqrt", *, points=POINTS, dead=(), **options):
    """Candidates of images whose scores are (N, R, K); the box of point r of image n is [n, r, n + 50, r + 50].

    The boxes of the points in `dead` are not finite.
    """
    scores = torch.tensor(scores)
    n, r = torch.meshgrid(torch.arange(len(scores)), torch.arange(len(points)), indexing="ij")
    boxes = torch.stack([n, r, n + 50, r + 50], dim=-1).float()
    boxes[:, list(dead), 2] = torch.inf
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
    return make_inference(**options).candidates(branch, points, predictions, [SIZE] * len(scores))


def found(instances):
    return list(zip(instances.points.tolist(), instances.pred_classes.tolist()))


def test_candidates_score_strictly_more_than_the_threshold():
    above = torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)).item()
    (result,) = find([[[0.5], [above], [0.4], [0.9], [0.5]]])
    assert found(result) == [(3, 0), (1, 0)]


@pytest.mark.parametrize(
    "by, kept",
    [("class", [(3, 0), (1, 0)]), ("final", [(1, 0), (0, 0)]), ("order", [(1, 0), (3, 0)])],
)
def test_the_centerness_may_count_before_or_after_the_threshold(by, kept):
    """sqrt(class centerness): 0.60 of point 0, whose class score is too low, 0.77 of 1, 0.42 of 3."""
    scores, centerness = [[[0.4], [0.6], [0.1], [0.9], [0.1]]], [0.9, 0.98, 0.5, 0.2, 0.5]
    (result,) = find(scores, centerness, candidates_by=by)
    assert found(result) == kept


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


def detections(boxes, scores, classes=None, locations=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    locations = torch.tensor([[0.0] * 4] * len(boxes) if locations is None else locations).reshape(-1, 4)
    return Instances(
        SIZE,
        pred_boxes=Boxes(boxes),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes or [0] * len(boxes), dtype=torch.long),
        points=torch.arange(len(boxes)),
        locations=locations,
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


def test_the_final_detections_say_no_more_than_where_they_come_from():
    (result,) = find([[[0.9], [0.8], [0.7], [0.6], [0.9]]])
    assert result.locations[3:].tolist() == [[12, 12, 8, 0], [8, 8, 16, 1]]
    for nms in (False, True):
        kept = make_inference().finalize(result, nms=nms)
        assert set(kept.get_fields()) == {"pred_boxes", "scores", "pred_classes", "points"}
    assert result.has("locations")  # both calls read the same candidates


def test_a_point_whose_box_is_not_finite_takes_no_place_of_another():
    (result,) = find([[[0.9], [0.8], [0.7], [0.1], [0.1]]], dead=[0], topk_per_level=1)
    assert found(result) == [(1, 0)]


# A row of five cells of stride 8, then one of three of stride 16. One box for all; the scores fall from left to right.
ROWS = [(8 * x + 4.0, 4.0, 8.0, 0.0) for x in range(5)] + [(16 * x + 8.0, 8.0, 16.0, 1.0) for x in range(3)]
FALLING = [0.9, 0.8, 0.7, 0.6, 0.55, 0.52, 0.51, 0.505]


@pytest.mark.parametrize(
    "per_level, window, kept",
    [
        (True, 1, [0, 1, 2, 3, 4, 5, 6, 7]),  # DeFCN, Table 2: 1x1 is no NMS
        (True, 3, [0, 2, 4, 5, 7]),
        (True, 5, [0, 3, 5]),
        (True, 0, [0, 5]),
        (False, 1, [0, 1, 2, 3, 4]),  # each of the coarse cells holds one of the fine points
        (False, 3, [0, 2, 4]),  # coarse 0 is in reach of 0, coarse 1 of 0 (20 px < 24), coarse 2 of 2 (20 px)
        (False, 5, [0, 3]),  # coarse 2 is 36 px from 0 (< 40)
        (False, 0, [0]),
    ],
)
def test_what_nms_may_compare(per_level, window, kept):
    row = detections([FULL] * 8, FALLING, locations=ROWS)
    assert final(row, True, nms_per_level=per_level, nms_range=window) == kept


@pytest.mark.parametrize("order", [1, -1])
def test_the_window_across_levels_is_that_of_the_coarser_point_whichever_scores_higher(order):
    """Seven fine points in a row, 8 px apart, and one of stride 32 at x = 48."""
    fine = [(8 * x + 4.0, 16.0, 8.0, 0.0) for x in range(12)]
    pairs = {}
    for name, place in enumerate(fine):
        two = detections([FULL] * 2, [0.7, 0.7 + 0.1 * order], locations=[place, (48.0, 16.0, 32.0, 2.0)])
        pairs[name] = len(final(two, True, nms_range=1)) == 1
    assert [name for name, met in pairs.items() if met] == [4, 5, 6, 7]  # x = 36 to 60: within 16 px


def test_both_axes_count_and_all_eight_neighbours_meet():
    grid = [(8 * x + 4.0, 8 * y + 4.0, 8.0, 0.0) for y in range(5) for x in range(5)]
    scores = [0.6] * 25
    scores[12] = 0.9
    kept = final(detections([FULL] * 25, scores, locations=grid), True, nms_range=3)
    assert not {6, 7, 8, 11, 13, 16, 17, 18} & set(kept)
    assert kept == [12, 0, 2, 4, 10, 14, 20, 22, 24]  # of the rim, of equal scores, every other one


def test_limited_nms_compares_within_a_class_and_looks_at_the_overlap():
    same_place = [(4.0, 4.0, 8.0, 0.0)] * 4
    several = detections([FULL, FULL, FULL, HALF], [0.6, 0.7, 0.8, 0.9], [0, 1, 0, 0], same_place)
    for limits in ({"nms_range": 3}, {"nms_per_level": True}, {"nms_per_level": True, "nms_range": 3}):
        assert final(several, True, **limits) == [3, 2, 1]  # IoU of HALF and FULL is just the threshold
        assert final(several, True, nms_thresh=0.49, **limits) == [3, 1]
        assert final(several, False, **limits) == [3, 2, 1, 0]
        assert final(detections([], []), True, **limits) == []


@pytest.mark.parametrize("window", [-1, 2, 4])
def test_ranges_that_have_no_middle_are_refused(window):
    with pytest.raises(ValueError, match=rf"MODEL.DEFCN.NMS_RANGE must be odd.*got {window}"):
        make_inference(nms_range=window)


FIVE = Points.from_sizes([(1, 5)], [8])


def test_the_peaks_are_those_of_the_scores_with_centerness():
    scores = [[[0.9], [0.8], [0.7], [0.6], [0.55]]]
    one_level = {"points": FIVE, "peak_filter": PeakFilter()}
    assert found(*find(scores, **one_level)) == [(0, 0)]
    centerness = [0.1, 0.2, 0.9, 0.1, 0.5]  # products 0.09, 0.16, 0.63, 0.06, 0.275
    for how in ("sqrt", "product"):
        assert found(*find(scores, centerness, how, **one_level)) == [(2, 0), (4, 0)]


def test_scores_below_the_threshold_count_and_boxes_that_are_not_finite_do_not():
    scores, centerness = [[[0.4], [0.6], [0.9], [0.7], [0.1]]], [0.9, 0.1, 0.1, 0.1, 0.1]
    one_level = {"points": FIVE, "peak_filter": PeakFilter()}
    assert found(*find(scores, centerness, **one_level)) == [(2, 0)]  # point 0, at 0.36, is a peak below the threshold
    assert found(*find(scores, centerness, dead=[2], **one_level)) == [(3, 0)]  # and still above point 1
    assert found(*find(scores, centerness, dead=[0, 2], **one_level)) == [(3, 0), (1, 0)]


def test_the_peaks_are_chosen_before_the_best_of_a_level():
    scores = [[[0.6], [0.55], [0.8], [0.9], [0.85]]]
    options = {"points": FIVE, "topk_per_level": 2}
    assert found(*find(scores, **options)) == [(3, 0), (4, 0)]
    assert found(*find(scores, peak_filter=PeakFilter(), **options)) == [(3, 0), (0, 0)]


def test_nms_may_follow_the_peak_filter():
    scores = [[[0.6], [0.55], [0.8], [0.9], [0.85]]]  # the boxes overlap by 0.88 and more
    (result,) = find(scores, points=FIVE, peak_filter=PeakFilter())
    assert make_inference().finalize(result, nms=False).points.tolist() == [3, 0]
    assert make_inference().finalize(result, nms=True).points.tolist() == [3]


TWO_SHAPES = torch.tensor([[4.0, 4.0], [2.0, 8.0]])


def test_anchors_of_a_cell_lie_at_one_place_to_the_range_of_nms():
    """Four cells in a row with two anchors each; the boxes of all overlap."""
    anchors = Points.with_anchors([(1, 4)], [8], TWO_SHAPES)
    scores = [[[0.9], [0.8], [0.7], [0.95], [0.6], [0.65], [0.75], [0.85]]]
    kept = {}
    for nms_range in (1, 3, 0):
        (result,) = find(scores, points=anchors, nms_range=nms_range)
        kept[nms_range] = make_inference(nms_range=nms_range).finalize(result, nms=True).points.tolist()
    assert kept == {1: [3, 0, 7, 5], 3: [3, 7], 0: [3]}


def test_of_the_anchors_of_a_window_the_highest_is_a_peak():
    """As the same scores on a map of one point a cell, the higher anchor of each, would be."""
    anchors = Points.with_anchors([(1, 5)], [8], TWO_SHAPES)
    rng = torch.Generator().manual_seed(0)
    scores = torch.rand(10, 3, generator=rng)
    found = PeakFilter()(scores, anchors)
    cells = scores.view(5, 2, 3)
    alone = PeakFilter()(cells.amax(1), Points.from_sizes([(1, 5)], [8]))
    assert torch.equal(found.view(5, 2, 3), (cells == cells.amax(1, keepdim=True)) & alone[:, None]) and found.any()
    (result,) = find([[[0.9], [0.8], [0.7], [0.6]]], points=Points.with_anchors([(1, 2)], [8], TWO_SHAPES))
    assert make_inference(nms_per_level=True).finalize(result, nms=True).points.tolist() == [0]


@pytest.mark.parametrize("topk, expected", [(1000, [12, 3]), (7, [7, 3]), (2, [2, 2])])
def test_without_the_limit_of_points_a_level_gives_all_its_pairs_up_to_topk(topk, expected):
    (result,) = find([[[0.6, 0.7, 0.8]] * 5], topk_per_level=topk, topk_within_points=False)
    assert torch.bincount(result.locations[:, 3].long()).tolist() == expected


def test_of_equal_scores_the_first_points_and_classes_are_taken():
    (result,) = find([[[0.6, 0.6]] * 5], topk_per_level=3)
    assert found(result) == [(0, 0), (0, 1), (1, 0), (4, 0)]


def test_one_class_a_point():
    scores = [[[0.6, 0.9, 0.8], [0.7, 0.7, 0.6], [0.6, 0.1, 0.2], [0.1, 0.2, 0.3], [0.55, 0.56, 0.57]]]
    (result,) = find(scores, one_class_per_point=True)
    assert found(result) == [(0, 1), (1, 0), (2, 0), (4, 2)]
    (result,) = find(scores, centerness=[0.9] * 5, how="product", one_class_per_point=True)
    assert found(result) == [(0, 1), (1, 0), (2, 0), (4, 2)]
    assert result.scores[0].item() == pytest.approx(0.81)


def test_a_class_that_is_nan_is_not_the_best_of_its_point():
    scores = [[[float("nan"), 0.9], [0.1, float("nan")], [float("nan")] * 2, [0.1, 0.1], [0.1, 0.1]]]
    (result,) = find(scores, one_class_per_point=True)
    assert found(result) == [(0, 1)]


@pytest.mark.parametrize("limits", [{}, {"nms_per_level": True}, {"nms_range": 3}])
def test_nms_over_classes_compares_them_all(limits):
    same_place = [(4.0, 4.0, 8.0, 0.0)] * 4
    several = detections([FULL, FULL, FULL, [20, 20, 30, 30]], [0.6, 0.7, 0.8, 0.9], [0, 1, 2, 0], same_place)
    assert final(several, True, **limits) == [3, 2, 1, 0]
    assert final(several, True, nms_over_classes=True, **limits) == [3, 2]


def test_nms_of_clipped_boxes_sees_what_lies_inside_the_image():
    """Inside 16 x 16 both boxes are the right half; as predicted they overlap by 8 / 40 = 0.2."""
    right, wide = [8, 0, 16, 16], [8, 0, 48, 16]
    outside = [20, 0, 40, 16]
    several = detections([right, wide, outside, outside], [0.9, 0.8, 0.7, 0.6])
    assert final(several, True) == [0, 1, 2]
    assert final(several, True, nms_clipped=True) == [0, 2, 3]  # nothing of the last two is left to overlap
    kept = make_inference(nms_clipped=True).finalize(several, nms=True)
    assert kept.pred_boxes.tensor[1].tolist() == outside and several.pred_boxes.tensor[1].tolist() == wide


def test_the_best_of_many_equal_ones_are_the_first():
    """As sorting all of them says; most are cut off before."""
    points = Points.from_sizes([(20, 20)], [8])
    scores = torch.randint(6, 10, (400, 3), generator=torch.Generator().manual_seed(0)) / 10
    order = scores.flatten().argsort(descending=True, stable=True)
    for topk in (1, 50, 700, 1199, 1200, 5000):
        (result,) = find([scores.tolist()], points=points, topk_per_level=topk, topk_within_points=False)
        assert (result.points * 3 + result.pred_classes).tolist() == order[:topk].tolist()
