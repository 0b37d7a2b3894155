import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.data.placing import Placing, clip_polygon, covering, fitting, resize
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks


def objects(boxes, size=(20, 40), **fields):
    count = len(boxes)
    gt = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    return Instances(size, gt_boxes=gt, gt_classes=torch.arange(count), **fields)


def square(x1, y1, x2, y2):
    return [np.array([x1, y1, x2, y1, x2, y2, x1, y2], dtype=float)]


def bitmask(box, size=(20, 40)):
    mask = torch.zeros(size, dtype=torch.bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


def test_boxes_masks_and_keypoints_move_together():
    """Twice as large, 10 to the left and 4 down: (8, 2, 16, 8) becomes (6, 8, 22, 20), cut off at x 20."""
    box = [8, 2, 16, 8]
    points = Keypoints([[[9, 3, 2], [16, 8, 1], [10, 4, 0]]])
    placing = Placing((40, 80), (-10, 4), (0, 4, 20, 44), (50, 60))
    for masks in (PolygonMasks([square(*box)]), BitMasks(bitmask(box)[None])):
        moved = placing.instances(objects([box], gt_masks=masks, gt_keypoints=points))
        assert moved.image_size == (50, 60)
        assert moved.gt_boxes.tensor.tolist() == [[6, 8, 20, 20]]
        assert moved.gt_masks.get_bounding_boxes().tensor.tolist() == [[6, 8, 20, 20]]
        assert moved.gt_keypoints.tensor.tolist() == [[[8, 10, 2], [0, 0, 0], [0, 0, 0]]]


def test_objects_that_are_hardly_seen_go():
    """Of 10 pixels across 2 are seen, or none, or half a pixel of the last."""
    placing = Placing((20, 40), (0, 0), (0, 0, 12, 20), (20, 40))
    moved = placing.instances(objects([[10, 0, 20, 10], [12, 0, 20, 10], [11.5, 0, 21.5, 10]]))
    assert moved.gt_classes.tolist() == [0] and moved.gt_boxes.tensor.tolist() == [[10, 0, 12, 10]]
    assert len(placing.instances(objects([]))) == 0


def test_a_covering_picture_fills_its_window_and_is_centred():
    placing = covering((20, 40), (10, 0, 20, 10), (30, 30))
    assert (placing.size, placing.corner) == ((10, 20), (5, 0))
    image = torch.arange(40).repeat(3, 20, 1).to(torch.uint8)
    part = placing.image(image)
    assert part.shape == (3, 10, 10) and part.dtype == torch.uint8
    assert part[0, 5].tolist() == pytest.approx([2 * (i + 5) + 0.5 for i in range(10)], abs=0.51)


@given(st.tuples(*[st.integers(1, 60)] * 4), st.tuples(*[st.integers(1, 60)] * 2), st.tuples(*[st.floats(0, 1)] * 2))
@settings(max_examples=20, deadline=None)
def test_pictures_of_any_size(window, picture, where):
    x1, x2, y1, y2 = (min(window[:2]), max(window[:2]) + 1, min(window[2:]), max(window[2:]) + 1)
    canvas = (70, 70)
    image = torch.full((1, *picture), 7, dtype=torch.uint8)
    shown = covering(picture, (x1, y1, x2, y2), canvas).image(image)
    assert shown.shape == (1, y2 - y1, x2 - x1) and (shown == 7).all()
    placing = fitting(picture, (30, 50), where)
    assert placing.image(image).shape[1:] == placing.size
    assert placing.window[0] >= 0 and placing.window[2] <= 50 and placing.window[3] <= 30
    assert placing.size == picture or max(placing.size[0] / 30, placing.size[1] / 50) > 0.9


def test_resize():
    """Two by two pixels are averaged where it shrinks; bool masks stay bool."""
    image = torch.tensor([[[0, 100, 40, 40], [0, 100, 40, 40]]], dtype=torch.uint8)
    assert resize(image, (1, 2)).tolist()[0][0][1] in range(40, 52)
    assert resize(image, (2, 4)) is image
    assert resize(image > 50, (4, 8)).sum() == 8
    assert resize(torch.zeros((0, 4, 4), dtype=torch.bool), (2, 2)).shape == (0, 2, 2)


@given(st.lists(st.tuples(st.floats(-20, 30), st.floats(-20, 30)), min_size=3, max_size=3, unique=True))
@settings(max_examples=20, deadline=None)
def test_a_clipped_triangle_is_what_pixels_see(corners):
    corners = np.array(corners)
    clipped = clip_polygon(corners, np.array([0.0, 0, 10, 8]))
    assert ((clipped >= [-1e-9, -1e-9]) & (clipped <= [10 + 1e-9, 8 + 1e-9])).all()
    step = 0.5
    x, y = np.meshgrid(np.arange(step / 2, 10, step), np.arange(step / 2, 8, step))
    inside = sum(covers(corners, px, py) for px, py in zip(x.ravel(), y.ravel())) * step**2
    assert area(clipped) == pytest.approx(inside, abs=5.0)


def covers(corners, x, y):
    a, b, c = corners
    sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
    return all(s > 0 for s in sides) or all(s < 0 for s in sides)


def area(corners):
    if len(corners) < 3:
        return 0.0
    x, y = corners.T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
