"""POTO, ForegroundLoss, MinCost and Anchor: the papers' numbers, and the optimum of the full matrix."""

import dataclasses
import math

import pytest
import torch

from defcn_ext.assignment import build_rule, quality
from defcn_ext.assignment.scene import make_scene
from defcn_ext.structures import DensePredictions, Points, ScoreView
from tests import reference
from tests.assignment.scenes import POINTS, as_dict, assign, crowd

IMAGE = (256, 320)


def two_points():
    """20-date, 'What to test': an image of 400 x 200, two predictions and an object."""
    points = Points.from_sizes([(1, 2)], [200])
    boxes = torch.tensor([[10.0, 10, 110, 110], [50, 50, 60, 60]])
    return points, torch.tensor([[0.3], [0.02]]), boxes, torch.tensor([[20.0, 20, 100, 120]]), torch.tensor([0])


def quality_of(step, points, scores, boxes, gt_boxes, gt_classes, **others):
    """(G, R) from a quality step."""
    scene = make_scene(points, scores, boxes, gt_boxes, gt_classes, **others)
    every = torch.arange(len(points)).repeat(len(gt_boxes))
    return step(scene, every, torch.arange(len(gt_boxes)).repeat_interleave(len(points))).view(len(gt_boxes), -1)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [-0.550148, 5.416041]),
        ({"cls": 2.0, "l1": 0.0, "giou": 0.0}, [0.246822, 1.878541]),
        ({"cls": 0.0, "l1": 5.0, "giou": 0.0}, [0.5, 3.5625]),
        ({"cls": 0.0, "l1": 5.0, "giou": 0.0, "form": "xyxy"}, [0.75, 3.125]),
        ({"cls": 0.0, "l1": 0.0, "giou": 2.0}, [-1.296970, -0.025]),
    ],
)
def test_cost_of_the_spec(options, expected):
    scene = two_points()
    value = quality_of(quality.min_cost(**options), *scene, image_sizes=torch.tensor([[200.0, 400.0]]))
    torch.testing.assert_close(-value[0], torch.tensor(expected), atol=2e-6, rtol=0)


def test_poto_of_the_same_pairs():
    value = quality_of(quality.poto(0.8), *two_points())
    torch.testing.assert_close(value[0], torch.tensor([0.568265, 0.013732]), atol=2e-6, rtol=0)


def test_the_image_without_padding_scales_the_distance():
    """Twice the size, half the distance: 5 C_L1 goes from 0.5 to 0.25."""
    step = quality.min_cost(cls=0.0, giou=0.0)
    value = quality_of(step, *two_points(), image_sizes=torch.tensor([[400.0, 800.0]]))
    torch.testing.assert_close(-value[0], torch.tensor([0.25, 3.5625 / 2]))


def test_foreground_cost_counts_all_classes():
    """10-defcn: logits (0, -2, -4), class 0: 0.0433217 + 0.0013527 + 0.0000044; a perfect box adds nothing."""
    logits = torch.tensor([[[0.0, -2.0, -4.0]]])
    box = torch.tensor([[[0.0, 0.0, 8.0, 8.0]]])
    view = ScoreView(DensePredictions(logits, box))
    points = Points.from_sizes([(1, 1)], [8])
    for scores in (view, logits[0].sigmoid()):
        found = quality_of(quality.foreground_loss(), points, scores, box[0], box[0], torch.tensor([0]))
        assert -found.item() == pytest.approx(0.0446788, abs=1e-6)
        apart = quality_of(
            quality.foreground_loss(), points, scores, box[0], torch.tensor([[0.0, 0, 8, 4]]), torch.tensor([0])
        )
        assert -apart.item() == pytest.approx(0.0446788 + 2 * 0.5, abs=1e-6)


def poto_of(q, **options):
    """POTO of objects whose predicted boxes are perfect and whose scores are the rows of `q`; None is out of reach."""
    width = len(q[0])
    points = Points.from_sizes([(1, width)], [8])
    reach = [8.0 * sum(x is not None for x in row) for row in q]
    gt_boxes = torch.tensor([[0.0, 0.0, x, 8.0] for x in reach])
    scores = torch.tensor([[row[r] or 0.0 for row in q] for r in range(width)])
    rule = build_rule("POTO", prior="inside", alpha=0.0, **options)
    pairs = rule(points, scores, gt_boxes[:1].repeat(width, 1), gt_boxes, torch.arange(len(q)))
    return {g: r for r, g in as_dict(pairs).items()}


def test_matching_and_argmax_of_the_spec():
    q = [[0.60, 0.55, None], [0.58, 0.10, None]]
    assert poto_of(q) == {0: 1, 1: 0}
    assert poto_of(q, select="argmax") == {0: 0}


def test_what_leaving_an_object_out_is_worth():
    """-1 (DeFCN): as many objects as possible first, .49; 0 (DATE): the quality alone, .50 and object 1 gets none."""
    q = [[0.50, 0.01, None], [0.48, None, None]]
    assert poto_of(q, invalid=-1.0) == {0: 1, 1: 0}
    assert poto_of(q, invalid=0.0) == {0: 0}


