"""Max filtering that looks at boxes, against loops over all pairs of points."""

import pytest
import torch

from defcn_ext.layers import max_over_rivals
from defcn_ext.structures import Points

SIZES, STRIDES = [(7, 9), (4, 5), (2, 3), (1, 2)], [8, 16, 32, 64]


def iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = sum(max(0.0, x[2] - x[0]) * max(0.0, x[3] - x[1]) for x in (a, b))
    common = width * height
    return common / (areas - common) if common > 0 else 0.0


def cells_of(points):
    """(level, row, column) of each point."""
    for level, (height, width) in enumerate(points.sizes):
        for row in range(height):
            for column in range(width):
                yield from [(level, row, column)] * points.per_cell


def neighbours(a, b, tau, kernel):
    (fine, row, column), (coarse, other_row, other_column) = sorted([a, b], key=lambda x: x[0])
    if coarse - fine > tau // 2:
        return False
    factor = 2 ** (coarse - fine)
    reach = kernel // 2
    return abs(row // factor - other_row) <= reach and abs(column // factor - other_column) <= reach


def obvious(scores, boxes, labels, points, limit, tau, kernel):
    cells = list(cells_of(points))
    out = scores.clone()
    for n in range(len(scores)):
        for i, here in enumerate(cells):
            for j, there in enumerate(cells):
                if labels[n, i] == labels[n, j] and neighbours(here, there, tau, kernel):
                    if iou(boxes[n, i].tolist(), boxes[n, j].tolist()) > limit:
                        out[n, i] = max(out[n, i], scores[n, j])
    return out


def random_case(points, seed, images=2):
    draw = torch.Generator().manual_seed(seed)
    count = len(points)
    sides = points.stride[:, None] * (0.5 + 3 * torch.rand(images, count, 4, generator=draw))
    labels = torch.randint(2, (images, count), generator=draw)
    return torch.rand(images, count, generator=draw), points.boxes(sides), labels


@pytest.mark.parametrize("tau, kernel, limit", [(2, 3, 0.5), (0, 3, 0.3), (2, 1, 0.3), (4, 3, 0.4), (2, 5, 0.6)])
def test_equals_loops_over_all_pairs(tau, kernel, limit):
    points = Points.from_sizes(SIZES, STRIDES)
    case = random_case(points, seed=kernel + tau)
    found = max_over_rivals(*case, points, iou=limit, tau=tau, kernel=kernel)
    expected = obvious(*case, points, limit, tau, kernel)
    assert torch.equal(found, expected)
    assert (found > case[0]).float().mean() > 0.05  # there is something to find


def test_anchors_of_a_cell_are_rivals_too():
    points = Points.with_anchors([(3, 4), (2, 2)], [8, 16], torch.tensor([[2.0, 2], [3, 2], [2, 3]]))
    scores, _, labels = random_case(points, seed=3)
    boxes = points.anchors.expand(2, -1, -1) + torch.rand(2, len(points), 4, generator=torch.Generator().manual_seed(0))
    found = max_over_rivals(scores, boxes, labels, points, iou=0.4)
    assert torch.equal(found, obvious(scores, boxes, labels, points, 0.4, 2, 3))


def test_of_two_rivals_each_sees_the_other():
    """So that of a group of rivals exactly the best has none above it, wherever they lie."""
    points = Points.from_sizes(SIZES, STRIDES)
    box = torch.tensor([10.0, 10.0, 50.0, 50.0]).expand(1, len(points), 4)
    labels = torch.zeros(1, len(points), dtype=torch.long)
    for a, b in [(0, 1), (10, 63), (63, 83), (0, 80)]:
        scores = torch.zeros(1, len(points))
        scores[0, a], scores[0, b] = 0.6, 0.9
        found = max_over_rivals(scores, box, labels, points, iou=0.5)[0]
        near = neighbours(list(cells_of(points))[a], list(cells_of(points))[b], 2, 3)
        assert (found[a] > 0.8) == near
        assert found[b] > 0.8


def test_what_is_not_finite_is_nobodys_rival():
    points = Points.from_sizes([(1, 4)], [8])
    boxes = torch.tensor([[[0.0, 0, 9, 9], [0, 0, 9, 9], [float("nan"), 0, 9, 9], [0, 0, float("inf"), 9]]])
    scores = torch.tensor([[0.5, float("nan"), 0.9, 0.8]])
    labels = torch.zeros(1, 4, dtype=torch.long)
    found = max_over_rivals(scores, boxes, labels, points, iou=0.5, kernel=7)
    assert found.tolist() == [[0.5, 0.5, pytest.approx(0.9), pytest.approx(0.8)]]


def test_empty_boxes_have_no_rivals():
    points = Points.from_sizes([(1, 2)], [8])
    boxes = torch.zeros(1, 2, 4)
    found = max_over_rivals(torch.tensor([[0.5, 0.9]]), boxes, torch.zeros(1, 2, dtype=torch.long), points, iou=0.0)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.9]]))
