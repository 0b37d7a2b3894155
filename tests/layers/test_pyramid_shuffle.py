"""Pyramid shuffle against a plain form, and inside the towers."""

import pytest
import torch

from defcn_ext.branches import build_towers
from defcn_ext.layers import PyramidShuffle
from defcn_ext.layers.towers import SharedHead
from tests.tiny import tiny_cfg

SIZES = [(9, 12), (5, 6), (3, 3), (2, 2), (1, 1)]
KEY = "MODEL.DEFCN.PYRAMID_SHUFFLE."


def pyramid(channels=16, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(2, channels, *size, generator=rng) for size in SIZES]


def bilinear(x, height, width):
    """(N, C, H, W) read at aligned corners, by hand."""
    rows = torch.linspace(0, x.shape[2] - 1, height) if height > 1 else torch.zeros(1)
    columns = torch.linspace(0, x.shape[3] - 1, width) if width > 1 else torch.zeros(1)
    top, left = rows.floor().long(), columns.floor().long()
    bottom, right = (top + 1).clamp(max=x.shape[2] - 1), (left + 1).clamp(max=x.shape[3] - 1)
    dy, dx = (rows - top)[:, None], columns - left
    upper = x[:, :, top][..., left] * (1 - dx) + x[:, :, top][..., right] * dx
    lower = x[:, :, bottom][..., left] * (1 - dx) + x[:, :, bottom][..., right] * dx
    return upper * (1 - dy) + lower * dy


def test_what_every_level_holds():
    """Of 16 channels 0 to 9 its own, 10 to 12 the coarser level's last three, 13 to 15 the finer one's before."""
    levels = pyramid()
    for i, got in enumerate(PyramidShuffle(3)(levels)):
        own, coarser, finer = levels[i], levels[min(i + 1, 4)], levels[max(i - 1, 0)]
        assert torch.equal(got[:, :10], own[:, :10])
        torch.testing.assert_close(got[:, 10:13], bilinear(coarser[:, 13:], *SIZES[i]), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(got[:, 13:], bilinear(finer[:, 10:13], *SIZES[i]), atol=1e-5, rtol=1e-5)


def test_one_level_keeps_all_its_channels():
    (only,) = PyramidShuffle(2)([pyramid(8)[0]])
    assert torch.equal(only[:, [0, 1, 2, 3, 6, 7, 4, 5]], pyramid(8)[0])


def test_the_towers_exchange_before_their_last_convs():
    """DDQ: before each of the last two class convs and the last box conv. The parameters are those of plain towers."""
    options = {"in_channels": 32, "num_levels": 5, "num_convs": 3, "norm": "GN", "conv_bias": True}
    head, plain = SharedHead(**options, shuffle=(2, 1)), SharedHead(**options)
    plain.load_state_dict(head.state_dict())
    for p in head.parameters():  # N(0, 0.01) weights would leave nothing but the norms' rounding
        p.data.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    exchange, levels = PyramidShuffle(8), pyramid(32)
    c, b = head.cls_subnet, head.bbox_subnet
    cls = [c[:3](x) for x in levels]
    for start in (3, 6):
        cls = [c[start : start + 3](x) for x in exchange(cls)]
    box = [b[6:](x) for x in exchange([b[:6](x) for x in levels])]
    got = head(levels)
    for mine, expected in [(got.cls, cls), (got.box, box)]:
        assert all(torch.equal(x, y) for x, y in zip(mine, expected))
    assert not torch.equal(got.cls[0], plain(levels).cls[0])


def test_levels_learn_from_each_other():
    """One exchange carries the gradient of a level to its neighbours alone."""
    levels = [x.requires_grad_() for x in pyramid()]
    PyramidShuffle(4)(levels)[2].sum().backward()
    assert [x.grad is not None and bool(x.grad.any()) for x in levels] == [False, True, True, True, False]


@pytest.mark.parametrize(
    "opts, message",
    [
        ((KEY + "CLS", 2), "PYRAMID_SHUFFLE.CLS: must lie between 0 and NUM_CONVS, which is 1; got 2"),
        ((KEY + "BOX", -1), "PYRAMID_SHUFFLE.BOX: .*got -1"),
        ((KEY + "BOX", 1, KEY + "SHARE", 0.6), "PYRAMID_SHUFFLE.SHARE: must be a part of the channels"),
    ],
)
def test_errors_name_the_key(opts, message):
    with pytest.raises(ValueError, match=message):
        build_towers(tiny_cfg(*opts), 64, level_scales=True)


def test_errors_of_the_layer():
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        PyramidShuffle(0)
    with pytest.raises(ValueError, match="5 channels up and 5 down are more than the 8 there are"):
        PyramidShuffle(5)(pyramid(8))
