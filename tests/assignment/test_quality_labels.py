"""Labels that follow the quality of the boxes: the worked examples of 90-closing-the-gap, section 3, and slow forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.assignment import build_rule
from defcn_ext.assignment.progress import Progress, moving, moving_number
from defcn_ext.assignment.quality_labels import aligned, ia_bce, mal
from defcn_ext.assignment.scene import make_scene
from defcn_ext.losses import weighted_loss_sum
from defcn_ext.structures import Pairs, Points
from tests.assignment.scenes import POINTS, crowd
from tests.reference import dense_iou


def judged(scores, ious, objects=None):
    """A scene in which point i has the score and the IoU with its object, and these pairs. Objects do not meet."""
    count = len(scores)
    objects = torch.tensor(objects or [0] * count)
    gt_boxes = torch.tensor([[100.0 * g, 0, 100.0 * g + 10, 10] for g in range(int(objects.max()) + 1)])
    boxes = gt_boxes[objects].clone()
    boxes[:, 2] = boxes[:, 0] + 10 * torch.tensor(ious)
    points = Points.from_sizes([(1, count)], [8])
    scene = make_scene(points, torch.tensor(scores)[:, None], boxes, gt_boxes, torch.zeros(len(gt_boxes)).long())
    return scene, Pairs(torch.arange(count), objects)


def quality_of(scene, pairs, alpha, beta):
    score, iou = scene.score(pairs.point, pairs.object), scene.iou(pairs.point, pairs.object)
    return score**alpha * iou**beta


EXAMPLE = ([0.9, 0.4, 0.2], [0.8, 0.6, 0.9])


@pytest.mark.parametrize(
    "alpha, metric, label",
    [
        (0.5, [0.248692, 0.029508, 0.237668], [0.9, 0.106787, 0.860105]),
        (1.0, [0.235930, 0.018662, 0.106288], [0.9, 0.071191, 0.405457]),  # DDQ's
    ],
)
def test_aligned_labels_of_the_example(alpha, metric, label):
    scene, pairs = judged(*EXAMPLE)
    rule = build_rule(f"Combine(candidates=inside, quality=tal(alpha={alpha}), selection=every, weighting=aligned)")
    quality = rule.quality(scene, pairs.point, pairs.object)
    torch.testing.assert_close(quality, torch.tensor(metric), atol=1e-6, rtol=0)
    own = rule.weighting(scene, pairs, quality, 0.0)
    cost = aligned("tal", alpha, 6.0)(scene, pairs, torch.tensor([-3.0, 2.0, -1.0]), 0.0)
    for weighed in (own, cost):
        torch.testing.assert_close(weighed.positive, torch.tensor(label), atol=2e-6, rtol=0)
        torch.testing.assert_close(weighed.negative, 1 - torch.tensor(label), atol=2e-6, rtol=0)


def test_alone_the_aligned_label_is_the_iou_and_without_overlap_zero():
    scene, pairs = judged([0.3, 0.9, math.nan], [0.7, 0.0, 0.5], [0, 1, 2])
    weighed = aligned()(scene, pairs, torch.tensor([0.3 * 0.7**6, 0.0, -1e-6]), 0.0)
    assert weighed.positive.tolist() == pytest.approx([0.7, 0, 0]) and weighed.negative[2] == 1


def test_mal_of_the_example():
    scene, pairs = judged([0.4, 0.4], [0.7, 0.0])
    pairs = pairs[torch.tensor([0])]
    weighed = mal()(scene, pairs, torch.zeros(1), 0.0)
    assert weighed.positive.item() == pytest.approx(0.585662, abs=1e-6)
    zero, z = torch.tensor([0]), torch.tensor([[0.4]]).logit()
    weights = (weighed.positive, weighed.negative)
    assert weighted_loss_sum(z, zero, zero, *weights, gamma=1.5).item() == pytest.approx(0.748291, abs=1e-6)
    for factor in (1.0, 0.75):
        loss = weighted_loss_sum(z, zero[:0], zero[:0], zero[:0], zero[:0], background=factor, gamma=1.5)
        assert loss.item() == pytest.approx(factor * 0.129230, abs=1e-6)


def test_ia_bce_of_the_example():
    """In the order of the example and the other way round; the second object has a rank of its own."""
    for order in ([0, 1, 2], [2, 1, 0]):
        scores, ious, objects = ([x[i] for i in order] for x in ([0.6, 0.3, 0.5], [0.8, 0.7, 0.0], [0, 0, 1]))
        scene, pairs = judged(scores, ious, objects)
        weighed = ia_bce()(scene, pairs, torch.zeros(3), 0.0)
        back = torch.tensor(order).argsort()
        torch.testing.assert_close(weighed.box[back], torch.tensor([1.0, 0.513417, 1.0]), atol=1e-6, rtol=0)
        expected = torch.tensor([0.744484, 0.566375 * 0.513417, 0.01])
        torch.testing.assert_close(weighed.positive[back], expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(weighed.negative[back], 1 - expected, atol=1e-6, rtol=0)
        loss = F.binary_cross_entropy(torch.tensor(scores), weighed.positive, reduction="none")[back]
        assert loss[:2].tolist() == pytest.approx([0.614428, 0.603058], abs=2e-6)


@pytest.mark.parametrize("progress, tau", [(0.0, 1.5), (0.5, 0.9), (1.0, 0.3), (Progress(50, 101), 0.9)])
def test_tau_falls_over_the_training(progress, tau):
    scene, pairs = judged([0.6, 0.3], [0.8, 0.7])
    weighed = ia_bce(tau=(1.5, 0.3))(scene, pairs, torch.zeros(2), progress)
    assert weighed.box.tolist() == pytest.approx([1, math.exp(-1 / tau)])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4), st.sampled_from([0.0, 0.25, 0.6, 1.0]))
def test_ia_bce_against_a_loop(seed, num_objects, k, alpha):
    scores, boxes, gt_boxes, gt_classes = crowd(num_objects, seed)
    rule = f"Combine(candidates=center, quality=poto, selection=top_k(k={k}), weighting=ia_bce(alpha={alpha}, tau=2))"
    pairs = build_rule(rule)(POINTS, scores, boxes, gt_boxes, gt_classes)
    iou = dense_iou(gt_boxes, boxes).double()
    for g in range(num_objects):
        mine = (pairs.object == g).nonzero().squeeze(1).tolist()
        label = {}
        for i in mine:
            r = pairs.point[i].item()
            label[i] = max(scores[r, gt_classes[g]].double() ** alpha * iou[g, r] ** (1 - alpha), 0.01)
        for rank, i in enumerate(sorted(mine, key=lambda i: (-float(label[i]), pairs.point[i].item()))):
            decay = math.exp(-rank / 2)
            assert pairs.box[i].item() == pytest.approx(decay, rel=1e-5)
            assert pairs.positive[i].item() == pytest.approx(float(label[i]) * decay, rel=1e-5)
            assert pairs.negative[i].item() == pytest.approx(1 - float(label[i]) * decay, rel=1e-5, abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.sampled_from(["aligned", "mal(gamma=1.5)", "ia_bce"]))
def test_labels_lie_in_the_unit_interval_and_equal_pairs_have_equal_ones(seed, num_objects, weighting):
    """Of a scene that is there twice, as two images, both have the same weights to the bit."""
    scores, boxes, gt_boxes, gt_classes = crowd(num_objects, seed)
    scores[seed % len(scores)] = math.nan
    rule = build_rule(f"Combine(candidates=inside, quality=tal, selection=top_k(k=5), weighting={weighting})")
    twice = [torch.cat([x, x]) for x in (scores, boxes, gt_boxes, gt_classes)]
    image = torch.arange(2).repeat_interleave(num_objects)
    pairs = rule(POINTS, *twice, image)
    half = len(pairs) // 2
    for weight in pairs.weights:
        assert torch.equal(weight[:half], weight[half:]) and ((weight >= 0) & (weight <= 1)).all()
    torch.testing.assert_close(sum(pairs.weights), torch.ones(len(pairs)))


def test_a_moving_option():
    assert moving(0.7, 0.3) == 0.7 and moving((1.0, 3.0), 0.25) == 1.5
    numbers = [moving_number((10, 1), i / 999) for i in range(1000)]
    assert numbers[0] == 10 and numbers[-1] == 1 and numbers == sorted(numbers, reverse=True)
    assert all(abs(numbers.count(k) - 100) <= 1 for k in range(1, 11))
    assert [moving_number((1, 2), p) for p in (0.0, 0.49, 0.51, 1.0)] == [1, 1, 2, 2] and moving_number(4, 0.9) == 4


@pytest.mark.parametrize(
    "text, message",
    [
        ("quality=tal(alpha=-1), selection=matching", "tal: alpha and beta must not be negative"),
        ("quality=poto, selection=top_k, weighting=mal(gamma=0)", "mal: gamma must be above 0, got 0"),
        ("quality=poto, selection=top_k, weighting=aligned(metric=cost)", "metric must be 'quality' or 'tal'"),
        (
            "quality=poto, selection=top_k, weighting=ia_bce(tau=(1.5, 0))",
            "tau above 0 must hold; got 0.25, \\(1.5, 0\\)",
        ),
        ("quality=poto, selection=top_k, weighting=ia_bce(alpha=2)", "alpha in \\[0, 1\\]"),
        ("quality=poto, selection=top_k, weighting=ia_bce(tau=(1, 2, 3))", "tau must be a float or \\(start, end\\)"),
        ("quality=poto, selection=top_k, weighting=ia_bce(tau=word)", "tau must be a float or \\(start, end\\)"),
        ("quality=poto, selection=top_k, weighting=ia_bce(alpha=(0.1, 0.2))", "alpha must be a float, like 0.25"),
    ],
)
def test_options_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=message):
        build_rule(f"Combine(candidates=inside, {text})")
