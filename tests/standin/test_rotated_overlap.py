"""Overlap and suppression of rotated boxes."""

import math

import pytest
import torch

from detectron2.layers import batched_nms, batched_nms_rotated, nms, nms_rotated
from detectron2.layers.rotated_boxes import pairwise_iou_rotated as iou_of_tensors
from detectron2.structures import Boxes, pairwise_iou
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
