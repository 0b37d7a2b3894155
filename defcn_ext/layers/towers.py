"""The towers that all branches and all levels share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from defcn_ext.layers import Scale, build_norm
from defcn_ext.structures import HeadFeatures


class SharedHead(nn.Module):
    """A class tower and a box tower of 3x3 convs, shared by all levels, and one learned factor a level for the boxes.

    Parameter names are those of the released DeFCN head.

    >>> head = SharedHead(in_channels=32, num_levels=2, num_convs=1, norm="GN", conv_bias=True)
    >>> features = head([torch.rand(1, 32, 4, 4), torch.rand(1, 32, 2, 2)])
    >>> [tuple(x.shape) for x in features.cls], len(features.scales)
    ([(1, 32, 4, 4), (1, 32, 2, 2)], 2)

    Args:
        in_channels: C of every level, kept by the towers.
        num_levels: number of pyramid levels.
        num_convs: 3x3 convs a tower.
        norm: a name that `detectron2.layers.get_norm` knows; "" for none.
        conv_bias: whether the tower convs have a bias.
        level_scales: whether there are factors; without them a level's factor is 1.
        deform: whether the last conv of each tower is deformable (DW's DCN models).

    Raises:
        ValueError: a negative number of convs, `deform` without a conv, or an unknown norm.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_levels: int,
        num_convs: int,
        norm: str,
        conv_bias: bool,
        level_scales: bool = True,
        deform: bool = False,
    ):
        super().__init__()
        if num_convs < 0:
            raise ValueError(f"MODEL.DEFCN.NUM_CONVS: must not be negative, got {num_convs}")
        if deform and num_convs == 0:
            raise ValueError("MODEL.DEFCN.DEFORM_TOWERS: the towers have no conv; set NUM_CONVS above 0")
        self.cls_subnet = _tower(in_channels, num_convs, norm, conv_bias, deform)
        self.bbox_subnet = _tower(in_channels, num_convs, norm, conv_bias, deform)
        self.scales = nn.ModuleList([Scale() if level_scales else nn.Identity() for _ in range(num_levels)])

    def forward(self, features: Sequence[Tensor]) -> HeadFeatures:
        return HeadFeatures(
            cls=[self.cls_subnet(x) for x in features],
            box=[self.bbox_subnet(x) for x in features],
            scales=list(self.scales),
            pyramid=features,
        )


def _tower(channels: int, num_convs: int, norm: str, bias: bool, deform: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(num_convs):
        last = index == num_convs - 1
        layers.append(DeformConv3x3(channels, bias=bias) if deform and last else conv3x3(channels, channels, bias=bias))
        if norm:
            layers.append(build_norm(norm, channels, "MODEL.DEFCN.NORM") or nn.Identity())
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def conv3x3(in_channels: int, out_channels: int, *, bias: bool = True, bias_value: float = 0.0) -> nn.Conv2d:
    """A 3x3 conv that starts from N(0, 0.01) weights and a constant bias (00-common, section 3)."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=bias)
    nn.init.normal_(conv.weight, std=0.01)
    if conv.bias is not None:
        nn.init.constant_(conv.bias, bias_value)
    return conv


class DeformConv3x3(DeformConv2d):  # type: ignore[misc]  # torchvision has no types
    """A 3x3 conv whose nine taps move and are scaled as a conv of its own input says (Zhu et al. 2019).

    `conv_offset` starts at zero: the taps do not move, and each is scaled by sigmoid(0) = 0.5. Its 27 channels are
    the (y, x) of each tap, then the scales before the sigmoid; names and layout are those of mmcv's `DCNv2`.
    """

    def __init__(self, channels: int, *, bias: bool):
        super().__init__(channels, channels, 3, padding=1, bias=bias)
        nn.init.normal_(self.weight, std=0.01)
        if bias:
            nn.init.zeros_(self.bias)
        self.conv_offset = nn.Conv2d(channels, 27, 3, padding=1)
        nn.init.zeros_(self.conv_offset.weight)
        assert self.conv_offset.bias is not None
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same shape in the weights' type, under autocast too: half is too coarse for places."""
        moves = self.conv_offset(x).to(self.weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = super().forward(x.to(self.weight.dtype), moves[:, :18], moves[:, 18:].sigmoid())
        return out
