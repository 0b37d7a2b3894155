"""Rotated boxes, and where they stand in for boxes."""

import math

import numpy as np
import pytest
import torch

from detectron2.config import get_cfg
from detectron2.data.detection_utils import annotations_to_instances_rotated
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator, detector_postprocess
from detectron2.modeling.anchor_generator import RotatedAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformRotated
from detectron2.structures import Boxes, BoxMode, Instances, RotatedBoxes, pairwise_iou_rotated
from tests.standin import says


def random_rotated(count, seed=0, extent=100.0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([extent, extent, extent, extent, 720.0])
    return torch.rand(count, 5, generator=generator) * scale - torch.tensor([0, 0, 0, 0, 360.0])


def upright(boxes):
    """(R, 4) x1, y1, x2, y2 -> (R, 5) at angle 0."""
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return torch.cat([center, size, torch.zeros(len(boxes), 1)], dim=1)


def random_upright(count, seed=0):
    boxes = torch.rand(count, 4, generator=torch.Generator().manual_seed(seed)) * 100
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def test_construction():
    boxes = RotatedBoxes([[1, 2, 3, 4, 5]])
    assert isinstance(boxes, Boxes) and boxes.tensor.dtype == torch.float32
    assert RotatedBoxes([]).tensor.shape == RotatedBoxes(torch.rand(0, 4)).tensor.shape == (0, 5)
    for wrong in (torch.rand(3, 4), torch.rand(5), [1.0, 2, 3, 4, 5]):
        with pytest.raises(AssertionError, match=says(r"expected \(R, 5\)")):
            RotatedBoxes(wrong)
    kept = torch.rand(2, 5)
    assert RotatedBoxes(kept).tensor is kept


def test_rows():
    tensor = random_rotated(4)
    boxes = RotatedBoxes(tensor)
    assert len(boxes) == 4 and torch.equal(torch.stack(list(boxes)), tensor)
    for part, rows in ((boxes[2], [2]), (boxes[1:3], [1, 2]), (boxes[torch.tensor([3, 0])], [3, 0])):
        assert type(part) is RotatedBoxes and torch.equal(part.tensor, tensor[rows])
    joined = RotatedBoxes.cat([boxes[0], boxes[1:]])
    assert type(joined) is RotatedBoxes and torch.equal(joined.tensor, tensor)
    assert RotatedBoxes.cat([]).tensor.shape == (0, 5)
    with pytest.raises(AssertionError, match=says("not all elements are RotatedBoxes")):
        RotatedBoxes.cat([boxes, Boxes(torch.rand(1, 4))])
    copy = boxes.clone()
    copy.scale(2, 2)
    assert type(copy) is RotatedBoxes and torch.equal(boxes.tensor, tensor) and not torch.equal(copy.tensor, tensor)
    assert type(boxes.to("cpu")) is RotatedBoxes and boxes.device == torch.device("cpu")
    assert repr(boxes[0]).startswith("RotatedBoxes(tensor([[")


def test_area_centers_and_nonempty():
    boxes = RotatedBoxes([[10, 20, 4, 3, 50], [1, 2, 0, 5, 0], [1, 2, 5, 0, 0]])
    assert boxes.area().tolist() == [12, 0, 0]
    assert boxes.get_centers().tolist() == [[10, 20], [1, 2], [1, 2]]
    assert boxes.nonempty().tolist() == [True, False, False]
    assert boxes.nonempty(threshold=3).tolist() == [False, False, False]


def test_angles_are_normalised_into_a_half_open_turn():
    boxes = RotatedBoxes([[0, 0, 1, 1, angle] for angle in (0, 180, -180, 190, 725, -541)])
    boxes.normalize_angles()
    assert boxes.tensor[:, 4].tolist() == [0, -180, -180, -170, 5, 179]


def test_clipping_of_upright_boxes_is_the_ordinary_one():
    corners = random_upright(50) * 2 - 60
    plain, rotated = Boxes(corners.clone()), RotatedBoxes(upright(corners))
    plain.clip((80, 100))
    rotated.clip((80, 100))
    assert plain.nonempty().sum() < 50
    torch.testing.assert_close(BoxMode.convert(rotated.tensor, BoxMode.XYWHA_ABS, BoxMode.XYXY_ABS), plain.tensor)


def test_clipping_leaves_turned_boxes():
    given = [[0, 0, 10, 10, 0.9], [0, 0, 10, 10, 1.1], [0, 0, 10, 10, 359.5], [0, 0, 10, 10, 5]]
    boxes = RotatedBoxes(given)
    boxes.clip((100, 100))
    cut = [2.5, 2.5, 5, 5]
    expected = torch.tensor([[*cut, 0.9], [0, 0, 10, 10, 1.1], [*cut, -0.5], [0, 0, 10, 10, 5]])
    torch.testing.assert_close(boxes.tensor, expected)
    boxes.clip((100, 100), clip_angle_threshold=6)
    assert boxes.tensor[3].tolist() == [*cut, 5]


def test_inside_box():
    half = 5 * math.sqrt(2)
    boxes = RotatedBoxes([[half, half, 10, 10, 45], [half - 0.01, half, 10, 10, 45], [half, half, 10, 10, 0]])
    # The right side of a turned square: inside only if strictly less than the width.
    assert boxes.inside_box((20, 15)).tolist() == [True, False, True]
    assert boxes.inside_box((20, 14)).tolist() == [False, False, True]
    assert boxes.inside_box((20, 14), boundary_threshold=1).tolist() == [True, True, True]


def test_scaling():
    boxes = RotatedBoxes([[10, 20, 4, 3, 30]])
    boxes.scale(3, 3)
    torch.testing.assert_close(boxes.tensor, torch.tensor([[30.0, 60, 12, 9, 30]]))
    boxes = RotatedBoxes([[10, 20, 4, 3, 90], [10, 20, 4, 3, 45]])
    boxes.scale(2, 1)
    # At 90 degrees the width is vertical. At 45 the direction (1, 1) of the height becomes (2, 1).
    angle = math.degrees(math.atan2(2, 1))
    stretch = math.sqrt(2.5)
    expected = torch.tensor([[20.0, 20, 4, 6, 90], [20, 20, 4 * stretch, 3 * stretch, angle]])
    torch.testing.assert_close(boxes.tensor, expected)


def test_pairwise_iou_of_structures():
    found = pairwise_iou_rotated(RotatedBoxes([[0, 0, 2, 2, 0]]), RotatedBoxes([[1, 0, 2, 2, 0], [0, 0, 2, 2, 90]]))
    torch.testing.assert_close(found, torch.tensor([[1 / 3, 1]]))


def test_instances_and_postprocessing():
    boxes = RotatedBoxes([[10, 20, 4, 2, 0], [10, 20, 4, 2, 90], [-50, 20, 4, 2, 0]])
    instances = Instances((40, 40), pred_boxes=boxes, scores=torch.tensor([0.9, 0.8, 0.7]))
    assert torch.equal(Instances.cat([instances[:1], instances[1:]]).pred_boxes.tensor, boxes.tensor)
    result = detector_postprocess(instances, 40, 80)
    # The third is left of the image, so nothing remains of it.
    assert result.image_size == (40, 80) and result.scores.tolist() == pytest.approx([0.9, 0.8])
    torch.testing.assert_close(result.pred_boxes.tensor, torch.tensor([[20.0, 20, 8, 2, 0], [20, 20, 4, 4, 90]]))


def test_annotations_to_instances():
    box = {"bbox_mode": BoxMode.XYWHA_ABS}
    annos = [{**box, "bbox": [1, 10, 4, 4, 0], "category_id": 3}, {**box, "bbox": [1, 10, 4, 4, 30], "category_id": 1}]
    target = annotations_to_instances_rotated(annos, (20, 30))
    assert type(target.gt_boxes) is RotatedBoxes and target.image_size == (20, 30)
    torch.testing.assert_close(target.gt_boxes.tensor, torch.tensor([[1.5, 10, 3, 4, 0], [1, 10, 4, 4, 30]]))
    assert target.gt_classes.tolist() == [3, 1] and target.gt_classes.dtype == torch.int64
    empty = annotations_to_instances_rotated([], (20, 30))
    assert empty.gt_boxes.tensor.shape == (0, 5) and len(empty) == 0


@pytest.mark.standin_only("pictures are alike, not equal pixel by pixel, and Detectron2's need OpenCV")
def test_visualizer_draws_them_where_they_are():
    from detectron2.utils.visualizer import Visualizer

    boxes = RotatedBoxes([[50, 30, 40, 4, 30], [50, 30, 10, 4, 30]])
    instances = Instances((60, 100), pred_boxes=boxes, pred_classes=torch.tensor([0, 1]))
    drawn = Visualizer(np.zeros((60, 100, 3))).overlay_instances(boxes=instances.pred_boxes).get_image().sum(axis=2)
    y, x = np.nonzero(drawn)
    # Up and right: x grows while y falls.
    assert np.corrcoef(x, y)[0, 1] < -0.8
    assert abs(x.mean() - 50) < 2 and abs(y.mean() - 30) < 2
    labelled = Visualizer(np.zeros((60, 100, 3))).draw_instance_predictions(instances).get_image().sum(axis=2)
    assert (labelled > 0).sum() > (drawn > 0).sum()
    single = Visualizer(np.zeros((60, 100, 3))).draw_rotated_box_with_label(boxes.tensor[0], label="a").get_image()
    assert single.any()


def test_deltas_by_hand():
    transform = Box2BoxTransformRotated(weights=(5, 5, 10, 10, 2))
    source = torch.tensor([[10.0, 20, 4, 2, 30]])
    target = torch.tensor([[12.0, 19, 8, 1, 120]])
    expected = torch.tensor([[5 * 0.5, 5 * -0.5, 10 * math.log(2), -10 * math.log(2), 2 * math.pi / 2]])
    torch.testing.assert_close(transform.get_deltas(source, target), expected)
    torch.testing.assert_close(transform.apply_deltas(expected, source), target)


def test_deltas_take_the_short_turn():
    transform = Box2BoxTransformRotated(weights=(1, 1, 1, 1, 1))
    source, target = torch.tensor([[0.0, 0, 1, 1, 170]]), torch.tensor([[0.0, 0, 1, 1, -170]])
    deltas = transform.get_deltas(source, target)
    assert deltas[0, 4].item() == pytest.approx(math.radians(20), rel=1e-5)
    assert transform.apply_deltas(deltas, source)[0, 4].item() == pytest.approx(-170, rel=1e-5)


def test_deltas_reconstruct_boxes():
    transform = Box2BoxTransformRotated(weights=(5, 5, 10, 10, 1))
    source, target = RotatedBoxes(random_rotated(30) + 1), RotatedBoxes(random_rotated(30, seed=1) + 1)
    target.normalize_angles()
    again = transform.apply_deltas(transform.get_deltas(source.tensor, target.tensor), source.tensor)
    torch.testing.assert_close(again, target.tensor, atol=1e-3, rtol=1e-4)
    # Several deltas a box: columns of five.
    two = transform.apply_deltas(torch.zeros(30, 10), target.tensor)
    torch.testing.assert_close(two, target.tensor.repeat(1, 2))


def test_deltas_of_upright_boxes_are_the_ordinary_ones():
    source, target = random_upright(10), random_upright(10, seed=1)
    weights = (5.0, 5.0, 10.0, 10.0)
    plain = Box2BoxTransform(weights).get_deltas(source, target)
    rotated = Box2BoxTransformRotated((*weights, 1.0)).get_deltas(upright(source), upright(target))
    torch.testing.assert_close(rotated[:, :4], plain, atol=1e-4, rtol=1e-4)
    assert (rotated[:, 4] == 0).all()


def test_size_deltas_are_limited_and_flat_sources_refused():
    transform = Box2BoxTransformRotated(weights=(1, 1, 1, 1, 1))
    grown = transform.apply_deltas(torch.tensor([[0, 0, 100.0, 100.0, 0]]), torch.tensor([[0.0, 0, 16, 32, 0]]))
    torch.testing.assert_close(grown, torch.tensor([[0.0, 0, 1000, 2000, 0]]))
    with pytest.raises(AssertionError, match=says("area")):
        transform.get_deltas(torch.tensor([[0.0, 0, 0, 1, 0]]), torch.tensor([[0.0, 0, 1, 1, 0]]))


def test_anchors():
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "RotatedAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64]]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.25, 1]]
    cfg.MODEL.ANCHOR_GENERATOR.ANGLES = [0, 45]
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=4)])
    assert type(generator) is RotatedAnchorGenerator and generator.box_dim == 5
    assert generator.num_anchors == generator.num_cell_anchors == [8]
    assert list(generator.state_dict()) == []
    (anchors,) = generator([torch.rand(1, 96, 2, 3)])
    assert type(anchors) is RotatedBoxes and anchors.tensor.shape == (2 * 3 * 8, 5)
    sizes = [(64, 16), (32, 32), (128, 32), (64, 64)]
    cell = [[*size, angle] for size in sizes for angle in (0, 45)]
    centers = [(0, 0), (4, 0), (8, 0), (0, 4), (4, 4), (8, 4)]
    expected = torch.tensor([[x, y, *sides] for x, y in centers for sides in cell], dtype=torch.float32)
    torch.testing.assert_close(anchors.tensor, expected)


def test_anchors_of_several_levels():
    generator = RotatedAnchorGenerator(
        sizes=[[32], [64]], aspect_ratios=[[1]], strides=[4, 8], angles=[[-90, 0], [30]], offset=0.5
    )
    assert generator.num_anchors == [2, 1]
    first, second = generator([torch.rand(1, 1, 1, 1), torch.rand(1, 1, 1, 2)])
    assert first.tensor.tolist() == [[2, 2, 32, 32, -90], [2, 2, 32, 32, 0]]
    assert second.tensor.tolist() == [[4, 4, 64, 64, 30], [12, 4, 64, 64, 30]]
    assert generator.generate_cell_anchors().shape == (5 * 3 * 7, 5)
    with pytest.raises(AssertionError, match=says("angles: 3 lists for 2 levels")):
        RotatedAnchorGenerator(sizes=[[32]], aspect_ratios=[[1]], strides=[4, 8], angles=[[0], [1], [2]])
