"""Center, FCOS, ATSS and the rules of DeFCN's appendix A: the papers' numbers, and slow loops over random crowds."""

import pytest
import torch

from defcn_ext.assignment import build_rule, selection
from defcn_ext.assignment.scene import make_scene
from defcn_ext.structures import Pairs, Points
from tests import reference
from tests.assignment.scenes import POINTS, as_dict, assign, crowd

scenes = pytest.mark.parametrize("num_objects, seed", [(0, 0), (1, 1), (20, 2), (20, 3), (80, 4), (80, 5), (150, 6)])
LARGE = Points.from_sizes([(128, 128), (64, 64), (32, 32), (16, 16), (8, 8)], [8, 16, 32, 64, 128])


def without_predictions(rule, gt_boxes, points=LARGE):
    gt_boxes = torch.as_tensor(gt_boxes, dtype=torch.float32).reshape(-1, 4)
    nothing = torch.zeros(len(points), 1), torch.zeros(len(points), 4)
    return build_rule(rule)(points, *nothing, gt_boxes, torch.zeros(len(gt_boxes), dtype=torch.long))


@pytest.mark.parametrize(
    "box, expected",
    [
        ([100, 100, 200, 180], {0: (148.0, 140.0)}),
        ([2, 2, 134, 134], {1: (72.0, 72.0)}),
        ([301, 301, 303, 303], {0: (300.0, 300.0)}),
        ([564, 403, 810, 542], {}),
    ],
)
def test_center_of_the_spec(box, expected):
    """10-defcn, 'What to test', 1024 x 1024."""
    pairs = without_predictions("Center", box)
    found = {int(LARGE.level[r]): tuple(LARGE.xy[r].tolist()) for r in pairs.point}
    assert found == expected
    assert pairs.covered.tolist() == [bool(expected)]


def test_center_may_find_two_points():
    pairs = without_predictions("Center", [33, 266, 280, 305])
    assert LARGE.level[pairs.point].tolist() == [1, 2]  # P4 and P5


def test_a_point_nearest_to_a_tiny_object_may_lie_outside():
    pairs = without_predictions("Center", [301, 301, 303, 303])
    x, y = LARGE.xy[pairs.point[0]].tolist()
    assert (x - 301, y - 301, 303 - x, 303 - y) == (-1, -1, 3, 3)


def test_center_usually_finds_one_point():
    """10-defcn, section 3: of random boxes of side 4..400 few have no point or two; none has more."""
    rng = torch.Generator().manual_seed(0)
    side = 4 + torch.rand(4000, 2, generator=rng) * 396
    middle = side / 2 + torch.rand(4000, 2, generator=rng) * (1024 - side)
    gt_boxes = torch.cat([middle - side / 2, middle + side / 2], 1)
    scene = make_scene(
        LARGE, torch.zeros(len(LARGE), 1), torch.zeros(len(LARGE), 4), gt_boxes, torch.zeros(4000).long()
    )
    rule = build_rule("Center")
    count = torch.bincount(rule.candidates(scene, rule.quality).object, minlength=4000)
    share = torch.bincount(count, minlength=3) / 4000
    assert len(share) == 3 and 0.002 < share[0] < 0.02 and 0.03 < share[2] < 0.06


def test_fcos_gives_a_point_to_the_smallest_object_and_the_size_to_a_level():
    """An object of 40 inside one of 200: the small one on P3, the large one around it on P4 and P5."""
    pairs = without_predictions("FCOS(prior=inside)", [[100, 100, 300, 300], [180, 180, 220, 220]])
    small = pairs.point[pairs.object == 1]
    assert (LARGE.level[small] == 0).all() and len(
        small
    ) == 16  # 188, 196, 204, 212 either way; 180 and 220 are on the border
    large = pairs.point[pairs.object == 0]
    assert set(LARGE.level[large].tolist()) == {1, 2}
    reach = (LARGE.xy[large] - 200).abs().amax(1) + 100
    assert reach[LARGE.level[large] == 1].max() <= 128 <= reach[LARGE.level[large] == 2].min()


@scenes
def test_center_and_atss_equal_the_loops(num_objects, seed):
    scene = crowd(num_objects, seed)
    assert as_dict(assign("Center", *scene)) == reference.dense_center(POINTS, scene[2])
    assert as_dict(assign("ATSS", *scene)) == reference.dense_atss(POINTS, scene[2])


def test_atss_of_other_options_equals_the_loops():
    scene = crowd(60, 1)
    assert as_dict(assign("ATSS(k=4, scale=5)", *scene)) == reference.dense_atss(POINTS, scene[2], 4, 5)


def test_atss_by_hand():
    """Nine points in a row, squares of 24 around them, and the object is the middle one: 1, 1/2, 1/5, 0, ... on
    either side, mean 0.26667, deviation 0.34278, so t = 0.6094 and only the middle counts."""
    points = Points.from_sizes([(1, 9)], [8])
    iou = torch.tensor([0.0, 0, 1 / 5, 1 / 2, 1, 1 / 2, 1 / 5, 0, 0])
    assert (iou.mean() + iou.std()).item() == pytest.approx(0.26667 + 0.34278, abs=1e-4)
    pairs = without_predictions("ATSS(k=9, scale=3)", [[24, -8, 48, 16]], points)
    assert pairs.point.tolist() == [4]
    # a wider object: 24 / 40 of it at the three points whose square it holds, 20 / 44, 12 / 52, 4 / 60 beyond
    iou = torch.tensor([4 / 60, 12 / 52, 20 / 44, 0.6, 0.6, 0.6, 20 / 44, 12 / 52, 4 / 60])
    threshold = (iou.mean() + iou.std()).item()
    expected = [r for r in range(9) if iou[r] >= threshold]
    pairs = without_predictions("ATSS(k=9, scale=3)", [[16, -8, 56, 16]], points)
    assert sorted(pairs.point.tolist()) == expected == [3, 4, 5]


