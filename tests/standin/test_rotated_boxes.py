import math

import numpy as np
import pytest
import torch

from detectron2.config import get_cfg
from detectron2.data.detection_utils import annotations_to_instances_rotated
from detectron2.layers import ShapeSpec, batched_nms, batched_nms_rotated, nms, nms_rotated
from detectron2.layers.rotated_boxes import pairwise_iou_rotated as iou_of_tensors
from detectron2.modeling import build_anchor_generator, detector_postprocess
from detectron2.modeling.anchor_generator import RotatedAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform, Box2BoxTransformRotated
from detectron2.structures import Boxes, BoxMode, Instances, RotatedBoxes, pairwise_iou, pairwise_iou_rotated
from tests.standin import says


def iou(first, second):
    return iou_of_tensors(torch.tensor([first]), torch.tensor([second])).item()


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


# ---- overlap

OCTAGON = 8 * (math.sqrt(2) - 1)


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ([0.0, 0, 2, 2, 0], [0.0, 0, 2, 2, 0], 1),
        ([5.0, 5, 10, 10, 0], [5.0, 5, 10, 8.3, 0], 0.83),
        ([0.0, 0, 2, 2, 0], [1.0, 0, 2, 2, 0], 1 / 3),
        ([0.0, 0, 2, 2, 0], [2.0, 0, 2, 2, 0], 0),
        ([0.0, 0, 2, 2, 0], [2.1, 2.1, 2, 2, 45], 0),
        # A square in one turned by an eighth: a regular octagon.
        ([7.0, 3, 2, 2, 0], [7.0, 3, 2, 2, 45], OCTAGON / (8 - OCTAGON)),
        # A cross; a bar inside a square; the corner of a diamond in a square's side.
        ([0.0, 0, 6, 2, 30], [0.0, 0, 2, 6, 30], 4 / 20),
        ([0.0, 0, 6, 2, 30], [0.0, 0, 6, 2, 120], 4 / 20),
        ([0.0, 0, 10, 10, 77], [1.0, -1, 4, 1, 13], 0.04),
        ([0.0, 0, 2, 2, 0], [2.0, 0, math.sqrt(2) * 1.5, math.sqrt(2) * 1.5, 45], 0.25 / (4 + 4.5 - 0.25)),
        # Counterclockwise on the screen, y down: a bar at +45 degrees reaches up and right.
        ([0.0, 0, 20, 1, 45], [6.0, -6, 1, 1, 45], 1 / 20),
        ([0.0, 0, 20, 1, 45], [6.0, 6, 1, 1, 45], 0),
        ([0.0, 0, 0, 5, 30], [0.0, 0, 4, 4, 0], 0),
        ([0.0, 0, 0, 0, 30], [0.0, 0, 0, 0, 0], 0),
    ],
)
def test_iou_by_hand(first, second, expected):
    assert iou(first, second) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert iou(second, first) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_iou_equals_the_count_of_small_cells(seed):
    boxes1, boxes2 = random_rotated(12, seed), random_rotated(12, seed + 100)
    cell = 0.5
    axis = torch.arange(-110, 210, cell) + cell / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")

    def covered(boxes):
        cx, cy, w, h, angle = (column[:, None, None] for column in boxes.unbind(1))
        cos, sin = angle.deg2rad().cos(), angle.deg2rad().sin()
        along, across = (x - cx) * cos - (y - cy) * sin, (x - cx) * sin + (y - cy) * cos
        return ((along.abs() <= w / 2) & (across.abs() <= h / 2)).flatten(1).float()

    mask1, mask2 = covered(boxes1), covered(boxes2)
    common = mask1 @ mask2.T * cell**2
    # A boundary of length s crosses about 2 s / cell cells; their errors cancel for the most part.
    found = iou_of_tensors(boxes1, boxes2)
    union = boxes1[:, 2:4].prod(1)[:, None] + boxes2[:, 2:4].prod(1) - common
    assert (common > 100).sum() > 30
    assert (found * union - common).abs().max() < 10
    torch.testing.assert_close(found, common / union, atol=0.01, rtol=0)


def test_iou_of_upright_boxes_is_the_ordinary_one():
    boxes1, boxes2 = random_upright(30), random_upright(20, seed=1)
    expected = pairwise_iou(Boxes(boxes1), Boxes(boxes2))
    assert (expected > 0).sum() > 100
    torch.testing.assert_close(iou_of_tensors(upright(boxes1), upright(boxes2)), expected, atol=1e-6, rtol=1e-5)
    # A quarter turn and swapped sides: the same boxes.
    turned = upright(boxes1)[:, [0, 1, 3, 2, 4]] + torch.tensor([0, 0, 0, 0, -90.0])
    torch.testing.assert_close(iou_of_tensors(turned, upright(boxes2)), expected, atol=1e-6, rtol=1e-5)


def test_iou_does_not_change_when_the_plane_turns_and_moves():
    boxes1, boxes2 = random_rotated(20), random_rotated(20, seed=1)
    before = iou_of_tensors(boxes1, boxes2)
    turn = math.radians(33)
    matrix = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    for boxes in (boxes1, boxes2):
        boxes[:, :2] = boxes[:, :2] @ matrix.T + torch.tensor([17.0, -40.0])
        boxes[:, 4] += 33 + 360
    assert (before > 0).sum() > 100
    torch.testing.assert_close(iou_of_tensors(boxes1, boxes2), before, atol=1e-5, rtol=1e-5)


