import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.assignment import candidates
from defcn_ext.assignment.scene import make_scene
from defcn_ext.structures import Points
from tests.reference import dense_prior

POINTS = Points.from_sizes([(32, 32), (16, 16), (8, 8), (4, 4), (2, 2)], [8, 16, 32, 64, 128])


def scene_of(gt_boxes, points=POINTS, images=1, image=None):
    gt_boxes = torch.as_tensor(gt_boxes, dtype=torch.float32).reshape(-1, 4)
    total = images * len(points)
    return make_scene(
        points,
        torch.rand(total, 2),
        torch.rand(total, 4),
        gt_boxes,
        torch.zeros(len(gt_boxes), dtype=torch.long),
        image,
    )


def per_level(pairs):
    return torch.bincount(POINTS.level[pairs.point], minlength=5).tolist()


@pytest.mark.parametrize(
    "box, center, inside",
    [
        ([0, 0, 40, 40], [9, 4, 1, 1, 0], [25, 4, 1, 1, 0]),
        ([10, 10, 200, 120], [9, 9, 9, 6, 2], [336, 66, 24, 6, 2]),
        ([100, 100, 103, 103], [0] * 5, [0] * 5),
        ([60, 60, 68, 68], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]),
        ([101, 101, 108, 108], [0, 1, 0, 0, 0], [0, 1, 0, 0, 0]),
    ],
)
def test_counts_by_level(box, center, inside):
    """00-common, 'What to test': one 256 x 256 image."""
    assert per_level(candidates.center(1.5)(scene_of([box]), None)) == center
    assert per_level(candidates.inside()(scene_of([box]), None)) == inside


coordinate = st.one_of(st.integers(-64, 320).map(float), st.floats(-64, 320, width=32))
box = st.tuples(coordinate, coordinate, coordinate, coordinate).map(
    lambda b: [min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3])]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(box, max_size=6), st.sampled_from([None, 0.5, 1.5, 2.5]))
def test_enumeration_finds_exactly_the_points_of_the_dense_mask(boxes, radius):
    scene = scene_of(boxes)
    step = candidates.inside() if radius is None else candidates.center(radius)
    pairs = step(scene, None)
    found = torch.zeros(len(boxes), len(POINTS), dtype=torch.bool)
    found[pairs.object, pairs.point] = True
    assert torch.equal(found, dense_prior(POINTS, scene.gt_boxes, radius))
    assert len(pairs) == int(found.sum()), "a pair is listed twice"
    assert torch.equal(pairs.covered, found.any(1))
    assert torch.equal(pairs.object, pairs.object.sort().values)


FILLED = Points.from_sizes([(20, 28), (10, 14), (5, 7), (3, 4), (2, 2)], [8, 16, 32, 64, 128], offset=0.0, fill=True)


@settings(max_examples=60, deadline=None)
@given(st.lists(box, min_size=1, max_size=4), st.sampled_from([None, 1.5]))
def test_points_are_found_also_where_cells_are_no_strides(boxes, radius):
    """P6 and P7 of 160 x 224: cells of 53 x 56 and 80 x 112 (height x width), points at their corners."""
    scene = scene_of(boxes, FILLED)
    pairs = (candidates.inside() if radius is None else candidates.center(radius))(scene, None)
    found = torch.zeros(len(boxes), len(FILLED), dtype=torch.bool)
    found[pairs.object, pairs.point] = True
    assert torch.equal(found, dense_prior(FILLED, scene.gt_boxes, radius))
    nearest = candidates.nearest_per_level(3)(scene, None)
    middle = (scene.gt_boxes[:, None, :2] + scene.gt_boxes[:, None, 2:]) / 2
    distance = (FILLED.xy - middle).square().sum(-1)
    for level in range(5):
        on = FILLED.level == level
        dense = distance[:, on].sort(1).values[:, :3]
        ours = distance[nearest.object, nearest.point][FILLED.level[nearest.point] == level].view(len(boxes), -1)
        torch.testing.assert_close(ours.sort(1).values, dense)


def test_objects_of_a_batch_get_the_points_of_their_image():
    boxes = [[0, 0, 40, 40], [10, 10, 200, 120], [0, 0, 40, 40]]
    scene = scene_of(boxes, images=3, image=torch.tensor([2, 0, 1]))
    pairs = candidates.center(1.5)(scene, None)
    first = pairs[pairs.object == 0]
    third = pairs[pairs.object == 2]
    assert torch.equal(first.point - 2 * len(POINTS), third.point - len(POINTS))
    assert int(third.point.min()) >= len(POINTS)


def test_uncovered_object_gets_its_nearest_point_on_request():
    boxes = [[100, 100, 103, 103], [0, 0, 40, 40], [-50, -50, -40, -40]]
    dropped = candidates.center(1.5)(scene_of(boxes), None)
    nearest = candidates.center(1.5, uncovered="nearest")(scene_of(boxes), None)
    assert dropped.covered.tolist() == nearest.covered.tolist() == [False, True, False]
    assert len(nearest) == len(dropped) + 2
    assert POINTS.xy[nearest.point[nearest.object == 0]].tolist() == [[100, 100]]  # a point of stride 8
    assert POINTS.xy[nearest.point[nearest.object == 2]].tolist() == [[4, 4]]
    with pytest.raises(ValueError, match="'drop' or 'nearest'"):
        candidates.center(1.5, uncovered="far")


def test_size_ranges_are_closed_on_both_ends():
    """A reach of exactly 64 pixels is meant for two levels."""
    points = Points.from_sizes([(32, 32), (16, 16)], [8, 16])
    exact = [[36, 36, 164, 164]]  # centre (100, 100) is a point of the finest level: reach 64
    pairs = candidates.size_range(candidates.center(1.5))(scene_of(exact, points), None)
    by_level = {l: points.xy[pairs.point[points.level[pairs.point] == l]].tolist() for l in (0, 1)}
    assert by_level[0] == [[100, 100]]
    assert len(by_level[1]) == 9  # 88, 104 and 120 are within 24 of 100; all reach at least 64
