"""Objects that stand several times, against the dense assignment of all copies."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from defcn_ext.assignment import build_rule
from defcn_ext.assignment.repeated import match_copies
from defcn_ext.structures import Points
from tests.assignment.scenes import POINTS, crowd


def dense(point, object, copies, quality):
    """Number of pairs and total quality of the best assignment of all copies, each one a row of a full matrix."""
    objects, points = np.unique(object), np.unique(point)
    value = np.full((len(objects), len(points)), -1e6)
    value[np.searchsorted(objects, object), np.searchsorted(points, point)] = quality
    times = [copies[object == g][0] for g in objects]
    value = np.repeat(value, times, axis=0)
    rows, columns = linear_sum_assignment(value, maximize=True)
    real = value[rows, columns] > -1e5
    return real.sum(), value[rows, columns][real].sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(1, 25), st.integers(1, 5), st.booleans())
def test_copies_against_the_dense_assignment(seed, num_objects, num_points, k, coarse):
    """Of random pairs, also with many equal qualities, and with numbers of copies of their own."""
    rng = np.random.default_rng(seed)
    listed = rng.random((num_objects, num_points)) < rng.choice([0.2, 0.5, 1.0])
    object, point = listed.nonzero()
    quality = rng.normal(size=len(point)) * rng.choice([1e-3, 1, 50])
    if coarse:
        quality = np.round(quality)
    copies = rng.integers(1, k + 1, num_objects)[object]
    chosen = match_copies(point, object, copies, quality)
    assert len(np.unique(point[chosen])) == len(chosen) and (np.diff(object[chosen]) >= 0).all()
    assert all((object[chosen] == g).sum() <= copies[object == g][0] for g in np.unique(object))
    if len(point):
        count, total = dense(point, object, copies, quality)
        assert len(chosen) == count
        assert quality[chosen].sum() == pytest.approx(total, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("quality", ["min_cost", "tal(alpha=1)"])
def test_the_rule_of_a_batch(quality, k):
    """Image by image the same; with one copy it is the full matching."""
    steps = f"Combine(candidates=center, quality={quality}, selection="
    rule = build_rule(f"{steps}repeated_matching(k={k}))")
    images = [crowd(n, n) for n in (9, 1, 4)]
    batch = [torch.cat(x) for x in zip(*images)]
    image = torch.arange(3).repeat_interleave(torch.tensor([9, 1, 4]))
    whole, start = rule(POINTS, *batch, image), 0
    for n, scene in enumerate(images):
        alone, mine = rule(POINTS, *scene), whole.of_image(n, len(POINTS))
        assert torch.equal(alone.point, mine.point) and torch.equal(alone.object, mine.object - start)
        assert alone.object.bincount().max() <= k
        start += len(scene[2])
        if k == 1:
            once = build_rule(f"{steps}full_matching)")(POINTS, *scene)
            assert once.quality.sum().item() == pytest.approx(alone.quality.sum().item(), rel=1e-5)


def test_no_more_copies_than_there_are_points():
    """Four points and three objects: one copy of each, not four of the first."""
    points = Points.from_sizes([(2, 2)], [8])
    gt = torch.tensor([[0.0, 0, 16, 16]]).repeat(3, 1)
    rule = build_rule("Combine(candidates=inside, quality=poto, selection=repeated_matching(k=8))")
    for count, copies in [(3, 1), (2, 2), (1, 4)]:
        scene = torch.full((4, 1), 0.5), torch.tensor([[0.0, 0, 16, 12]]).repeat(4, 1), gt[:count]
        pairs = rule(points, *scene, torch.zeros(count, dtype=torch.long))
        assert pairs.object.bincount().tolist() == [copies] * count


def test_nothing_to_match():
    rule = build_rule("Combine(candidates=inside, quality=poto, selection=repeated_matching)")
    scores, boxes, gt_boxes, gt_classes = crowd(1, 0)
    assert len(rule(POINTS, scores, boxes, gt_boxes[:0], gt_classes[:0])) == 0
    assert len(rule(POINTS, scores, boxes, torch.tensor([[9.0, 9, 10, 10]]), gt_classes)) == 0
    with pytest.raises(ValueError, match="repeated_matching: k must be at least 1, got 0"):
        build_rule("Combine(candidates=inside, quality=poto, selection=repeated_matching(k=0))")
