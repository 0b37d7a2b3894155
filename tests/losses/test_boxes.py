import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.losses import giou_loss, iou_loss, normalized_l1, paired_giou, paired_iou

# 20-date, "What to test": an object and two predictions in an image 400 wide and 200 high
OBJECT = torch.tensor([[20.0, 20, 100, 120]])
NEAR, FAR = torch.tensor([[10.0, 10, 110, 110]]), torch.tensor([[50.0, 50, 60, 60]])
SIZE = torch.tensor([[200.0, 400]])


def around(ltrb, x=500.0, y=300.0):
    l, t, r, b = ltrb
    return torch.tensor([[x - l, y - t, x + r, y + b]])


@pytest.mark.parametrize(
    "predicted, target, loss",
    [
        ([10, 10, 10, 10], [10, 10, 20, 10], 0.3333333),
        ([10, 20, 30, 40], [15, 15, 25, 50], 0.3977933),
        ([0, 0, 0, 0], [8, 8, 8, 8], 1.0),
        ([4, 4, 4, 4], [-96, -96, 104, 104], 1.9890261),
    ],
)
def test_worked_values(predicted, target, loss):
    """00-common, 'What to test': distances to the sides from a common point."""
    assert giou_loss(around(predicted), around(target)).item() == pytest.approx(loss, abs=1e-6)


def test_iou_of_the_worked_pair():
    assert paired_iou(around([10, 20, 30, 40]), around([15, 15, 25, 50])).item() == pytest.approx(0.6260163, abs=1e-6)


coordinates = st.lists(st.floats(-100, 100, width=32), min_size=8, max_size=8)


@settings(max_examples=200, deadline=None)
@given(coordinates)
def test_bounds_symmetry_and_identity(values):
    boxes = torch.tensor(values).reshape(2, 2, 2).sort(dim=1).values.reshape(2, 4)
    a, b = boxes[:1], boxes[1:]
    loss = giou_loss(a, b)
    assert -1e-6 <= loss.item() <= 2 + 1e-6
    torch.testing.assert_close(loss, giou_loss(b, a))
    if ((a[:, 2:] - a[:, :2]) > 1).all():
        assert giou_loss(a, a).item() == pytest.approx(0, abs=1e-5)


def test_iou_broadcasts_and_ignores_empty_boxes():
    a = torch.tensor([[0.0, 0, 10, 10], [5, 5, 5, 5], [20, 20, 30, 30]])
    iou = paired_iou(a[:, None], a[None])
    torch.testing.assert_close(iou, torch.diag(torch.tensor([1.0, 0.0, 1.0])))


def test_gradient_of_a_point_box_is_finite():
    point = torch.tensor([[5.0, 5, 5, 5]], requires_grad=True)
    (grad,) = torch.autograd.grad(giou_loss(point, torch.tensor([[0.0, 0, 10, 10]])).sum(), point)
    assert grad.isfinite().all()


@pytest.mark.parametrize("name, loss", [("giou_loss", giou_loss), ("iou_loss", iou_loss)])
def test_shapes_are_checked(name, loss):
    with pytest.raises(ValueError, match=name + r".*\(3, 4\), \(2, 4\)"):
        loss(torch.zeros(3, 4), torch.zeros(2, 4))


@pytest.mark.parametrize("box, iou, giou", [(NEAR, 0.666667, 0.648485), (FAR, 0.0125, 0.0125)])
def test_overlap_of_dates_pair(box, iou, giou):
    assert paired_iou(box, OBJECT).item() == pytest.approx(iou, abs=1e-6)
    assert paired_giou(box, OBJECT).item() == pytest.approx(giou, abs=1e-6)
    assert iou_loss(box, OBJECT).item() == pytest.approx(-math.log(iou), abs=2e-6)


def test_giou_broadcasts():
    boxes = torch.cat([OBJECT, NEAR, FAR])
    full = paired_giou(boxes[:, None], boxes[None])
    one_by_one = [[1 - giou_loss(a[None], b[None]).item() for b in boxes] for a in boxes]
    torch.testing.assert_close(full, torch.tensor(one_by_one))


def test_the_logarithm_of_the_iou_has_a_floor():
    """An IoU of 1e-6 costs 13.8155; below, the loss is constant and has no gradient, above it has one."""
    target = torch.tensor([[0.0, 0, 1000, 1000]]).expand(3, 4)
    boxes = torch.tensor([[2000.0, 0, 2010, 10], [0, 0, 0.5, 0.5], [0, 0, 2, 2]], requires_grad=True)
    loss = iou_loss(boxes, target)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([13.815511, 13.815511, -math.log(4e-6)], rel=1e-6)
    assert not boxes.grad[:2].any() and boxes.grad[2, 2].item() == pytest.approx(-0.5, rel=1e-3)  # -1 / width


@pytest.mark.parametrize("loss", [giou_loss, iou_loss])
def test_half_precision_boxes_give_float32_losses(loss):
    value = loss(NEAR.bfloat16(), OBJECT.bfloat16())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(NEAR, OBJECT))


@pytest.mark.parametrize("form, near, far", [("cxcywh", 0.1, 0.7125), ("xyxy", 0.15, 0.625)])
def test_normalized_l1(form, near, far):
    """cxcywh: |60 - 60| / 400 + |60 - 70| / 200 + |100 - 80| / 400 + |100 - 100| / 200."""
    found = normalized_l1(torch.cat([NEAR, FAR]), OBJECT, SIZE, form)
    assert found.tolist() == pytest.approx([near, far], rel=1e-6)


def test_normalized_l1_broadcasts_objects_and_their_images():
    boxes, objects = torch.rand(1, 5, 4) * 100, torch.rand(3, 1, 4) * 100
    sizes = torch.tensor([[50.0, 80], [100, 30], [64, 64]])
    found = normalized_l1(boxes, objects, sizes[:, None])
    for g in range(3):
        for r in range(5):
            (x1, y1, x2, y2), (u1, v1, u2, v2) = boxes[0, r].tolist(), objects[g, 0].tolist()
            height, width = sizes[g].tolist()
            expected = abs(x1 + x2 - u1 - u2) / 2 / width + abs(y1 + y2 - v1 - v2) / 2 / height
            expected += abs(x2 - x1 - u2 + u1) / width + abs(y2 - y1 - v2 + v1) / height
            assert found[g, r].item() == pytest.approx(expected, rel=1e-4)
