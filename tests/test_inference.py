"""From dense predictions to detections."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from defcn_ext.assignment import build_rule
from defcn_ext.branches import PointBranch
from defcn_ext.inference import Inference, PeakFilter
from defcn_ext.structures import DensePredictions, Points
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from tests.tiny import ALL, batch, tiny_cfg

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


@pytest.mark.parametrize("tau, kernel, key", [(1, 3, "TAU"), (-2, 3, "TAU"), (2, 2, "KERNEL"), (2, 0, "KERNEL")])
def test_peak_filters_that_have_no_middle_are_refused(tau, kernel, key):
    with pytest.raises(ValueError, match=f"MODEL.DEFCN.PEAK_FILTER.{key} must be"):
        PeakFilter(tau, kernel)


ONE = Points.from_sizes([(4, 5)], [8])
TWO = Points.from_sizes([(8, 8), (4, 4)], [8, 16])


def peaks(*maps, points=ONE, tau=2, kernel=3):
    """Stays of one class, as lists of the (row, column) of each level; `maps` are (H, W)."""
    stays = PeakFilter(tau, kernel)(torch.cat([x.flatten() for x in maps])[:, None], points)[:, 0]
    return [x.view(size).nonzero().tolist() for x, size in zip(stays.split(points.counts), points.sizes)]


def test_of_an_impulse_its_neighbours_go():
    scores = torch.full((4, 5), 0.1)
    scores[1, 1] = 0.9
    far = [[r, c] for r in range(4) for c in range(5) if r == 3 or c >= 3]
    assert peaks(scores) == [sorted([[1, 1], *far])]
    assert peaks(scores, kernel=5) == [[[0, 4], [1, 1], [1, 4], [2, 4], [3, 4]]]


def test_at_the_border_the_window_holds_what_exists():
    """Negative infinity is beyond the border: a corner needs to be the largest of its own four cells only."""
    scores = torch.arange(20.0).view(4, 5) / 100
    scores[0, 0] = 0.08
    assert peaks(scores) == [[[0, 0], [3, 4]]]


def test_equal_maxima_all_stay():
    assert len(peaks(torch.full((4, 5), 0.3))[0]) == 20
    scores = torch.zeros(4, 5)
    scores[1, 1:4] = 0.7
    scores[2, 2] = 0.69
    assert [x for x in peaks(scores)[0] if x[0] < 3 and 0 < x[1] < 4] == [[1, 1], [1, 2], [1, 3]]


def test_the_smallest_window_lets_everything_stay():
    maps = torch.rand(8, 8), torch.rand(4, 4)
    assert [len(x) for x in peaks(*maps, points=TWO, tau=0, kernel=1)] == [64, 16]


# 10-defcn, "What to test": row 1 of what an impulse at (1, 1) of a 4x4 map makes on the 8x8 map below it
@pytest.mark.parametrize("column, height", list(enumerate([0.1875, 0.5625, 0.5625, 0.5625, 0.5625, 0.1875])))
def test_a_finer_point_must_reach_what_the_coarser_level_makes_of_a_peak(column, height):
    coarse = torch.zeros(4, 4)
    coarse[1, 1] = 1.0
    for value, stays in ((height, True), (height - 1e-3, False)):
        fine = torch.zeros(8, 8)
        fine[1, column] = value
        first, second = peaks(fine, coarse, points=TWO)
        assert ([1, column] in first) == stays
        assert [1, 1] in second
        assert [1, column] in peaks(fine, coarse, points=TWO, tau=0)[0]


def test_a_coarser_point_sees_the_mean_of_the_four_finer_ones_in_its_cell():
    fine, coarse = torch.zeros(8, 8), torch.zeros(4, 4)
    fine[2, 3] = 0.8  # a quarter of it in cell (1, 1)
    for value, stays in ((0.2, True), (0.19, False)):
        coarse[1, 1] = value
        assert ([1, 1] in peaks(fine, coarse, points=TWO)[1]) == stays
        assert ([1, 1] in peaks(fine, coarse, points=TWO, kernel=1)[1]) == stays
    assert [1, 1] in peaks(fine, coarse, points=TWO, tau=0)[1]


def test_each_class_has_its_own_peaks_and_nan_is_none():
    scores = torch.full((20, 2), 0.1)
    scores[6, 0], scores[7, 1], scores[0, 0] = 0.9, 0.8, torch.nan
    stays = PeakFilter()(scores, ONE)
    assert stays[6].tolist() == [True, False] and stays[7].tolist() == [False, True]
    assert stays[0].tolist() == [False, True]
    scores[6, 0] = 0.1
    assert PeakFilter()(scores, ONE)[:, 0].tolist() == [False] + [True] * 19  # for the others NaN is below 0.1


def slow_peaks(maps, tau, kernel):
    """Loops over levels, classes and cells; maps (K, H, W)."""
    stays = []
    for level, scores in enumerate(maps):
        near = [x for i, x in enumerate(maps) if abs(i - level) <= tau // 2]
        near = [F.interpolate(x[None], size=scores.shape[1:], mode="bilinear")[0] for x in near]
        half = kernel // 2
        for y in range(scores.shape[1]):
            for x in range(scores.shape[2]):
                windows = [m[:, max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1] for m in near]
                stays.append([all(scores[k, y, x] >= w[k].max() for w in windows) for k in range(len(scores))])
    return torch.tensor(stays)


@pytest.mark.parametrize("tau, kernel", [(0, 1), (0, 3), (2, 1), (2, 3), (4, 5)])
def test_peaks_of_odd_sizes_equal_loops(tau, kernel):
    points = Points.from_sizes([(7, 9), (4, 5), (2, 3)], [8, 16, 32])
    maps = [torch.rand(2, h, w) for h, w in points.sizes]
    scores = torch.cat([x.flatten(1).T for x in maps])
    stays = PeakFilter(tau, kernel)(scores, points)
    assert torch.equal(stays, slow_peaks(maps, tau, kernel))
    assert stays.any() and (stays.all() == ((tau, kernel) == (0, 1)))


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


@pytest.mark.parametrize("options, key", [({"nms_range": 3}, "NMS_RANGE"), ({"peak_filter": PeakFilter()}, "PEAK_F")])
def test_several_anchors_a_cell_are_refused_where_cells_are_counted(options, key):
    anchors = Points.with_anchors([(1, 2)], [8], torch.tensor([[4.0, 4.0], [2.0, 8.0]]))
    scores = [[[0.9], [0.8], [0.7], [0.6]]]
    with pytest.raises(ValueError, match=f"MODEL.DEFCN.{key}.* needs one point a cell, this branch has 2"):
        find(scores, points=anchors, **options)
    (result,) = find(scores, points=anchors, nms_per_level=True)
    assert make_inference(nms_per_level=True).finalize(result, nms=True).points.tolist() == [0]


KEYS = "MODEL.DEFCN."


def detect(name, *options):
    """Detections of the tiny detector on three images, all scores allowed, boxes of about 8 cells a side."""
    torch.manual_seed(0)
    options = [x if i % 2 else KEYS + x for i, x in enumerate(options)]
    cfg = tiny_cfg(*ALL[name], KEYS + "SCORE_THRESH_TEST", 0.0, "TEST.DETECTIONS_PER_IMAGE", 10000, *options)
    model = build_model(cfg).eval()
    with torch.no_grad():
        model.branches[model.test_branch].bbox_pred.bias.fill_(4.0)
        return model, model(batch())


def same(a, b):
    return (
        len(a) == len(b) and torch.equal(a.scores, b.scores) and torch.equal(a.pred_boxes.tensor, b.pred_boxes.tensor)
    )


def test_the_keys_of_the_nms_study_reach_the_detector():
    counts = []
    for limits in (("NMS_PER_LEVEL", True, "NMS_RANGE", 1), ("NMS_RANGE", 3), ("NMS_PER_LEVEL", True), ()):
        model, results = detect("fcos", *limits)
        assert model.inference.nms_per_level == ("NMS_PER_LEVEL" in limits)
        counts.append([len(x["with_nms"]) for x in results])
        if "NMS_RANGE" in limits and "NMS_PER_LEVEL" in limits:
            assert model.inference.nms_range == 1
            assert all(same(x["with_nms"], x["without_nms"]) for x in results)
    nothing, near, level, unlimited = counts
    for n in range(3):
        assert unlimited[n] < near[n] < nothing[n] and unlimited[n] <= level[n] < nothing[n]


@pytest.mark.parametrize("name", ["fcos", "fcos_centerness", "poto_3dmf"])
def test_the_keys_of_the_peak_filter_reach_the_detector(name):
    _, plain = detect(name)
    _, identity = detect(name, "PEAK_FILTER.ENABLED", True, "PEAK_FILTER.TAU", 0, "PEAK_FILTER.KERNEL", 1)
    model, filtered = detect(name, "PEAK_FILTER.ENABLED", True)
    assert model.inference.peak_filter == PeakFilter(2, 3)
    for before, same_again, after in zip(plain, identity, filtered):
        assert same(before["without_nms"], same_again["without_nms"])
        assert 0 < len(after["without_nms"]) < len(before["without_nms"]) / 3
        assert after["without_nms"].scores.max() == before["without_nms"].scores.max()
        assert len(after["with_nms"]) <= len(after["without_nms"])


@pytest.mark.parametrize(
    "options, key",
    [
        (("NMS_RANGE", 2), "NMS_RANGE"),
        (("PEAK_FILTER.ENABLED", True, "PEAK_FILTER.TAU", 1), "PEAK_FILTER.TAU"),
        (("PEAK_FILTER.ENABLED", True, "PEAK_FILTER.KERNEL", 4), "PEAK_FILTER.KERNEL"),
    ],
)
def test_bad_values_are_refused_with_their_key(options, key):
    with pytest.raises(ValueError, match=KEYS + key):
        detect("poto", *options)


def test_peaks_of_an_autocast_model_are_found_in_float32():
    torch.manual_seed(0)
    model = build_model(tiny_cfg(*ALL["fcos_centerness"], KEYS + "PEAK_FILTER.ENABLED", True)).eval()
    seen = []

    def watch(scores, points):
        seen.append(scores)
        return PeakFilter()(scores, points)

    model.inference = dataclasses.replace(model.inference, peak_filter=watch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(batch()[:1])
    assert [x.dtype for x in seen] == [torch.float32] and seen[0].shape == (257, 3)
