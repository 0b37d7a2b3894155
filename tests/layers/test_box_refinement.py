"""Box refinement against the formula of 50-dw section 7."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from defcn_ext.layers import BoxRefinement
from defcn_ext.structures import Points


class Given(torch.nn.Module):
    """Gives the same whatever it sees."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


def refined_ltrb(ltrb, offsets, padding="zeros", stride=8, num_images=1):
    """ltrb (H, W, 4) and offsets (H, W, 8) in cells -> refined ltrb in cells; the offset conv is replaced."""
    height, width = ltrb.shape[:2]
    points = Points.from_sizes([(height, width)], [stride])
    layer = BoxRefinement(4, padding)
    layer.offset = Given(offsets.permute(2, 0, 1)[None])
    boxes = points.boxes(ltrb.reshape(1, -1, 4) * stride)
    (box,) = layer([torch.zeros(1, 4, height, width)], points, boxes)
    distances = torch.cat([points.xy - box[:, :2], box[:, 2:] - points.xy], 1)
    return (distances / stride).view(height, width, 4)


def worked_map():
    left, right = [0.5, 1, 2, 2.5, 3.5], [3, 2, 1.5, 1, 0.5]
    return torch.tensor([[[l, 1.0, r, 1.0] for l, r in zip(left, right)]] * 3)


def test_worked_map():
    out = refined_ltrb(worked_map(), torch.zeros(3, 5, 8))
    torch.testing.assert_close(out[1, :, 0], torch.tensor([0.5, 1.5, 2.5, 3.25, 4.25]))
    torch.testing.assert_close(out[1, :, 2], torch.tensor([4, 3, 2.25, 1.5, 0]))
    torch.testing.assert_close(out[:, 2, 1], torch.tensor([0.5, 2, 2]))
    torch.testing.assert_close(out[:, 2, 3], torch.tensor([2.0, 2, 0]))


def test_worked_map_with_offsets():
    """Offsets come as (y, x) a side: dy_l = 0.25 and dx_l = 0.5."""
    offsets = torch.zeros(3, 5, 8)
    offsets[..., 0], offsets[..., 1] = 0.25, 0.5
    out = refined_ltrb(worked_map(), offsets)
    torch.testing.assert_close(out[1, :, 0], torch.tensor([0.5, 1.25, 2.25, 3, 4]))


def test_the_border_instead_of_zeros():
    """At column 4.5 the last cell's right side, x2 = (4.5 + 0.5) 8 = 40, stays; the lower one likewise."""
    out = refined_ltrb(worked_map(), torch.zeros(3, 5, 8), "border")
    torch.testing.assert_close(out[1, :, 2], torch.tensor([4, 3, 2.25, 1.5, 0.5]))
    torch.testing.assert_close(out[:, 2, 3], torch.tensor([2.0, 2, 1]))
    torch.testing.assert_close(out[1, :, 0], torch.tensor([0.5, 1.5, 2.5, 3.25, 4.25]))


def formula(ltrb, offsets):
    """The closed formula, point by point: l' = l(B_l) + l - dx_l and so on, with bilinear interpolation."""
    height, width = ltrb.shape[:2]
    out, inside = torch.zeros_like(ltrb), torch.zeros(height, width, 4, dtype=torch.bool)
    for i in range(height):
        for j in range(width):
            l, t, r, b = ltrb[i, j].tolist()
            o = offsets[i, j].tolist()
            places = [(j - l + o[1], i + o[0]), (j + o[3], i - t + o[2])]
            places += [(j + r + o[5], i + o[4]), (j + o[7], i + b + o[6])]
            moved = [l - o[1], t - o[2], r + o[5], b + o[6]]
            for side, (x, y) in enumerate(places):
                x0, y0 = int(x // 1), int(y // 1)
                inside[i, j, side] = 0 <= x0 and 0 <= y0 and x0 + 1 < width and y0 + 1 < height
                if inside[i, j, side]:
                    u, v = x - x0, y - y0
                    low = (1 - u) * ltrb[y0, x0, side] + u * ltrb[y0, x0 + 1, side]
                    high = (1 - u) * ltrb[y0 + 1, x0, side] + u * ltrb[y0 + 1, x0 + 1, side]
                    out[i, j, side] = max(0.0, (1 - v) * low + v * high + moved[side])
    return out, inside


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("stride", [8, 128])
def test_the_formula_at_interior_points(padding, stride):
    rng = torch.Generator().manual_seed(0)
    ltrb = torch.rand(9, 11, 4, generator=rng) * 3
    offsets = torch.randn(9, 11, 8, generator=rng)
    expected, inside = formula(ltrb, offsets)
    assert 150 < inside.sum() < 350
    out = refined_ltrb(ltrb, offsets, padding, stride)
    torch.testing.assert_close(out[inside], expected[inside], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (4, 1), (1, 4)])
