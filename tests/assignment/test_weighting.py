"""Step four alone: schedules, labels, curves, and the weights of DW's Table 1."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.assignment import build_rule, weighting
from defcn_ext.assignment.progress import Progress
from defcn_ext.assignment.scene import make_scene
from defcn_ext.structures import Pairs, Points

TWELVE = (0.6, 0.563636, 0.527273, 0.490909, 0.454545, 0.418182, 0.381818, 0.345455, 0.309091, 0.272727, 0.236364, 0.2)


def ceiling(iteration, total, epochs=None):
    return weighting.label_ceiling(Progress(iteration, total), 0.6, 0.2, epochs)


# T (o2f Eq. 3; 40-o2f section 5)


def test_steps_are_the_epochs_of_the_release():
    for epoch, expected in enumerate(TWELVE):
        for iteration in (epoch * 7500, epoch * 7500 + 4000, epoch * 7500 + 7499):
            assert ceiling(iteration, 90_000, 12) == pytest.approx(expected, abs=5e-7)
    assert ceiling(7_499, 90_000, 12) == 0.6 and ceiling(89_999, 90_000, 12) == pytest.approx(0.2, abs=1e-12)
    assert [round(ceiling(e, 36, 36), 6) for e in (1, 17, 35)] == [0.588571, 0.405714, 0.2]


@pytest.mark.parametrize("epochs, length", [(12, 1), (12, 7), (36, 7330), (50, 938), (1, 5), (7, 3), (3, 10**7)])
def test_a_step_ends_at_its_epochs_first_iteration(epochs, length):
    total = epochs * length
    for epoch in range(epochs):
        expected = 0.6 - 0.4 * epoch / max(1, epochs - 1)
        for iteration in {epoch * length, epoch * length + length - 1}:
            assert ceiling(iteration, total, epochs) == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.data())
def test_an_epoch_begins_at_its_own_iteration(epochs, data):
    """T of iteration i is that of epoch floor(i N / I), also where the N epochs do not divide the I iterations."""
    total = data.draw(st.integers(1, 10**6))
    iteration = data.draw(st.integers(0, total - 1))
    expected = 0.6 - 0.4 * (iteration * epochs // total) / max(1, epochs - 1)
    assert ceiling(iteration, total, epochs) == pytest.approx(expected, abs=1e-9)


def test_the_line():
    assert ceiling(0, 90_000) == 0.6 and ceiling(89_999, 90_000) == pytest.approx(0.2)
    assert ceiling(45_000, 90_000) == pytest.approx(0.399998, abs=5e-7)
    line, steps = ([ceiling(i, 1200, e) for i in range(1200)] for e in (None, 12))
    assert sum(line) / 1200 == pytest.approx(0.4) and sum(steps) / 1200 == pytest.approx(0.4)
    assert max(abs(a - b) for a, b in zip(line, steps)) <= 0.4 / 12 + 1e-3


@pytest.mark.parametrize("epochs", [1, 12, None])
def test_one_epoch_or_one_iteration_stays_at_the_start(epochs):
    assert ceiling(0, 1, epochs) == 0.6
    assert ceiling(77, 100, 1) == 0.6


# soft labels (o2f Eq. 2)


def pairs_of(scores, objects, num_objects):
    """Each pair at a point of its own."""
    count = len(scores)
    points = Points.from_sizes([(1, max(1, count))], [8])
    table = torch.tensor(scores or [0.0], dtype=torch.float32)[:, None]
    gt = torch.tensor([[0.0, 0, 8 * count + 8, 8]]).repeat(num_objects, 1)
    boxes = gt[:1].repeat(len(points), 1)
    scene = make_scene(points, table, boxes, gt, torch.zeros(num_objects, dtype=torch.long))
    return scene, Pairs(torch.arange(count), torch.tensor(objects, dtype=torch.long))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_labels_lie_in_0_T_and_the_best_ambiguous_one_has_T(data):
    num_objects = data.draw(st.integers(1, 4))
    count = data.draw(st.integers(0, 12))
    objects = sorted(data.draw(st.lists(st.integers(0, num_objects - 1), min_size=count, max_size=count)))
    draw = st.lists(st.floats(2.0**-90, 1, width=32), min_size=count, max_size=count)
    scores, quality = data.draw(draw), torch.tensor(data.draw(draw))
    progress, weight = data.draw(st.floats(0, 1)), data.draw(st.sampled_from([0.4, 1.0]))
    scene, pairs = pairs_of(scores, objects, num_objects)
    step = weighting.soft_labels(ambiguous=weight, schedule="linear")
    weighed = step(scene, pairs, quality, progress)
    top = weighting.label_ceiling(progress, 0.6, 0.2, None)
    for g in range(num_objects):
        mine = (pairs.object == g).nonzero().squeeze(1)
        if not len(mine):
            continue
        certain = mine[quality[mine].argmax()]
        assert weighed.positive[certain] == 1 and weighed.negative[certain] == 0
        others = mine[mine != certain]
        total = weighed.positive[others] + weighed.negative[others]
        torch.testing.assert_close(total, torch.full_like(total, weight))
        label = weighed.positive[others] / weight
        assert ((label > 0) & (label <= top * (1 + 1e-6))).all()
        if len(others):
            assert label[torch.tensor(scores)[others].argmax()].item() == pytest.approx(top, rel=1e-6)


def test_scores_of_0_share_the_highest_label():
    """40-o2f trap 10: no division by 0 where all scores have underflown."""
    scene, pairs = pairs_of([0.0, 0.0, 0.0], [0, 0, 0], 1)
    weighed = weighting.soft_labels(ambiguous=1.0)(scene, pairs, torch.tensor([0.3, 0.2, 0.1]), 0.0)
    torch.testing.assert_close(weighed.positive, torch.tensor([1.0, 0.6, 0.6]))


@pytest.mark.parametrize("scaled, expected", [(False, [0.2, 0.2, 1.0, 0.2]), (True, [0.2, 0.1, 1.0, 0.05])])
@pytest.mark.parametrize("progress", [0.0, 1.0])
def test_static_labels(scaled, expected, progress):
    """o2f, Table 1: the label stays; whether p / max p scales it is an option. The best quality is the third."""
    scene, pairs = pairs_of([0.8, 0.4, 0.5, 0.2], [0, 0, 0, 0], 1)
    step = weighting.soft_labels(t_max=0.2, t_min=0.2, ambiguous=1.0, scaled=scaled)
    weighed = step(scene, pairs, torch.tensor([0.1, 0.1, 0.9, 0.1]), progress)
    torch.testing.assert_close(weighed.positive, torch.tensor(expected))
    torch.testing.assert_close(weighed.negative, 1 - torch.tensor(expected))


# the negative weight of dual weighting (DW Eqs. 5-7; 50-dw section 3)


def probability(iou, **options):
    """P of one object's pairs with these overlaps."""
    count = len(iou)
    points = Points.from_sizes([(1, count)], [8])
    gt = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    boxes = torch.tensor([[0.0, 0.0, 100.0 * x, 100.0] for x in iou])
    scene = make_scene(points, torch.full((count, 1), 0.5), boxes, gt, torch.tensor([0]))
    pairs = Pairs(torch.arange(count), torch.zeros(count, dtype=torch.long))
    return weighting.dual(**options)(scene, pairs, torch.full((count,), 0.1), 0.0).negative


