from dataclasses import replace

import pytest
import torch

from defcn_ext.structures import DensePredictions, Objects, Pairs, Points, ScoreView
from detectron2.structures import Boxes, Instances

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


def test_anchors_come_cell_by_cell():
    """Two anchors a cell, 2 x 1 and 1 x 3 strides (width x height), centred on the corners of the cells."""
    points = Points.with_anchors([(1, 2), (1, 1)], [8, 16], torch.tensor([[2.0, 1], [1, 3]]))
    assert points.anchors.tolist() == [
        *([-8, -4, 8, 4], [-4, -12, 4, 12]),
        *([0, -4, 16, 4], [4, -12, 12, 12]),
        *([-16, -8, 16, 8], [-8, -24, 8, 24]),
    ]
    assert points.xy.tolist() == [[0, 0], [0, 0], [8, 0], [8, 0], [0, 0], [0, 0]]
    assert points.stride.tolist() == [8] * 4 + [16] * 2 and points.level.tolist() == [0] * 4 + [1] * 2
    assert points.per_cell == 2 and points.counts == [4, 2] and len(points) == 6


def test_the_offset_moves_anchors_by_a_share_of_their_stride():
    shapes = torch.tensor([[4.0, 4.0]])
    corner, middle = (Points.with_anchors([(2, 2), (1, 1)], [8, 16], shapes, offset=x) for x in (0.0, 0.5))
    torch.testing.assert_close(middle.anchors - corner.anchors, (middle.stride / 2)[:, None].expand(5, 4))
    assert torch.equal(middle.xy, Points.from_sizes([(2, 2), (1, 1)], [8, 16]).xy)


def test_cells_that_fill_the_image_are_not_strides():
    """An image of 32 x 64 (height x width) whose second level has 3 rows and 5 columns: 32 // 3 and 64 // 5 pixels."""
    sizes = [(4, 8), (3, 5)]
    points = Points.from_sizes(sizes, [8, 16], offset=0.0, fill=True)
    assert points.cells == ((8, 8), (10, 12)) and points.steps.tolist() == [[8, 8], [12, 10]]
    assert points.xy[32 + 5 + 2].tolist() == [24, 10] and points.stride[-1] == 16
    anchors = Points.with_anchors(sizes, [8, 16], torch.tensor([[[2.0, 2]], [[1, 3]]]), fill=True)
    assert torch.equal(anchors.xy, points.xy) and anchors.cells == points.cells
    assert anchors.anchors[1].tolist() == [0, -8, 16, 8] and anchors.anchors[32 + 7].tolist() == [16, -14, 32, 34]


def test_objects_know_the_images_own_sizes():
    instances = [Instances((30, 50)), Instances((40, 20)), Instances((10, 10))]
    for x, count in zip(instances, (1, 0, 2)):
        x.gt_boxes, x.gt_classes = Boxes(torch.ones(count, 4)), torch.arange(count)
    objects = Objects.from_instances(instances)
    assert objects.image_sizes.tolist() == [[30, 50], [40, 20], [10, 10]]
    assert objects.image.tolist() == [0, 2, 2] and objects.classes.tolist() == [0, 0, 1]


@pytest.mark.parametrize("with_filter", [False, True])
def test_score_view_equals_the_full_matrix(with_filter):
    predictions = DensePredictions(
        torch.randn(2, 6, 3), torch.rand(2, 6, 4), objectness=torch.randn(2, 6, 1) if with_filter else None
    )
    full = predictions.score_logits().sigmoid().flatten(0, 1)
    if with_filter:
        product = predictions.logits.sigmoid() * predictions.objectness.sigmoid()
        torch.testing.assert_close(full, product.flatten(0, 1))
    view = ScoreView(predictions)
    assert view.shape == (12, 3)
    point, cls = torch.tensor([0, 7, 11]), torch.tensor([2, 0, 1])
    torch.testing.assert_close(view[point, cls], full[point, cls])
    torch.testing.assert_close(view[point], full[point])
    torch.testing.assert_close(view[torch.arange(6)[None], cls[:, None]], full[:6, cls].T)
    logits = torch.logit(full)
    torch.testing.assert_close(view.logit((point, cls)), logits[point, cls])
    torch.testing.assert_close(view.logit(point), logits[point])
    torch.testing.assert_close(view.logit((torch.arange(6)[None], cls[:, None])), logits[:6, cls].T)