@pytest.mark.standin_only("overlaps are computed in float64")
def test_almost_equal_boxes_overlap_almost_wholly():
    boxes = random_rotated(300, extent=2000)
    boxes[:, 2:4] += 10
    noise = torch.randn(300, 5, generator=torch.Generator().manual_seed(1))
    near = boxes * (1 + 1e-7 * noise)
    assert iou_of_tensors(boxes, near).diag().min() > 0.9995
    assert iou_of_tensors(boxes, boxes).diag().sub(1).abs().max() < 1e-6
    assert iou_of_tensors(boxes, boxes).max() <= 1 + 1e-6


@pytest.mark.standin_only("overlaps are computed in float64")
def test_iou_of_extreme_numbers_is_finite():
    far = [-1e17, 1e18, 1000.0, 1000.0, 1612.0]
    assert iou([160.0, 153.0, 230.0, 23.0, -37.0], far) == 0
    assert iou(far, far) == pytest.approx(1)
    assert iou([0.0, 0, 1e-4, 1e4, 1], [0.0, 0, 1e-4, 1e4, 1]) == pytest.approx(1)


@pytest.mark.parametrize("sizes", [(0, 10), (10, 0), (0, 0)])
def test_iou_without_boxes(sizes):
    found = iou_of_tensors(*(torch.rand(n, 5) for n in sizes))
    assert found.shape == sizes and found.dtype == torch.float32


def test_iou_of_more_pairs_than_one_chunk():
    boxes = torch.tensor([[5.0, 5, 10, 10, 20]]).repeat(600, 1)
    boxes[:, 2] = torch.arange(1, 601)
    found = iou_of_tensors(boxes, boxes)
    width = boxes[:, 2]
    torch.testing.assert_close(found, torch.minimum(width[:, None], width) / torch.maximum(width[:, None], width))


@pytest.mark.gpu
def test_iou_and_nms_on_the_gpu_equal_those_on_the_cpu():
    boxes, scores = random_rotated(500), torch.rand(500, generator=torch.Generator().manual_seed(1))
    found = iou_of_tensors(boxes.cuda(), boxes.cuda())
    torch.testing.assert_close(found.cpu(), iou_of_tensors(boxes, boxes))
    assert torch.equal(nms_rotated(boxes.cuda(), scores.cuda(), 0.3).cpu(), nms_rotated(boxes, scores, 0.3))


# ---- suppression


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("angle", [0, 90, 180, -90])
def test_nms_of_upright_boxes_is_the_ordinary_one(threshold, angle):
    boxes = random_upright(200)
    scores = torch.rand(200, generator=torch.Generator().manual_seed(2))
    classes = torch.arange(200) % 7
    rotated = upright(boxes)[:, [0, 1, 2, 3, 4] if angle % 180 == 0 else [0, 1, 3, 2, 4]]
    rotated[:, 4] = angle
    assert torch.equal(nms_rotated(rotated, scores, threshold), nms(boxes, scores, threshold))
    kept = batched_nms_rotated(rotated, scores, classes, threshold)
    assert torch.equal(kept, batched_nms(boxes, scores, classes, threshold))
    assert len(kept) > len(nms(boxes, scores, threshold))


def test_nms_of_turned_boxes():
    # The second is the first turned by 45 degrees (IoU 0.71), the third a thin bar across both.
    boxes = torch.tensor([[0.0, 0, 2, 2, 0], [0.0, 0, 2, 2, 45], [0.0, 0, 2, 0.1, 0]])
    scores = torch.tensor([0.5, 0.9, 0.7])
    assert nms_rotated(boxes, scores, 0.70).tolist() == [1, 2]
    assert nms_rotated(boxes, scores, 0.71).tolist() == [1, 2, 0]
    assert batched_nms_rotated(boxes, scores, torch.tensor([0, 1, 0]), 0.70).tolist() == [1, 2, 0]


def test_nms_leaves_its_arguments_alone_and_takes_none():
    boxes = random_rotated(20).double()
    before = boxes.clone()
    batched_nms_rotated(boxes, torch.rand(20), torch.arange(20), 0.5)
    assert torch.equal(boxes, before)
    for empty in (
        nms_rotated(boxes[:0].float(), torch.rand(0), 0.5),
        batched_nms_rotated(boxes[:0], torch.rand(0), torch.rand(0), 0.5),
    ):
        assert empty.shape == (0,) and empty.dtype == torch.int64
    with pytest.raises(AssertionError, match=says(r"\(R, 5\)")):
        batched_nms_rotated(torch.rand(3, 4), torch.rand(3), torch.arange(3), 0.5)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_scripted_nms_is_the_eager_one():
    boxes, scores = random_rotated(50), torch.rand(50)
    assert torch.equal(torch.jit.script(nms_rotated)(boxes, scores, 0.3), nms_rotated(boxes, scores, 0.3))


# ---- RotatedBoxes


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


# ---- where rotated boxes stand in for boxes


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


# ---- the code between boxes and deltas


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


# ---- anchors


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
