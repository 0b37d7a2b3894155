"""The selections of the k best and of the best of these, candidates of small objects, and numbers that move."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.assignment import build_rule
from defcn_ext.structures import Points
from tests.assignment.scenes import POINTS, crowd
from tests.reference import dense_iou, dense_prior

SCENES = (st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9))
METRIC = "candidates=inside, quality=tal(alpha=0.5, beta=6)"


def twins(num_objects, seed):
    """A crowd of one class in which many objects lie on top of each other, so that they want the same points."""
    scores, boxes, gt_boxes, gt_classes = crowd(num_objects, seed, classes=1)
    moved = gt_boxes + torch.randn(gt_boxes.shape, generator=torch.Generator().manual_seed(seed))
    return scores, boxes, torch.cat([gt_boxes, moved]), torch.cat([gt_classes, gt_classes])


def kept_of_each(scores, boxes, gt_boxes, gt_classes, k, conflicts):
    """{object: its points, the best first}, with loops."""
    iou, inside = dense_iou(gt_boxes, boxes), dense_prior(POINTS, gt_boxes)
    rule = build_rule(f"Combine({METRIC}, selection=every, weighting=aligned)")
    pairs = rule(POINTS, scores, boxes, gt_boxes, gt_classes)
    metric = {(g, r): q for g, r, q in zip(pairs.object.tolist(), pairs.point.tolist(), pairs.quality.tolist())}
    wanted = {}
    for g in range(len(gt_boxes)):
        mine = sorted(inside[g].nonzero().squeeze(1).tolist(), key=lambda r: (-metric[g, r], r))
        for r in mine[:k]:
            wanted.setdefault(r, []).append(g)
    owner = {}
    for r, rivals in wanted.items():
        merit = {g: metric[g, r] if conflicts == "quality" else iou[g, r].item() for g in rivals}
        owner[r] = max(rivals, key=lambda g: (merit[g], -g))
    return {
        g: sorted((r for r in owner if owner[r] == g), key=lambda r: (-metric[g, r], r)) for g in range(len(gt_boxes))
    }


@settings(max_examples=12, deadline=None)
@given(*SCENES, st.sampled_from(["quality", "iou"]))
def test_top_k_against_loops(seed, num_objects, k, conflicts):
    scene = twins(num_objects, seed)
    pairs = build_rule(f"Combine({METRIC}, selection=top_k(k={k}, conflicts={conflicts}))")(POINTS, *scene)
    expected = kept_of_each(*scene, k, conflicts)
    found = sorted(zip(pairs.object.tolist(), pairs.point.tolist()))
    assert found == sorted((g, r) for g, points in expected.items() for r in points)


@settings(max_examples=12, deadline=None)
@given(*SCENES)
def test_top_k_then_one_against_loops(seed, num_objects, k):
    scene = twins(num_objects, seed)
    pairs = build_rule(f"Combine({METRIC}, selection=top_k_then_one(k={k}))")(POINTS, *scene)
    expected = {g: points[0] for g, points in kept_of_each(*scene, k, "iou").items() if points}
    assert dict(zip(pairs.object.tolist(), pairs.point.tolist())) == expected
    assert len(set(pairs.point.tolist())) == len(pairs) and pairs.object.tolist() == sorted(expected)


def test_who_loses_its_best_point_takes_the_next():
    """Two objects want point 0: the first fits it better. With one cut the second has none, with two its own second."""
    points = Points.from_sizes([(1, 3)], [8])
    gt = torch.tensor([[0.0, 0, 10, 8], [0, 0, 14, 8]])
    boxes = torch.tensor([[0.0, 0, 11, 8], [0, 0, 16, 8], [0, 0, 30, 8]])
    scores = torch.tensor([[0.9], [0.2], [0.1]])
    cut = {}
    for selection in ("top_k(k=1, conflicts=iou)", "top_of_object", "top_k_then_one(k=2)"):
        rule = build_rule(f"Combine({METRIC}, selection={selection})")
        pairs = rule(points, scores, boxes, gt, torch.tensor([0, 0]))
        cut[selection] = dict(zip(pairs.object.tolist(), pairs.point.tolist()))
    assert cut == {
        "top_k(k=1, conflicts=iou)": {0: 0},
        "top_of_object": {0: 0},
        "top_k_then_one(k=2)": {0: 0, 1: 1},
    }


def test_a_number_that_moves():
    scene = crowd(5, 3)
    moving = build_rule(f"Combine({METRIC}, selection=top_k(k=(7, 1)))")
    for progress, k in [(0.0, 7), (0.5, 4), (1.0, 1)]:
        fixed = build_rule(f"Combine({METRIC}, selection=top_k(k={k}))")(POINTS, *scene)
        pairs = moving(POINTS, *scene, progress=progress)
        assert torch.equal(pairs.point, fixed.point) and torch.equal(pairs.object, fixed.object)
    o2f = build_rule("O2F(k=(7, 3))")
    counts = [o2f(POINTS, *scene, progress=p).object.bincount().max().item() for p in (0.0, 1.0)]
    assert counts == [7, 3]


# Candidates of small objects


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 9))
def test_widened_candidates_are_those_of_wider_boxes(seed, num_objects):
    """Side by side, about the middle; quality and labels stay those of the objects."""
    scores, boxes, gt_boxes, gt_classes = crowd(num_objects, seed)
    rng = torch.Generator().manual_seed(seed)
    gt_boxes[:, 2:] = gt_boxes[:, :2] + torch.rand(num_objects, 2, generator=rng) * 16
    middle, sides = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2, gt_boxes[:, 2:] - gt_boxes[:, :2]
    half = torch.where(sides < 8, 16.0, sides) / 2
    wide = torch.cat([middle - half, middle + half], 1)
    steps = "quality=poto, selection=every, weighting=mal(gamma=1)"
    pairs = build_rule(f"Combine(candidates=widened(prior=inside), {steps})")(
        POINTS, scores, boxes, gt_boxes, gt_classes
    )
    expected = {(g, r) for g, r in dense_prior(POINTS, wide).nonzero().tolist()}
    # a side that is kept is not computed anew, and may lie a rounding away from `wide`
    assert len(set(zip(pairs.object.tolist(), pairs.point.tolist())) ^ expected) <= 1
    iou = dense_iou(gt_boxes, boxes)[pairs.object, pairs.point]
    torch.testing.assert_close(pairs.positive, iou, atol=1e-6, rtol=1e-5)
    assert pairs.covered.nonzero().squeeze(1).tolist() == sorted({g for g, _ in expected})


def test_objects_that_no_point_hits_are_covered_when_widened():
    """A box of three pixels between the points of all levels."""
    gt = torch.tensor([[9.0, 9.0, 12.0, 12.0]]), torch.tensor([0])
    scene = (*crowd(1, 0)[:2], *gt)
    found = [
        build_rule(f"Combine(candidates={c}, quality=poto, selection=top_k)")(POINTS, *scene)
        for c in ("inside", "widened(prior=inside)", "widened(prior=center(radius=1.5), below=8, side=10)")
    ]
    assert [(len(x), x.covered.item()) for x in found] == [(0, False), (6, True), (2, True)]


def test_a_search_by_quality_sees_the_objects_as_they_are():
    """Among all points nothing changes with the boxes, whatever way the search takes."""
    scene = crowd(6, 1)
    scene[2][:, 2:] = scene[2][:, :2] + 6
    plain, wide = (
        build_rule(f"Combine(candidates={c}, quality=poto, selection=top_k(k=3))")(POINTS, *scene)
        for c in ("best_per_level", "widened(prior=best_per_level)")
    )
    assert torch.equal(plain.point, wide.point) and torch.equal(plain.quality, wide.quality)


@pytest.mark.parametrize(
    "text, message",
    [
        ("candidates=inside, quality=poto, selection=top_k(k=0)", "top_k: k must be at least 1, got 0"),
        ("candidates=inside, quality=poto, selection=top_k(k=(3, 0))", "top_k: k must be at least 1, got \\(3, 0\\)"),
        ("candidates=inside, quality=poto, selection=top_k(k=(3, 1.5))", "k must be a int or \\(start, end\\)"),
        ("candidates=inside, quality=poto, selection=top_k(conflicts=area)", "conflicts must be 'quality' or 'iou'"),
        ("candidates=inside, quality=poto, selection=top_k_then_one(k=0)", "top_k_then_one: k must be at least 1"),
        (
            "candidates=everywhere, quality=poto, selection=top_k_then_one",
            "that a matching can use, and top_k_then_one",
        ),
        ("candidates=inside, quality=smallest_area, selection=top_k_then_one", "is equal at all points of an object"),
        ("candidates=widened(prior=inside, below=20), quality=poto, selection=matching", "0 < below <= side must hold"),
        ("candidates=widened, quality=poto, selection=matching", "option 'prior' is missing"),
    ],
)
def test_options_that_make_no_sense(text, message):
    with pytest.raises(ValueError, match=message):
        build_rule(f"Combine({text})")
