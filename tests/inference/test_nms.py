"""Greedy NMS limited to near points, against loops and against batched_nms."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.inference import nms
from defcn_ext.inference.nms import greedy_nms
from detectron2.layers import batched_nms


def slow_nms(boxes, scores, groups, threshold, xy=None, reach=None):
    """One box after the other; IoUs as exact fractions of integers, compared in float32 as detectron2 does."""
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        if not any(
            groups[i] == groups[j]
            and slow_iou(boxes[i], boxes[j]) > threshold
            and (xy is None or max(abs(a - b) for a, b in zip(xy[i], xy[j])) < max(reach[i], reach[j]))
            for j in kept
        ):
            kept.append(i)
    return kept


def slow_iou(a, b):
    width, height = (max(0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1))
    union = sum((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)) - width * height
    return (torch.tensor(float(width * height)) / union).item() if union else 0.0


boxes_of_integers = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(0, 8)] * 2).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
stride = st.sampled_from([2, 4, 8])
candidate = st.tuples(
    boxes_of_integers, st.integers(1, 5), st.integers(0, 2), st.tuples(*[st.integers(0, 12)] * 2), stride
)


def columns(candidates):
    boxes, scores, groups, xy, strides = zip(*candidates) if candidates else ([],) * 5
    return (
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(scores, dtype=torch.float32) / 8,
        torch.tensor(groups, dtype=torch.long),
        torch.tensor(xy, dtype=torch.float32).reshape(-1, 2),
        torch.tensor(strides, dtype=torch.float32),
    )


# few distinct scores make ties; thresholds that IoUs of such boxes hit, rounded to float32 upwards and downwards
@pytest.mark.parametrize("block", [1, 3, 256])
@settings(max_examples=150, deadline=None)
@given(st.lists(candidate, max_size=25), st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.6, 0.7, 1.0]), st.sampled_from([1, 3]))
def test_equals_loops(block, candidates, threshold, window):
    boxes, scores, groups, xy, strides = columns(candidates)
    plain = [x.tolist() for x in (boxes, scores, groups)]
    reach = window / 2 * strides
    before, nms.BLOCK = nms.BLOCK, block
    try:
        unlimited = greedy_nms(boxes, scores, groups, threshold)
        limited = greedy_nms(boxes, scores, groups, threshold, xy=xy, reach=reach)
    finally:
        nms.BLOCK = before
    assert unlimited.tolist() == slow_nms(*plain, threshold)
    assert limited.tolist() == slow_nms(*plain, threshold, xy.tolist(), reach.tolist())


def scene(count, classes, seed):
    """Boxes around 30 middles, so that many overlap, and their points on a grid of stride 8."""
    rng = torch.Generator().manual_seed(seed)
    middle = torch.rand(30, 2, generator=rng)[torch.randint(30, (count,), generator=rng)] * 400
    middle = middle + torch.randn(count, 2, generator=rng) * 8
    half = 20 + 30 * torch.rand(count, 2, generator=rng)
    scores = torch.randperm(count, generator=rng) / count
    groups = torch.randint(classes, (count,), generator=rng)
    return torch.cat([middle - half, middle + half], 1), scores, groups, (middle / 8).round() * 8


@pytest.mark.parametrize("count, classes", [(0, 1), (1, 1), (256, 1), (257, 3), (1500, 1), (1500, 80)])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 1.0])
def test_equals_batched_nms_where_nothing_limits_it(count, classes, threshold):
    boxes, scores, groups, xy = scene(count, classes, seed=count + classes)
    expected = batched_nms(boxes, scores, groups, threshold)
    assert torch.equal(greedy_nms(boxes, scores, groups, threshold), expected)
    everywhere = torch.full((count,), 1e4)
    assert torch.equal(greedy_nms(boxes, scores, groups, threshold, xy=xy, reach=everywhere), expected)
    assert count < 200 or threshold == 1 or len(expected) < count


@pytest.mark.parametrize("threshold", [0.6, 0.7, 0.3])
def test_an_overlap_at_the_threshold_is_judged_as_by_batched_nms(threshold):
    """The float32 next to 0.6 lies above it, that next to 0.7 below it: a plain comparison in float32 differs."""
    boxes = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10 * threshold]])
    scores, groups = torch.tensor([0.9, 0.8]), torch.zeros(2, dtype=torch.long)
    expected = batched_nms(boxes, scores, groups, threshold).tolist()
    assert greedy_nms(boxes, scores, groups, threshold).tolist() == expected


def test_a_suppressed_box_suppresses_nothing_along_a_chain_over_many_blocks():
    """1,000 boxes in a row, each over half of its neighbour (IoU 1/3): every other one stays."""
    left = torch.arange(1000.0) * 5
    boxes = torch.stack([left, torch.zeros(1000), left + 10, torch.ones(1000)], dim=1)
    scores, groups = 1 - torch.arange(1000) / 2000, torch.zeros(1000, dtype=torch.long)
    assert greedy_nms(boxes, scores, groups, 0.3).tolist() == list(range(0, 1000, 2))
    assert greedy_nms(boxes, scores.flip(0), groups, 0.3).tolist() == list(range(999, 0, -2))
    assert len(greedy_nms(boxes, scores, groups, 0.34)) == 1000


def test_of_equal_scores_the_first_stays():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(600, 1)
    groups = torch.arange(600) % 2
    assert greedy_nms(boxes, torch.full((600,), 0.5), groups, 0.5).tolist() == [0, 1]
    assert greedy_nms(boxes, torch.full((600,), 0.5), 1 - groups, 0.5).tolist() == [0, 1]


def test_boxes_without_area_overlap_nothing():
    boxes = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 2, 2]])
    assert greedy_nms(boxes, torch.tensor([0.7, 0.8, 0.9]), torch.zeros(3).long(), 0.0).tolist() == [2, 1, 0]


def test_distance_counts_along_either_axis_and_the_larger_reach_decides():
    boxes = torch.tensor([[0.0, 0, 10, 10]]).repeat(4, 1)
    xy = torch.tensor([[0.0, 0], [3, -4], [3, 3.9], [4.1, 0]])
    scores, groups = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.zeros(4).long()
    assert greedy_nms(boxes, scores, groups, 0.5, xy=xy, reach=torch.full((4,), 4.0)).tolist() == [0, 1, 3]
    # box 3 now reaches box 0, and box 1 reaches everyone
    reach = torch.tensor([1.0, 4.5, 1, 4.2])
    assert greedy_nms(boxes, scores, groups, 0.5, xy=xy, reach=reach).tolist() == [0, 2]


def test_large_inputs_need_little_memory(monkeypatch):
    """No matrix has more than BLOCK rows."""
    boxes, scores, groups, xy = scene(2000, 1, seed=5)
    sizes, near = [], nms._Conflicts._near

    def watched(self, a, b):
        sizes.append((len(a), len(b)))
        return near(self, a, b)

    monkeypatch.setattr(nms._Conflicts, "_near", watched)
    greedy_nms(boxes, scores, groups, 0.6, xy=xy, reach=torch.full((2000,), 4.0))
    assert max(a for a, _ in sizes) == 256 and max(b for _, b in sizes) < 2000
