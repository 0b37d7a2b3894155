import pytest
import torch

from defcn_ext.structures import DensePredictions, Pairs, Points, ScoreView

STRIDES = [8, 16, 32, 64, 128]


@pytest.mark.parametrize(
    "sizes, total",
    [
        ([(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)], 22400),
        ([(160, 100), (80, 50), (40, 25), (20, 13), (10, 7)], 21330),
        ([(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)], 341),
    ],
)
def test_points_lie_in_the_middle_of_their_cells(sizes, total):
    points = Points.from_sizes(sizes, STRIDES)
    assert len(points) == total == sum(points.counts)
    first = torch.tensor([0, *points.counts[:-1]]).cumsum(0)
    assert points.xy[first].tolist() == [[s / 2, s / 2] for s in STRIDES]
    assert points.stride[first].tolist() == STRIDES
    assert points.level[first].tolist() == [0, 1, 2, 3, 4]
    assert points.xy[1].tolist() == [12, 4]  # row-major: the second point is to the right
    assert points.xy[sizes[0][1]].tolist() == [4, 12]


def test_points_refuse_bad_sizes():
    with pytest.raises(ValueError, match="2 level sizes but 1 strides"):
        Points.from_sizes([(2, 2), (1, 1)], [8])
    with pytest.raises(ValueError, match="at least one cell"):
        Points.from_sizes([(0, 2)], [8])


def test_boxes_of_distances():
    points = Points.from_sizes([(1, 2)], [8])
    boxes = points.boxes(torch.tensor([[[1.0, 2, 3, 4], [0, 0, 0, 0]]]))
    assert boxes.tolist() == [[[3, 2, 7, 8], [12, 4, 12, 4]]]


@pytest.mark.parametrize("with_filter", [False, True])
def test_score_view_equals_the_full_matrix(with_filter):
    predictions = DensePredictions(
        torch.randn(2, 6, 3), torch.rand(2, 6, 4), filter=torch.randn(2, 6, 1) if with_filter else None
    )
    full = predictions.score_logits().sigmoid().flatten(0, 1)
    if with_filter:
        product = predictions.logits.sigmoid() * predictions.filter.sigmoid()
        torch.testing.assert_close(full, product.flatten(0, 1))
    view = ScoreView(predictions)
    assert view.shape == (12, 3)
    point, cls = torch.tensor([0, 7, 11]), torch.tensor([2, 0, 1])
    torch.testing.assert_close(view[point, cls], full[point, cls])
    torch.testing.assert_close(view[point], full[point])
    torch.testing.assert_close(view[torch.arange(6)[None], cls[:, None]], full[:6, cls].T)


def test_a_diverged_logit_has_no_score():
    predictions = DensePredictions(
        torch.tensor([[[float("inf")], [0.0]]]), torch.zeros(1, 2, 4), filter=torch.zeros(1, 2, 1)
    )
    score = ScoreView(predictions)[torch.tensor([0, 1]), torch.tensor([0, 0])]
    assert score.isnan().tolist() == [True, False] and score[1].item() == pytest.approx(0.25)


def test_nonfinite_points_are_counted_once():
    predictions = DensePredictions(torch.zeros(1, 5, 3), torch.zeros(1, 5, 4), filter=torch.zeros(1, 5, 1))
    predictions.logits[0, 0] = float("nan")
    predictions.boxes[0, 0, 1] = float("inf")
    predictions.boxes[0, 2, 3] = float("-inf")
    predictions.filter[0, 4] = float("nan")
    assert int(predictions.num_nonfinite()) == 3


def test_pairs_are_picked_together():
    pairs = Pairs(torch.tensor([5, 6, 7]), torch.tensor([0, 0, 1]), positive=torch.tensor([0.1, 0.2, 0.3]))
    kept = pairs[torch.tensor([True, False, True])]
    assert (kept.point.tolist(), kept.object.tolist()) == ([5, 7], [0, 1])
    torch.testing.assert_close(kept.positive, torch.tensor([0.1, 0.3]))
    assert kept.negative is None and len(kept) == 2
