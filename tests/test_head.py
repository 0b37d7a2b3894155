"""The towers: names of released weights, initial values."""

import pytest
import torch

from defcn_ext.head import SharedHead, conv3x3

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
    assert features.scales is head.scales