def test_an_object_without_a_point_is_dropped_and_told():
    """The release would match it to the first point, (4, 4), at quality -1."""
    scores, boxes, _, _ = crowd(0)
    gt_boxes = torch.tensor([[20.0, 20, 120, 120], [100, 100, 103, 103], [40, 40, 200, 140]])
    pairs = assign("POTO", scores, boxes, gt_boxes, torch.tensor([0, 1, 2]))
    assert sorted(pairs.object.tolist()) == [0, 2] and 0 not in pairs.point.tolist()
    assert pairs.covered.tolist() == [True, False, True]
    pairs = assign("POTO(uncovered=nearest)", scores, boxes, gt_boxes, torch.tensor([0, 1, 2]))
    assert POINTS.xy[pairs.point[pairs.object == 1]].tolist() == [[100.0, 100.0]]


def total(value, pairs):
    return value[pairs.object, pairs.point].double().sum().item()


scenes = pytest.mark.parametrize("num_objects, seed", [(0, 0), (1, 1), (3, 2), (20, 3), (20, 4), (70, 5), (150, 6)])


@scenes
def test_foreground_loss_is_the_cheapest_matching(num_objects, seed):
    scene = crowd(num_objects, seed)
    cost = reference.dense_foreground_cost(*scene)
    valid = reference.dense_prior(POINTS, scene[2], 1.5)
    expected, _ = reference.dense_match(-cost.float(), valid, invalid=-1e4)
    pairs = assign("ForegroundLoss", *scene)
    as_dict(pairs)
    assert valid[pairs.object, pairs.point].all()
    assert len(pairs) == len(expected)
    assert total(cost, pairs) == pytest.approx(sum(cost[g, r].item() for g, r in expected), abs=1e-3)


@scenes
def test_min_cost_is_the_cheapest_matching_over_all_points(num_objects, seed):
    scene = crowd(num_objects, seed)
    for text, form in (("MinCost", "cxcywh"), ("MinCost(form=xyxy)", "xyxy")):
        cost = reference.dense_min_cost(*scene, IMAGE, form)
        expected, _ = reference.dense_match(-cost.float(), torch.ones_like(cost, dtype=torch.bool), invalid=-1e4)
        pairs = assign(text, *scene)
        as_dict(pairs)
        assert len(pairs) == num_objects
        assert total(cost, pairs) == pytest.approx(sum(cost[g, r].item() for g, r in expected), abs=1e-3)


@scenes
def test_argmax_and_argmin_take_each_objects_best(num_objects, seed):
    scene = crowd(num_objects, seed)
    everywhere = torch.ones(num_objects, len(POINTS), dtype=torch.bool)
    center = reference.dense_prior(POINTS, scene[2], 1.5)
    dense = reference.dense_poto_quality(*scene)
    assert as_dict(assign("POTO(select=argmax)", *scene)) == reference.dense_top_k(dense, center, k=1)
    cost = reference.dense_min_cost(*scene, IMAGE)
    assert as_dict(assign("MinCost(select=argmin)", *scene)) == reference.dense_top_k(-cost, everywhere, k=1)


@scenes
def test_poto_with_its_options(num_objects, seed):
    scene = crowd(num_objects, seed)
    iou = reference.dense_iou(scene[2], scene[1])
    score = scene[0][:, scene[3]].T
    for text, dense, radius, invalid in [
        ("POTO(alpha=0.5, invalid=0)", (score * iou).sqrt(), 1.5, 0.0),
        ("POTO(alpha=0.3, combine=add, radius=2.5)", 0.7 * score + 0.3 * iou, 2.5, -1.0),
        ("POTO(alpha=1, prior=inside)", iou, None, -1.0),
    ]:
        valid = reference.dense_prior(POINTS, scene[2], radius)
        expected, _ = reference.dense_match(dense, valid, invalid)
        pairs = assign(text, *scene)
        assert valid[pairs.object, pairs.point].all()
        assert total(dense, pairs) == pytest.approx(sum(dense[g, r].item() for g, r in expected), abs=1e-4)
        assert invalid == 0 or len(as_dict(pairs)) == len(expected)


@pytest.mark.parametrize("ties, place", [("first", [136.0, 56.0]), ("nearest", [152.0, 56.0])])
def test_anchor_takes_the_square_of_highest_iou(ties, place):
    """Sides 32, 64, 128, 256, 512: 90 x 70 at (148, 60) overlaps 64 more than 128; of two on one
    point the better counts, and one that no square meets has none."""
    scores, boxes, _, _ = crowd(0)
    gt_boxes = torch.tensor([[103.0, 25, 193, 95], [100, 20, 200, 100], [-900, -900, -700, -700]])
    pairs = assign(f"Anchor(ties={ties})", scores, boxes, gt_boxes, torch.tensor([0, 0, 0]))
    assert POINTS.xy[pairs.point].tolist() == [place] and pairs.object.tolist() == [0]
    assert int(POINTS.level[pairs.point]) == 1
    by_hand = 64 * 63 / (90 * 70 + 64 * 64 - 64 * 63)  # 104..168 or 120..184 by 24..88, which leaves the box at the top
    assert math.isclose(reference.dense_square_iou(POINTS, gt_boxes, 4)[0].max().item(), by_hand, rel_tol=1e-6)