def test_logits_tell_apart_what_scores_have_rounded_together():
    logits = torch.tensor([[[40.0], [50.0], [-60.0], [float("nan")], [float("inf")]]], dtype=torch.bfloat16)
    plain = ScoreView(DensePredictions(logits, torch.zeros(1, 5, 4)))
    sure = torch.tensor([60.0] * 5).view(1, 5, 1)
    filtered = ScoreView(DensePredictions(logits, torch.zeros(1, 5, 4), objectness=sure))
    every = torch.arange(5)
    assert plain[every][:2].tolist() == [[1.0], [1.0]]
    assert plain.logit(every).dtype == torch.float32
    assert plain.logit(every).flatten()[:3].tolist() == [40, 50, -60]
    assert filtered.logit(every).flatten()[:3].tolist() == pytest.approx([40, 49.9999546, -60], rel=1e-7)
    assert plain.logit(every).isfinite().flatten().tolist() == [True, True, True, False, False]


def test_a_diverged_logit_has_no_score():
    predictions = DensePredictions(
        torch.tensor([[[float("inf")], [0.0]]]), torch.zeros(1, 2, 4), objectness=torch.zeros(1, 2, 1)
    )
    score = ScoreView(predictions)[torch.tensor([0, 1]), torch.tensor([0, 0])]
    assert score.isnan().tolist() == [True, False] and score[1].item() == pytest.approx(0.25)


def test_nonfinite_points_are_counted_once():
    predictions = DensePredictions(torch.zeros(1, 5, 3), torch.zeros(1, 5, 4), objectness=torch.zeros(1, 5, 1))
    predictions.logits[0, 0] = float("nan")
    predictions.boxes[0, 0, 1] = float("inf")
    predictions.boxes[0, 2, 3] = float("-inf")
    predictions.objectness[0, 4] = float("nan")
    assert int(predictions.num_nonfinite()) == 3


def test_a_delta_that_is_not_finite_is_counted_though_its_box_is():
    """Where deltas of the size are cut off, an infinite one has a finite box."""
    predictions = DensePredictions(torch.zeros(1, 5, 3), torch.zeros(1, 5, 4), deltas=torch.zeros(1, 5, 4))
    predictions.deltas[0, 3, 2] = float("inf")
    assert int(predictions.num_nonfinite()) == 1


def test_assignment_gets_no_gradients():
    maps = {"logits": 3, "boxes": 4, "objectness": 1, "centerness": 1, "deltas": 4}
    predictions = DensePredictions(**{k: torch.zeros(1, 2, c, requires_grad=True) for k, c in maps.items()})
    detached = predictions.detach()
    assert not any(x.requires_grad for x in vars(detached).values() if isinstance(x, torch.Tensor))
    assert all(getattr(detached, k) is not None for k in ("logits", "boxes", "objectness", "centerness"))


def test_pairs_are_picked_together():
    pairs = Pairs(torch.tensor([5, 6, 7]), torch.tensor([0, 0, 1]), positive=torch.tensor([0.1, 0.2, 0.3]))
    kept = pairs[torch.tensor([True, False, True])]
    assert (kept.point.tolist(), kept.object.tolist()) == ([5, 7], [0, 1])
    torch.testing.assert_close(kept.positive, torch.tensor([0.1, 0.3]))
    assert kept.negative is None and len(kept) == 2


@pytest.mark.parametrize("index", [torch.tensor([False, True]), torch.tensor([1])])
def test_ignored_points_stay_when_pairs_are_picked(index):
    pairs = Pairs(torch.tensor([5, 6]), torch.tensor([0, 1]), ignored=torch.tensor([1, 2, 3]))
    assert pairs[index].ignored.tolist() == [1, 2, 3] and pairs[index].point.tolist() == [6]