@pytest.mark.parametrize("g1, at_7", [(1, 0.555556), (2, 0.632184), (3, 0.702338), (4, 0.763832), (5, 0.815738)])
def test_curve_of_the_paper(g1, at_7):
    got = probability([0.0, 0.49, 0.5, 0.7, 0.95, 0.96, 1.0], g1=g1, zero_at=0.95, renormalize=False)
    torch.testing.assert_close(got, torch.tensor([1.0, 1.0, 1.0, at_7, 0.0, 0.0, 0.0]), atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    "iou, expected",
    [
        ([0.8], [1.0]),  # a bag of one is e / e
        ([0.8, 0.8, 0.8], [1.0, 1.0, 1.0]),
        ([0.8, 0.9, 0.5, 0.3], [0.303571, 0.0, 1.0, 1.0]),  # the worked example
        ([0.8, 0.9, 0.6], [(1 - 0.64 - 0.19) / (0.64 - 0.19), 0.0, 1.0]),  # the worst counts as a negative
        ([0.1, 0.2, 0.49], [1.0, 1.0, 1.0]),
        ([1.0, 0.0], [0.0, 1.0]),
    ],
)
def test_curve_of_the_release(iou, expected):
    torch.testing.assert_close(probability(iou), torch.tensor(expected), atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=9), st.booleans())
def test_probabilities_are_probabilities(iou, renormalize):
    got = probability(iou, renormalize=renormalize)
    assert ((got >= 0) & (got <= 1)).all()
    best = max(range(len(iou)), key=lambda i: iou[i])
    if renormalize and iou[best] > 0.501 and min(iou) < iou[best] - 0.01:
        assert got[best] < 1e-5


def test_center_prior():
    """50-dw section 4; the release's hard prior, c > 0.3, has a radius of 1.722449 strides."""
    for strides, expected in [(0, 1.0), (1, 0.666436), (math.sqrt(2), 0.444137), (2, 0.197258), (1.722449, 0.3)]:
        points = Points(
            torch.tensor([[50 + 8 * strides, 50.0]]), *(torch.tensor([x]) for x in (8.0, 0)), ((1, 1),), (8,)
        )
        gt = torch.tensor([[0.0, 0, 100, 100]])
        scene = make_scene(points, torch.ones(1, 1), gt, gt, torch.tensor([0]))
        pairs = Pairs(torch.tensor([0]), torch.tensor([0]))
        assert weighting._center_prior(scene, pairs, 1.11).item() == pytest.approx(expected, abs=2e-6)


