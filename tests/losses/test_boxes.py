import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from defcn_ext.losses import giou_loss, paired_iou


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


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"\(3, 4\), \(2, 4\)"):
        giou_loss(torch.zeros(3, 4), torch.zeros(2, 4))
