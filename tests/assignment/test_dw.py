"""Dual weighting and the rules of its Table 1, with the numbers of 50-dw; and the hand-over of HybridEpoch."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from defcn_ext.assignment import build_rule
from defcn_ext.assignment.progress import Progress
from defcn_ext.losses import paired_iou
from defcn_ext.structures import Points
from tests.assignment.scenes import POINTS, as_dict, crowd
from tests.reference import dense_iou, dense_nearest, dense_prior
from tests.weighted_examples import dense_dw, dw_example, with_listed


def table(values, pairs, num_objects, num_points, fill):
    """(G, R) from the values of pairs."""
    dense = torch.full((num_objects, num_points), fill)
    dense[pairs.object, pairs.point] = values
    return dense.double()


def sums(pairs, num_objects):
    return torch.zeros(num_objects).index_add(0, pairs.object, pairs.positive)


# Section 11


@pytest.mark.parametrize(
    "form, positive, negative, total",
    [
        ("released", [0.702855, 0.745864, 0.057582, 0.002201], [0.303571, 0.0, 1.0, 1.0], 1.508501),
        ("paper", [0.439437, 0.545783, 0.014607, 0.000173], [0.402299, 0.141762, 1.0, 1.0], 1.0),
    ],
)
def test_weights_of_the_example(form, positive, negative, total):
    pairs = with_listed(build_rule("DW", form=form))(*dw_example().scene)
    torch.testing.assert_close(pairs.positive, torch.tensor(positive), atol=1e-6, rtol=2e-5)
    torch.testing.assert_close(pairs.negative, torch.tensor(negative), atol=1e-5, rtol=0)
    assert pairs.positive.sum().item() == pytest.approx(total, abs=2e-5)


def test_the_same_exponent_in_the_example():
    text = "Combine(candidates=inside, quality=consistency(beta=5), selection=every, weighting=dual(norm_mu=5))"
    pairs = with_listed(build_rule(text))(*dw_example().scene)
    expected = torch.tensor([0.465929, 0.494441, 0.038171, 0.001459])
    torch.testing.assert_close(pairs.positive, expected, atol=1e-6, rtol=2e-5)


def test_pairs_say_whether_the_loss_adds_an_importance():
    """The same words for o2f and DW: `negative` is a weight, and `focal_negative` says of which term."""
    scene = crowd(3)
    for rule, focal in (("DW", True), ("O2F", False), ("TOOD", False), ("POTO", False)):
        pairs = build_rule(rule)(POINTS, *scene)
        assert pairs.focal_negative is focal and pairs[torch.arange(1)].focal_negative is focal


def test_one_candidate_is_a_positive_and_a_negative():
    pairs = with_listed(build_rule("DW"), 1)(*dw_example(1).scene)
    t = 0.5 * math.exp(-1)
    assert pairs.negative.tolist() == [1.0] and pairs.positive.item() == pytest.approx(math.exp(2 * t), rel=1e-5)


# Against the full matrices


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("count, seed", [(0, 0), (1, 1), (6, 2), (40, 3)])
def test_weights_of_a_crowd(form, count, seed):
    scene, options = crowd(count, seed), {"paper": True, "norm_mu": 5.0} if form == "paper" else {}
    pairs = build_rule("DW", form=form)(POINTS, *scene)
    positive, negative = dense_dw(POINTS, *scene, **options)
    inside = dense_prior(POINTS, scene[2])
    assert len(pairs) == int(inside.sum()) and inside[pairs.object, pairs.point].all()
    got = table(pairs.positive, pairs, count, len(POINTS), 0.0)
    torch.testing.assert_close(got, positive, atol=1e-6, rtol=1e-3)
    got = table(pairs.negative, pairs, count, len(POINTS), 1.0)
    torch.testing.assert_close(got, negative, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("bag, size", [("threshold", 1.7), ("threshold", 1.0), ("topk", 9), ("topk", 15)])
def test_other_bags(form, bag, size):
    """Section 4: fewer candidates, without the soft prior."""
    scene, options = crowd(12, 4), {"paper": True, "norm_mu": 5.0} if form == "paper" else {}
    inside, centre = dense_prior(POINTS, scene[2]), (scene[2][:, None, :2] + scene[2][:, None, 2:]) / 2
    if bag == "topk":
        member = inside & dense_nearest(POINTS, scene[2], size)
    else:
        member = inside & ((POINTS.xy - centre).norm(dim=-1) < size * POINTS.stride)
    pairs = build_rule("DW", form=form, bag=bag, size=size)(POINTS, *scene)
    positive, negative = dense_dw(POINTS, *scene, bag=member, **options)
    assert torch.equal(table(torch.ones(len(pairs)), pairs, 12, len(POINTS), 0.0).bool(), member)
    got = table(pairs.positive, pairs, 12, len(POINTS), 0.0)
    torch.testing.assert_close(got, positive, atol=1e-6, rtol=1e-3)
    got = table(pairs.negative, pairs, 12, len(POINTS), 1.0)
    torch.testing.assert_close(got, negative, atol=1e-4, rtol=0)
    assert torch.equal(pairs.covered, member.any(1))


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 20), st.integers(0, 10_000))
def test_sums_of_the_positive_weights(count, seed):
    """1 in the paper, from 1 to e^2 as released."""
    scene = crowd(count, seed)
    paper = build_rule("DW", form="paper")(POINTS, *scene)
    total = sums(paper, count)
    assert (total <= 1 + 1e-5).all()
    overlap = paired_iou(scene[1][paper.point], scene[2][paper.object])
    best = torch.zeros(count).scatter_reduce(0, paper.object, overlap, "amax")
    hit = best > 0.1  # else IoU^5 falls to where the divisor is held at 1e-12
    torch.testing.assert_close(total[hit], torch.ones_like(total[hit]), atol=1e-5, rtol=0)
    released = build_rule("DW")(POINTS, *scene)
    total = sums(released, count)[released.covered]
    assert ((total >= 1 - 1e-5) & (total <= math.e**2 + 1e-4)).all()


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_objects_does_not_matter(seed, random):
    scores, boxes, gt_boxes, gt_classes = crowd(15, seed)
    order = list(range(15))
    random.shuffle(order)
    order = torch.tensor(order)
    a = build_rule("DW")(POINTS, scores, boxes, gt_boxes, gt_classes)
    b = build_rule("DW")(POINTS, scores, boxes, gt_boxes[order], gt_classes[order])
    for name in ("positive", "negative"):
        one = table(getattr(a, name), a, 15, len(POINTS), 0.5)
        other = table(getattr(b, name), b, 15, len(POINTS), 0.5)
        torch.testing.assert_close(one[order], other, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", ["released", "paper"])
def test_dead_boxes_have_finite_weights(form):
    scores, _, gt_boxes, gt_classes = crowd(10, 5)
    boxes = POINTS.boxes(torch.zeros(len(POINTS), 4))
    pairs = build_rule("DW", form=form)(POINTS, scores, boxes, gt_boxes, gt_classes)
    assert (pairs.negative == 1).all() and pairs.positive.isfinite().all()
    if form == "paper":
        assert (pairs.positive == 0).all()


def test_objects_share_points():
    scores, boxes, _, _ = crowd(0)
    gt_boxes = torch.tensor([[50.0, 50, 150, 150], [50, 50, 150, 150]])
    pairs = build_rule("DW")(POINTS, scores, boxes, gt_boxes, torch.tensor([0, 1]))
    first, second = pairs[pairs.object == 0], pairs[pairs.object == 1]
    assert len(first) > 100 and torch.equal(first.point, second.point)
    assert torch.equal(first.negative, second.negative)  # P is of the boxes alone
    assert not torch.equal(first.positive, second.positive)


class Largest(TorchDispatchMode):
    """Number of entries of the largest tensor that any operation returns."""

    entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.entries = max(self.entries, x.numel())
        return out


def test_memory_is_that_of_the_candidates():
    """100 objects of about 60 pixels on 6,810 points: 2 numbers a candidate, not 681,000."""
    points = Points.from_sizes([(64, 80), (32, 40), (16, 20), (8, 10), (4, 5)], [8, 16, 32, 64, 128])
    rng = torch.Generator().manual_seed(0)
    centre = torch.rand(100, 2, generator=rng) * 500
    gt_boxes = torch.cat([centre - 30, centre + 30], 1)
    scores, boxes, _, _ = crowd(0, points=points)
    with Largest() as seen:
        pairs = build_rule("DW")(points, scores, boxes, gt_boxes, torch.zeros(100, dtype=torch.long))
    assert 5_000 < len(pairs) < 10_000
    assert 4 * len(pairs) <= seen.entries <= 8 * len(pairs) < 100 * len(points) / 8


# Table 1


@pytest.mark.parametrize("name", ["GFL", "VFL"])
def test_gfl_and_vfl_weigh_the_pairs_of_atss(name):
    scene = crowd(20, 6)
    pairs = build_rule(name)(POINTS, *scene)
    assert as_dict(pairs) == as_dict(build_rule("ATSS")(POINTS, *scene)) and len(pairs) > 20
    scores, boxes, gt_boxes, gt_classes = scene
    s, box, gt = scores[pairs.point, gt_classes[pairs.object]], boxes[pairs.point], gt_boxes[pairs.object]
    t = dense_iou(box, gt).diagonal()
    scale = t if name == "VFL" else (s - t).square()
    torch.testing.assert_close(pairs.positive, scale * t, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(pairs.negative, scale * (1 - t), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["TOOD", "MuSu"])
def test_tood_chooses_thirteen_and_normalises(name):
    scores, boxes, gt_boxes, gt_classes = scene = crowd(15, 8)
    pairs = build_rule(name)(POINTS, *scene)
    iou, inside = dense_iou(gt_boxes, boxes), dense_prior(POINTS, gt_boxes)
    m = scores[:, gt_classes].T * iou**6
    chosen = torch.zeros_like(inside)
    chosen.scatter_(1, m.topk(13, dim=1).indices, True)
    chosen &= inside & (m > 0)
    owner = torch.where(chosen, iou, -1.0).max(0)
    expected = {r: int(owner.indices[r]) for r in range(len(POINTS)) if owner.values[r] > 0}
    assert as_dict(pairs) == expected and len(expected) > 50
    for g in set(expected.values()):
        mine = [r for r, h in expected.items() if h == g]
        index = [pairs.point.tolist().index(r) for r in mine]
        label = m[g, mine] / m[g, mine].max() * iou[g, mine].max()
        assert label.max().item() == pytest.approx(iou[g, mine].max().item())
        s = scores[mine, gt_classes[g]]
        torch.testing.assert_close(pairs.positive[index], (s - label).square() * label, atol=1e-6, rtol=1e-4)
        negative = s**2 * (1 - label) ** 4 if name == "MuSu" else (s - label).square() * (1 - label)
        torch.testing.assert_close(pairs.negative[index], negative, atol=1e-6, rtol=1e-4)


# HybridEpoch (o2f, Table 5)


@pytest.mark.parametrize(
    "total, first_late", [(90_000, 60_000), (87_960, 58_640), (12, 8), (36, 24), (10, 7), (100, 67)]
)
def test_hybrid_switches_at_two_thirds(total, first_late):
    scene, rule = crowd(10, 9), build_rule("HybridEpoch")
    many, one = as_dict(build_rule("FCOS")(POINTS, *scene)), as_dict(build_rule("POTO")(POINTS, *scene))
    assert many != one
    for iteration in (0, first_late - 1, first_late, total - 1):
        pairs = rule(POINTS, *scene, progress=Progress(iteration, total))
        assert as_dict(pairs) == (many if iteration < first_late else one), iteration
        assert pairs.positive is None


def test_hybrid_with_other_rules_and_another_switch():
    scene, rule = crowd(10, 9), build_rule("HybridEpoch(early=ATSS, late=FCOS, switch=0.25)")
    for progress, name in [(0.24, "ATSS"), (0.25, "FCOS"), (1.0, "FCOS")]:
        assert as_dict(rule(POINTS, *scene, progress=progress)) == as_dict(build_rule(name)(POINTS, *scene))


@pytest.mark.parametrize(
    "text, message",
    [
        ("HybridEpoch(early=O2F)", "O2F or POTO weights its pairs"),
        ("HybridEpoch(late=DW)", "FCOS or DW weights its pairs"),
        ("HybridEpoch(switch=1.0)", "switch must lie in"),
        ("HybridEpoch(late=PTO)", "unknown assignment rule 'PTO'"),
    ],
)
def test_hybrids_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=message):
        build_rule(text)