def test_center_prior_of_each_class():
    """50-dw section 4: `dx = (x - cx) / stride - mu_x`, both numbers per class and axis."""
    points = Points.from_sizes([(16, 16)], [8])
    gt = torch.tensor([[0.0, 0, 100, 100], [20, 30, 90, 120]])
    scene = make_scene(points, torch.ones(256, 2), gt[:1].expand(256, 4), gt, torch.tensor([0, 1]))
    pairs = Pairs(torch.arange(256).repeat(2), torch.tensor([0, 1]).repeat_interleave(256))
    prior = weighting.ClassCenterPrior(2)
    assert torch.equal(prior(scene, pairs), prior(scene, pairs)) and not list(prior.parameters())
    torch.testing.assert_close(prior(scene, pairs), weighting._center_prior(scene, pairs, 1.11))
    prior.mean[1], prior.sigma[1] = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.7])
    got = prior(scene, pairs)
    torch.testing.assert_close(got[:256], weighting._center_prior(scene, pairs, 1.11)[:256])
    for index in (0, 100, 119, 255):
        x, y = points.xy[index].tolist()
        dx, dy = (x - 55) / 8 - 0.5, (y - 75) / 8 + 1.0
        expected = math.exp(-(dx**2 / (2 * 2.0**2) + dy**2 / (2 * 0.7**2)))
        assert got[256 + index].item() == pytest.approx(expected, rel=2e-6, abs=1e-12)


# Table 1 of the DW paper


@pytest.mark.parametrize(
    "name, expected",
    [
        ("gfl", (0.032, 0.008)),
        ("vfl", (0.64, 0.16)),
        ("tood", (0.032, 0.008)),  # the best pair's label is the largest IoU
        ("musu", (0.032, 0.36 * 0.2**4)),
    ],
)
def test_weights_of_a_pair(name, expected):
    """50-dw section 1: s = 0.6, IoU = 0.8."""
    points = Points.from_sizes([(1, 1)], [8])
    gt = torch.tensor([[0.0, 0, 10, 10]])
    scene = make_scene(points, torch.tensor([[0.6]]), torch.tensor([[0.0, 0, 8, 10]]), gt, torch.tensor([0]))
    pairs = Pairs(torch.tensor([0]), torch.tensor([0]))
    weighed = getattr(weighting, name)()(scene, pairs, torch.tensor([0.6 * 0.8**6]), 0.0)
    assert weighed.positive.item() == pytest.approx(expected[0], rel=1e-5)
    assert weighed.negative.item() == pytest.approx(expected[1], rel=1e-5)


def test_aligned_labels():
    """TOOD: m / max m * max IoU. The best-aligned pair is not that of the largest IoU; its score is its label."""
    points = Points.from_sizes([(1, 3)], [8])
    gt = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 8, 10], [0, 0, 9, 10], [0, 0, 5, 10]])
    scene = make_scene(points, torch.tensor([[0.9], [0.1], [0.5]]), boxes, gt, torch.tensor([0]))
    pairs = Pairs(torch.arange(3), torch.zeros(3, dtype=torch.long))
    aligned = torch.tensor([0.9 * 0.8**6, 0.1 * 0.9**6, 0.5 * 0.5**6])
    weighed = weighting.tood()(scene, pairs, aligned, 0.0)
    label = weighed.positive / (weighed.positive + weighed.negative)
    torch.testing.assert_close(label, aligned / aligned[0] * 0.9)
    assert weighed.positive[0] < 1e-10


def test_predictions_that_are_not_finite_weigh_nothing():
    """Beside a good one, and where an object has no other."""
    for scores, boxes in [((math.nan, 0.5), (1.0, 1.0)), ((0.5, 0.5), (math.inf, 1.0)), ((math.nan, 0.5), (0.4, 0.0))]:
        gt = torch.tensor([[0.0, 0, 16, 8]])
        points = Points.from_sizes([(1, 2)], [8])
        predicted = gt.repeat(2, 1) * torch.tensor(boxes)[:, None]
        weighed = build_rule("DW")(points, torch.tensor(scores)[:, None], predicted, gt, torch.tensor([0]))
        assert weighed.positive[0] == 0 and weighed.negative[0] == 1 and (weighed.positive >= 0).all()
    nothing = build_rule("DW")(points, torch.full((2, 1), math.nan), predicted, gt, torch.tensor([0]))
    assert nothing.positive.tolist() == [0, 0] and nothing.negative.tolist() == [1, 1]


@pytest.mark.parametrize(
    "text, message",
    [
        ("O2F(schedule=cosine)", "schedule must be 'step' or 'linear', got 'cosine'"),
        ("O2F(t_max=1.2)", "t_max, t_min in \\[0, 1\\]"),
        ("O2F(epochs=0)", "epochs >= 1"),
        ("O2F(ambiguous=-0.1)", "ambiguous >= 0"),
        ("O2F(k=0)", "k must be at least 1"),
        ("DW(form=Paper)", "unknown form 'Paper'; known: released, paper"),
        ("DW(bag=threshold)", "threshold or topk with a size"),
        ("DW(bag=soft, size=9)", "threshold or topk with a size"),
        ("DW(bag=topk, size=8.5)", "whole number"),
        ("DW(beta=-1)", "beta >= 0"),
        ("DW(g1=0)", "g1 > 0"),
    ],
)
def test_options_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=message):
        build_rule(text)
