import pytest
import torch
import torch.nn.functional as F

from defcn_ext.layers import MaxFiltering, max_over_neighbours

SIZES = [(13, 18), (7, 9), (4, 5), (2, 3), (1, 2)]


def stacked_3d(features, tau, kernel):
    """DeFCN Eq. 6-7 as they are written: stack the resized levels, pool in three dimensions, keep one slice."""
    out, reach = [], tau // 2
    for level, feature in enumerate(features):
        existing = [k for k in range(level - reach, level + reach + 1) if 0 <= k < len(features)]
        stack = [
            features[k]
            if k == level
            else F.interpolate(features[k], size=feature.shape[-2:], mode="bilinear", align_corners=False)
            for k in existing
        ]
        pooled = F.max_pool3d(
            torch.stack(stack, 2), (tau + 1, kernel, kernel), stride=1, padding=(reach, kernel // 2, kernel // 2)
        )
        out.append(pooled[:, :, existing.index(level)])
    return out


@pytest.mark.parametrize("tau", [0, 2, 4])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_equals_3d_pooling_bit_for_bit(tau, kernel):
    features = [torch.randn(2, 3, *size).requires_grad_() for size in SIZES]
    ours, theirs = max_over_neighbours(features, tau, kernel), stacked_3d(features, tau, kernel)
    weights = [torch.randn_like(y) for y in ours]
    for a, b in zip(ours, theirs):
        assert torch.equal(a, b)
    grads = [torch.autograd.grad(sum((y * w).sum() for y, w in zip(out, weights)), features) for out in (ours, theirs)]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def identity_module(channels, tau, kernel=3):
    module = MaxFiltering(channels, tau=tau, kernel=kernel, norm="")
    with torch.no_grad():
        module.conv.weight.zero_()
        for c in range(channels):
            module.conv.weight[c, c, 1, 1] = 1
    return module


@pytest.mark.parametrize("tau, expected", [(2, [1, 3, 5, 7, 8]), (0, [0, 2, 4, 6, 8]), (4, [2, 4, 6, 7, 8])])
def test_constant_maps(tau, expected):
    """10-defcn: maps 0..4 on P3..P7, identity conv, no norm: own value plus the largest neighbour."""
    features = [torch.full((1, 2, *size), float(level)) for level, size in enumerate(SIZES)]
    out = identity_module(2, tau)(features)
    assert [y.unique().tolist() for y in out] == [[v] for v in expected]


def test_impulse_and_negative_maps():
    impulse = torch.zeros(1, 1, 5, 5)
    impulse[0, 0, 2, 2] = 1
    (out,) = identity_module(1, tau=0)([impulse])
    expected = torch.zeros(5, 5)
    expected[1:4, 1:4] = 1
    expected[2, 2] = 2
    assert torch.equal(out[0, 0], expected)
    (out,) = identity_module(1, tau=0)([-torch.rand(1, 1, 5, 5) - 0.1])
    assert (out == 0).all()


def test_impulse_seen_from_the_finer_level():
    coarse = torch.zeros(1, 1, 4, 4)
    coarse[0, 0, 1, 1] = 1
    fine, _ = identity_module(1, tau=2)([torch.zeros(1, 1, 8, 8), coarse])
    assert fine[0, 0, 1].tolist() == [0.1875, 0.5625, 0.5625, 0.5625, 0.5625, 0.1875, 0, 0]


def test_the_exported_graph_pools_in_two_dimensions_only():
    features = [torch.randn(1, 32, *size) for size in SIZES]
    program = torch.export.export(MaxFiltering(32).eval(), (features,))
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert sum("max_pool2d" in name for name in names) == 1
    assert not any("3d" in name for name in names)


def test_parameters_carry_the_released_names_and_counts():
    module = MaxFiltering(256)
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {
        "conv.weight": (256, 256, 3, 3),
        "conv.bias": (256,),
        "norm.weight": (256,),
        "norm.bias": (256,),
    }
    assert sum(p.numel() for p in module.parameters()) == 590_080 + 512
    assert sum(p.numel() for p in MaxFiltering(256, norm="").parameters()) == 590_080
    assert module.conv.weight.std().item() == pytest.approx(0.01, rel=0.02) and not module.conv.bias.any()


@pytest.mark.parametrize("options", [{"tau": 1}, {"tau": -2}, {"kernel": 2}, {"kernel": 0}])
def test_bad_windows_are_refused(options):
    with pytest.raises(ValueError, match="tau must be even|kernel must be odd"):
        MaxFiltering(8, **options)