@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_narrow_maps(size, padding):
    """Without distances and offsets each cell reads itself; beyond the map there are zeros, or the border."""
    out = refined_ltrb(torch.zeros(*size, 4), torch.zeros(*size, 8), padding)
    torch.testing.assert_close(out, torch.zeros(*size, 4))
    far = refined_ltrb(torch.full((*size, 4), 9.0), torch.zeros(*size, 8), padding)
    assert far.isfinite().all()
    assert (far[..., 2:] == 0).all() if padding == "zeros" else (far[..., 2:] >= 9).all()


def test_images_and_levels_do_not_mix():
    torch.manual_seed(0)
    layer, points = BoxRefinement(6), Points.from_sizes([(4, 5), (2, 3)], [8, 16])
    features = [torch.randn(2, 6, h, w) * 20 for h, w in points.sizes]
    boxes = points.boxes(torch.rand(2, len(points), 4) * 20)
    both = layer(features, points, boxes)
    for n in range(2):
        torch.testing.assert_close(
            layer([x[n : n + 1] for x in features], points, boxes[n : n + 1]), both[n : n + 1], atol=1e-3, rtol=1e-5
        )
    second = Points.from_sizes([(2, 3)], [16])
    torch.testing.assert_close(layer(features[1:], second, boxes[:, 20:]), both[:, 20:], atol=1e-3, rtol=1e-5)


def test_gradients_reach_offsets_boxes_and_features():
    """To offsets and features they come from the positions alone."""
    torch.manual_seed(1)
    layer, points = BoxRefinement(3), Points.from_sizes([(5, 6)], [8])
    boxes = points.boxes(4 + torch.rand(1, 30, 4) * 12).requires_grad_()
    features = torch.randn(1, 3, 5, 6, requires_grad=True)
    layer([features], points, boxes).square().sum().backward()
    for name, x in [("boxes", boxes), ("features", features), ("weights", layer.offset.weight)]:
        assert x.grad.isfinite().all() and x.grad.abs().max() > 0, name
    assert layer.offset.bias.grad.abs().min() > 0


def test_half_precision_features_leave_boxes_in_float32():
    torch.manual_seed(0)
    layer, points = BoxRefinement(8), Points.from_sizes([(6, 6)], [8])
    features, boxes = [torch.randn(1, 8, 6, 6)], points.boxes(torch.rand(1, 36, 4) * 20)
    exact = layer(features, points, boxes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = layer([features[0].bfloat16()], points, boxes)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, exact, atol=0.5, rtol=0.02)


def test_it_can_be_exported():
    """Ordinary operations alone, so that a deployed graph needs no custom one."""
    torch.manual_seed(0)
    points = Points.from_sizes([(4, 5)], [8])

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = BoxRefinement(3)

        def forward(self, feature, boxes):
            return self.layer([feature], points, boxes)

    model, feature, boxes = Wrapped(), torch.randn(1, 3, 4, 5), points.boxes(torch.rand(1, 20, 4) * 20)
    exported = torch.export.export(model, (feature, boxes))
    names = {str(n.target) for n in exported.graph.nodes if n.op == "call_function"}
    assert all(n.startswith(("aten.", "<built-in", "_operator")) for n in names), names
    torch.testing.assert_close(exported.module()(feature, boxes), model(feature, boxes))


def test_nothing_is_copied_from_the_host():
    """A tensor made from numbers on a GPU waits for it, once a level."""

    class Made(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += function is torch.ops.aten.lift_fresh.default
            return function(*args, **(kwargs or {}))

    layer, points = BoxRefinement(3), Points.from_sizes([(4, 5), (2, 3)], [8, 16])
    features = [torch.randn(1, 3, h, w) for h, w in points.sizes]
    boxes = torch.rand(1, len(points), 4)
    with Made() as made:
        layer(features, points, boxes)
        assert made.count == 0
        torch.tensor([1.0])
        assert made.count == 1


def test_unknown_padding():
    with pytest.raises(ValueError, match="REFINE.PADDING: unknown value 'mirror'; known: 'zeros', 'border'"):
        BoxRefinement(3, "mirror")