@scenes
@pytest.mark.parametrize("ties", ["first", "nearest"])
def test_anchor_equals_the_loops(num_objects, seed, ties):
    scene = crowd(num_objects, seed)
    assert as_dict(assign(f"Anchor(ties={ties})", *scene)) == reference.dense_anchor(POINTS, scene[2], ties=ties)


@pytest.mark.parametrize("ties, place", [("first", [100.0, 100.0]), ("nearest", [108.0, 108.0])])
def test_of_equal_squares_the_first_is_taken(ties, place):
    """16 x 16 around (108, 108): the squares of 32 around 100, 108 and 116 all hold it; the release has the first."""
    scores, boxes, _, _ = crowd(0)
    pairs = assign(f"Anchor(ties={ties})", scores, boxes, torch.tensor([[100.0, 100, 116, 116]]), torch.tensor([0]))
    assert POINTS.xy[pairs.point].tolist() == [place]


@pytest.mark.parametrize("rule", ["Anchor", "Anchor(ties=nearest)", "ATSS", "QualityATSS", "TOOD", "GFL"])
def test_an_object_without_positives_is_uncovered(rule):
    """One that no square meets, one of 2 pixels between the points, and an ordinary one."""
    scores, boxes, _, _ = crowd(0)
    outside, small, ordinary = [-900.0, -900, -700, -700], [97.0, 97, 99, 99], [103.0, 25, 193, 95]
    pairs = assign(rule, scores, boxes, torch.tensor([outside, small, ordinary]), torch.tensor([0, 0, 0]))
    has = [g in pairs.object.tolist() for g in range(3)]
    assert has[0] is False and has[2] is True and pairs.covered.tolist() == has


@pytest.mark.parametrize("given_as", ["probabilities", "logits"])
def test_costs_tell_small_scores_apart(given_as):
    """Logits of -20 and -18.5 are other scores, in float32 too; the object takes the higher, though it comes later."""
    points = Points.from_sizes([(1, 2)], [8])
    logits, boxes = torch.tensor([[-20.0], [-18.5]]), torch.tensor([[0.0, 0, 16, 8]]).repeat(2, 1)
    scores = logits.sigmoid() if given_as == "probabilities" else ScoreView.from_logits(logits)
    scene = make_scene(points, scores, boxes, boxes[:1], torch.tensor([0]))
    judged = quality.min_cost()(scene, torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert (judged[1] - judged[0]).item() == pytest.approx(2 * 0.25 * 1.5, rel=1e-4)
    assert build_rule("MinCost")(points, scores, boxes, boxes[:1], torch.tensor([0])).point.tolist() == [1]


def test_logits_tell_certain_scores_apart():
    """From 17 on a probability is 1 in float32; the logits are not."""
    points, boxes = Points.from_sizes([(1, 2)], [8]), torch.tensor([[0.0, 0, 16, 8]]).repeat(2, 1)
    view = ScoreView.from_logits(torch.tensor([[18.5], [20.0]]))
    pairs = build_rule("MinCost")(points, view, boxes, boxes[:1], torch.tensor([0]))
    assert pairs.point.tolist() == [1]
    with pytest.raises(ValueError, match=r"wants \(N R, K\)"):
        ScoreView.from_logits(torch.zeros(2))


def test_logits_in_the_place_of_probabilities_are_told():
    """They would be taken for scores, in silence; a prediction that is no number is something else."""
    points, boxes = Points.from_sizes([(1, 2)], [8]), torch.tensor([[0.0, 0, 16, 8]]).repeat(2, 1)
    scores = torch.tensor([[float("nan")], [1.0]])
    build_rule("POTO")(points, scores, boxes, boxes[:1], torch.tensor([0]))
    for logits in (scores - 1.5, scores + 0.5):
        with pytest.raises(ValueError, match=r"scores must be probabilities; .*ScoreView\.from_logits"):
            build_rule("POTO")(points, logits, boxes, boxes[:1], torch.tensor([0]))


def test_a_weighting_does_not_ask_the_quality_again():
    """One question for the candidates; the selection hands the answers on, for the pairs that it keeps."""
    rule, asked = build_rule("O2F"), []

    def counted(scene, point, object):
        asked.append(len(point))
        return rule.quality(scene, point, object)

    scene = crowd(20)
    pairs = dataclasses.replace(rule, quality=counted)(POINTS, *scene)
    assert len(asked) == 1 and asked[0] > len(pairs) > 0
    expected = rule.quality(make_scene(POINTS, *scene), pairs.point, pairs.object)
    assert torch.equal(pairs.quality, expected)
