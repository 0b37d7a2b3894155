"""The towers that all branches and all levels share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d

from defcn_ext.layers import PyramidShuffle, Scale, build_norm
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
        shuffle: how many of the last convs of the class and of the box tower are each preceded by an exchange of
            channels between the levels (DDQ: 2 and 1).
        shuffle_share: share of the channels that goes either way, 1/4 as released.

    Raises:
        ValueError: a negative number of convs, `deform` without a conv, an unknown norm, or more exchanges than convs.
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
        shuffle: tuple[int, int] = (0, 0),
        shuffle_share: float = 0.25,
    ):
        super().__init__()
        if num_convs < 0:
            raise ValueError(f"MODEL.DEFCN.NUM_CONVS: must not be negative, got {num_convs}")
        if deform and num_convs == 0:
            raise ValueError("MODEL.DEFCN.DEFORM_TOWERS: the towers have no conv; set NUM_CONVS above 0")
        self.cls_subnet = _tower(in_channels, num_convs, norm, conv_bias, deform)
        self.bbox_subnet = _tower(in_channels, num_convs, norm, conv_bias, deform)
        self.scales = nn.ModuleList([Scale() if level_scales else nn.Identity() for _ in range(num_levels)])
        self.num_convs = num_convs
        self.shuffled = _exchanges(shuffle, num_convs)
        self.shuffle = PyramidShuffle(_shared_channels(shuffle_share, in_channels)) if any(shuffle) else None

    def forward(self, features: Sequence[Tensor]) -> HeadFeatures:
        cls, box = (
            self._run(tower, features, count)
            for tower, count in zip((self.cls_subnet, self.bbox_subnet), self.shuffled)
        )
        return HeadFeatures(cls=cls, box=box, scales=list(self.scales), pyramid=features)

    def _run(self, tower: nn.Sequential, features: Sequence[Tensor], shuffled: int) -> list[Tensor]:
        """The tower on every level, with an exchange between the levels before each of its last `shuffled` convs."""
        if self.shuffle is None or not shuffled:
            return [tower(x) for x in features]
        layers = len(tower) // self.num_convs  # of each conv, what follows it among them
        first = (self.num_convs - shuffled) * layers
        levels = [tower[:first](x) for x in features]
        for start in range(first, len(tower), layers):
            levels = [tower[start : start + layers](x) for x in self.shuffle(levels)]
        return levels


def _exchanges(shuffle: tuple[int, int], num_convs: int) -> tuple[int, int]:
    for name, count in zip(("CLS", "BOX"), shuffle):
        if not 0 <= count <= num_convs:
            key = f"MODEL.DEFCN.PYRAMID_SHUFFLE.{name}"
            raise ValueError(f"{key}: must lie between 0 and NUM_CONVS, which is {num_convs}; got {count}")
    return shuffle


def _shared_channels(share: float, channels: int) -> int:
    if not 1 / channels <= share <= 0.5:
        raise ValueError(f"MODEL.DEFCN.PYRAMID_SHUFFLE.SHARE: must be a part of the channels, 0.5 at most; got {share}")
    return int(share * channels)


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