def test_unbiased_deviation_and_a_single_candidate():
    """10-defcn: nine values .9, .8, .7, .1 x6: mean 1/3, unbiased deviation 0.3536, biased 1/3."""
    values = torch.tensor([0.9, 0.8, 0.7, *[0.1] * 6, 0.4])
    pairs = Pairs(torch.arange(10), torch.tensor([0] * 9 + [1]))
    points = Points.from_sizes([(1, 10)], [8])
    gt_boxes = torch.tensor([[0.0, 0, 80, 8], [0, 0, 80, 8]])
    scene = make_scene(points, torch.zeros(10, 1), torch.zeros(10, 4), gt_boxes, torch.tensor([0, 0]))
    threshold = selection._thresholds(scene, pairs, values)
    assert threshold[0].item() == pytest.approx(1 / 3 + 0.3536, abs=1e-4)
    assert threshold[1].item() == pytest.approx(0.4)  # of one value the deviation is 0, not NaN
    assert selection.mean_plus_std()(scene, pairs, values).point.tolist() == [0, 1, 2, 9]


@scenes
def test_rules_by_quality_equal_the_loops(num_objects, seed):
    scene = crowd(num_objects, seed)
    dense = reference.dense_poto_quality(*scene)
    center, inside = (reference.dense_prior(POINTS, scene[2], radius) for radius in (1.5, None))
    assert as_dict(assign("QualityFCOS", *scene)) == reference.dense_quality_fcos(POINTS, dense, center)
    assert as_dict(assign("QualityFCOS(prior=inside)", *scene)) == reference.dense_quality_fcos(POINTS, dense, inside)
    assert as_dict(assign("QualityATSS", *scene)) == reference.dense_quality_atss(POINTS, *scene)
    fewer = as_dict(assign("QualityTopK(k=4)", *scene))
    assert same_up_to_equal(fewer, reference.dense_top_k(dense, inside, 4), dense)
    assert same_up_to_equal(as_dict(assign("QualityTopK", *scene)), reference.dense_top_k(dense, inside), dense)


def same_up_to_equal(found, expected, dense):
    """Equal, but for points of quality 0, of which any may be taken."""
    return {r: g for r, g in found.items() if dense[g, r] > 0} == {r: g for r, g in expected.items() if dense[g, r] > 0}


def test_quality_fcos_takes_the_level_of_the_best_point():
    """A box of 40 would be FCOS's on P3; the best prediction is on P4, so its centre points there count."""
    gt_boxes = torch.tensor([[20.0, 20, 60, 60]])
    scores = torch.full((len(POINTS), 1), 0.1)
    boxes = gt_boxes.repeat(len(POINTS), 1)
    best = int((POINTS.level == 1).nonzero()[0]) + 2 * 20 + 2  # (40, 40)
    assert POINTS.xy[best].tolist() == [40, 40]
    scores[best] = 0.2
    pairs = assign("QualityFCOS", scores, boxes, gt_boxes, torch.tensor([0]))
    assert set(POINTS.level[pairs.point].tolist()) == {1}
    xy = {tuple(x) for x in POINTS.xy[pairs.point].tolist()}
    assert xy == {(x, y) for x in (24.0, 40.0, 56.0) for y in (24.0, 40.0, 56.0)}


def test_quality_top_k_counts_over_all_levels():
    gt_boxes = torch.tensor([[0.0, 0, 100, 100]])
    boxes = gt_boxes.repeat(len(POINTS), 1)
    scores = torch.linspace(0.1, 0.9, len(POINTS))[:, None]  # the coarser, the better
    pairs = assign("QualityTopK", scores, boxes, gt_boxes, torch.tensor([0]))
    inside = reference.dense_prior(POINTS, gt_boxes)[0].nonzero().squeeze(1)
    assert pairs.point.tolist() == inside[-9:].tolist()
    assert set(POINTS.level[pairs.point].tolist()) == {2, 3, 4} - ({4} if (POINTS.level[inside] < 4).all() else set())


def test_quality_atss_on_levels_of_fewer_than_nine_points():
    """The coarsest level has six points: all of them are candidates, 9 x 4 + 6 = 42 in all; the release would crash."""
    scene = crowd(1, 3)
    rule = build_rule("QualityATSS")
    pairs = rule.candidates(make_scene(POINTS, *scene), rule.quality)
    assert torch.bincount(POINTS.level[pairs.point]).tolist() == [9, 9, 9, 9, 6]
    small = Points.from_sizes([(2, 2), (1, 1)], [8, 16])
    gt_boxes, scores = torch.tensor([[0.0, 0, 16, 16]]), torch.tensor([[0.9], [0.1], [0.1], [0.1], [0.1]])
    found = rule(small, scores, gt_boxes.repeat(5, 1), gt_boxes, torch.tensor([0]))
    assert found.point.tolist() == [0]  # (0.979, 0.631 x4): mean 0.7006, deviation 0.1557, t = 0.8564


def test_an_object_that_nothing_predicts_has_no_positives():
    """All qualities are 0, so is the threshold, and 0 >= 0 would make every candidate inside the box a positive."""
    scores, boxes, _, _ = crowd(0)
    far = boxes - 10_000
    pairs = assign("QualityATSS", scores, far, torch.tensor([[20.0, 20, 120, 120]]), torch.tensor([0]))
    assert len(pairs) == 0