def test_ltrb_is_the_inverse_of_boxes():
    points = Points.from_sizes([(3, 4), (2, 2)], [8, 16])
    distances = torch.randint(-20, 50, (2, len(points), 4), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(points.ltrb(points.boxes(distances)), distances)
    assert points.ltrb(torch.tensor([0.0, 0, 10, 20]))[0].tolist() == [4, 4, 6, 16]


def test_the_pairs_of_one_image():
    pairs = Pairs(
        torch.tensor([1, 7, 5, 9]),
        torch.tensor([0, 1, 2, 1]),
        positive=torch.tensor([0.1, 0.2, 0.3, 0.4]),
        ignored=torch.tensor([3, 6]),
        covered=torch.tensor([True, True, False]),
    )
    second = pairs.of_image(1, 5)
    assert second.point.tolist() == [2, 0, 4] and second.object.tolist() == [1, 2, 1]
    assert second.positive.tolist() == pytest.approx([0.2, 0.3, 0.4]) and second.ignored.tolist() == [1]
    assert torch.equal(second.covered, pairs.covered)
    assert len(pairs.of_image(2, 5)) == 0


def test_dense_targets():
    """A point of two objects stands for the one of the larger weight, of equal ones for the first pair's."""
    pairs = Pairs(
        torch.tensor([1, 3, 1, 0, 0]),
        torch.tensor([0, 1, 1, 2, 0]),
        positive=torch.tensor([0.1, 0.2, 0.3, 0.5, 0.5]),
        ignored=torch.tensor([4]),
    )
    boxes = torch.arange(12.0).view(3, 4)
    found = pairs.targets(6, boxes, torch.tensor([2, 0, 1]), num_classes=3)
    assert found.classes.tolist() == [1, 0, 3, 0, -1, 3]
    assert found.object.tolist() == [2, 1, -1, 1, -1, -1]
    assert found.positive.tolist() == pytest.approx([0.5, 0.3, 0, 0.2, 0, 0])
    assert torch.equal(found.boxes[[0, 1, 3]], boxes[[2, 1, 1]]) and not found.boxes[[2, 4, 5]].any()
    hard = replace(pairs, positive=None, negative=None).targets(6, boxes, torch.tensor([2, 0, 1]), num_classes=3)
    assert hard.classes.tolist() == [1, 2, 3, 0, -1, 3] and hard.positive.tolist() == [1, 1, 0, 1, 0, 0]


def test_objects_from_lists():
    sizes = [(10, 20), (30, 40), (5, 5)]
    objects = Objects.from_lists([[[0, 0, 4, 4]], [], torch.ones(2, 4)], [[3], [], torch.tensor([1, 0])], sizes)
    assert objects.boxes.shape == (3, 4) and objects.boxes.dtype == torch.float32
    assert objects.classes.tolist() == [3, 1, 0] and objects.image.tolist() == [0, 2, 2]
    assert objects.sizes.tolist() == [list(map(float, x)) for x in sizes]
    none = Objects.from_lists([[], []], [[], []])
    assert len(none) == 0 and none.boxes.shape == (0, 4) and none.classes.dtype == torch.long
    assert len(Objects.from_lists([], [])) == 0


@pytest.mark.parametrize(
    "boxes, classes, message",
    [
        ([[[0, 0, 4, 4]]], [], "the same images, got 1 and 0"),
        ([[[0, 0, 4]]], [[1]], r"image 0: boxes \(1, 3\)"),
        ([[], [[0, 0, 4, 4]]], [[], [1, 2]], r"image 1: .* classes \(2,\)"),
    ],
)
def test_lists_that_do_not_fit(boxes, classes, message):
    with pytest.raises(ValueError, match=message):
        Objects.from_lists(boxes, classes)


def test_the_root_of_class_score_and_objectness():
    """In the losses, in what assignment reads, and after a further factor (DDQ)."""
    a, b = torch.tensor([[[2.0, -1.0], [-30.0, 0.5]]]), torch.tensor([[[0.3], [-25.0]]])
    rooted = DensePredictions(a, torch.zeros(1, 2, 4), b, rooted=True)
    score = (a.double().sigmoid() * b.double().sigmoid()).sqrt()
    torch.testing.assert_close(rooted.score_logits().double().sigmoid(), score, atol=0, rtol=1e-5)
    view = ScoreView(rooted.detach())
    point, classes = torch.tensor([0, 1, 1]), torch.tensor([1, 0, 1])
    torch.testing.assert_close(view[point, classes].double(), score[0, point, classes], atol=0, rtol=1e-5)
    assert torch.equal(view.logit((point, classes)), rooted.score_logits()[0, point, classes])
    torch.testing.assert_close(view[point].double(), score[0, point], atol=0, rtol=1e-5)
    factor = torch.tensor([[[1.0], [-2.0]]])
    product = rooted.times(factor).score_logits().double().sigmoid()
    torch.testing.assert_close(product, score * factor.double().sigmoid(), atol=0, rtol=1e-5)
