"""3D Max Filtering as post-processing: hand-made maps, then loops."""

import pytest
import torch
import torch.nn.functional as F

from defcn_ext.inference.peak_filter import PeakFilter
from defcn_ext.structures import Points


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


# An impulse at (1, 1) of a 4x4 map, seen in row 1 of the 8x8 map below it. Resized, it weighs 0, 1/4, 3/4, 3/4, 1/4, 0
# along one axis; the window takes in row 2 (3/4), and along the row one more cell on both sides.
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
    assert not PeakFilter(0, 1)(scores, ONE)[0, 0]  # not even alone
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
