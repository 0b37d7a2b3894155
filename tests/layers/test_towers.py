"""The towers: names of released weights, initial values."""

import pytest
import torch
import torch.nn.functional as F

from defcn_ext.layers.towers import DeformConv3x3, SharedHead, conv3x3

CHANNELS = 64


def make_head(**options):
    defaults = {"in_channels": CHANNELS, "num_levels": 3, "num_convs": 2, "norm": "GN", "conv_bias": True}
    return SharedHead(**{**defaults, **options})


def names(layers, ending):
    return {f"{tower}_subnet.{i}.{ending}" for tower in ("cls", "bbox") for i in layers}


SCALES = {f"scales.{level}.scale" for level in range(3)}


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, names((0, 1, 3, 4), "weight") | names((0, 1, 3, 4), "bias")),
        ({"conv_bias": False}, names((0, 1, 3, 4), "weight") | names((1, 4), "bias")),
        ({"norm": ""}, names((0, 2), "weight") | names((0, 2), "bias")),
        ({"num_convs": 0}, set()),
    ],
)
def test_parameter_names(options, expected):
    assert set(dict(make_head(**options).named_parameters())) == expected | SCALES


def test_initial_values():
    head = make_head()
    for name, value in head.named_parameters():
        layer = name.split(".")[1]
        if name in SCALES or (layer in "14" and name.endswith("weight")):
            assert torch.equal(value, torch.ones_like(value)), name
        elif name.endswith("bias"):
            assert not value.any(), name
        else:
            assert value.std().item() == pytest.approx(0.01, rel=0.03), name  # 36,864 draws: 8 standard errors
            assert abs(value.mean().item()) < 5e-4, name


def test_predictor_bias():
    conv = conv3x3(CHANNELS, 5, bias_value=-4.595120)
    assert conv.bias.tolist() == pytest.approx([-4.595120] * 5)
    assert conv3x3(CHANNELS, 5, bias=False).bias is None


def test_levels_share_two_different_towers():
    """The same map at two levels gives the same features; maps keep their sizes."""
    head = make_head()
    x = torch.rand(2, CHANNELS, 5, 7)
    features = head([x, x, x[..., :2, :3]])
    assert [f.shape for f in features.box] == [x.shape, x.shape, (2, CHANNELS, 2, 3)]
    for tower in (features.cls, features.box):
        assert torch.equal(tower[0], tower[1]) and tower[0].min() == 0 < tower[0].max()
    assert not torch.allclose(features.cls[0], features.box[0])
    assert all(a is b for a, b in zip(features.scales, head.scales, strict=True))


def test_deformable_towers_end_in_a_deformable_conv():
    """The names and the 27 channels of the released DW models; 9 C x 27 + 27 parameters more a tower."""
    head, plain = make_head(deform=True), make_head()
    extra = {f"{tower}_subnet.3.conv_offset.{ending}" for tower in ("cls", "bbox") for ending in ("weight", "bias")}
    assert set(dict(head.named_parameters())) == set(dict(plain.named_parameters())) | extra
    counts = [sum(p.numel() for p in module.parameters()) for module in (head, plain)]
    assert counts[0] - counts[1] == 2 * (27 * CHANNELS * 9 + 27)
    assert head.cls_subnet[3].weight.std().item() == pytest.approx(0.01, rel=0.03)
    with pytest.raises(ValueError, match=r"DEFORM_TOWERS.*NUM_CONVS"):
        make_head(deform=True, num_convs=0)


def test_deformable_conv_starts_as_a_conv_of_half_the_weight():
    """Offsets 0 and scales sigmoid(0): half of what the conv with the same weight gives, and the bias in full."""
    torch.manual_seed(0)
    layer, x = DeformConv3x3(4, bias=True), torch.randn(2, 4, 5, 7)
    torch.nn.init.normal_(layer.bias)
    expected = F.conv2d(x, layer.weight / 2, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), expected)


def test_deformable_conv_moves_and_scales_its_taps():
    """All taps one cell down and half a cell right: the conv of the map moved so, zeros behind its border."""
    torch.manual_seed(0)
    layer, x = DeformConv3x3(4, bias=False), torch.randn(1, 4, 6, 8)
    layer.conv_offset.bias.data = torch.tensor([1.0, 0.5] * 9 + [40.0] * 9)  # sigmoid(40) = 1
    wide = F.pad(x, (2, 3, 2, 3))
    moved = (wide[..., 1:, :-1] + wide[..., 1:, 1:]) / 2  # cell (2, 2) of this is cell (1, 0.5) of x
    expected = F.conv2d(moved, layer.weight)[..., 1:7, 1:9]
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16])
def test_gradients_reach_the_offsets(dtype):
    """Also under autocast, whose half precision stops before the deformable conv."""
    torch.manual_seed(0)
    head, x = make_head(deform=True), torch.rand(1, CHANNELS, 6, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        features = head([x])
    assert features.box[0].shape == x.shape and features.box[0].dtype == torch.float32
    # the sum of a normed map hardly depends on its input, its square does
    (features.cls[0].square().sum() + features.box[0].pow(3).sum()).backward()
    for name, parameter in head.named_parameters():
        if not name.startswith("scales"):
            assert parameter.grad.isfinite().all() and parameter.grad.any(), name
    assert x.grad.any()
