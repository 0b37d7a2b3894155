"""Deformable convolution on torchvision's operator; channel layout of offsets: (y, x) per tap and deformable group."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair
from torchvision.ops import deform_conv2d


class _DeformConvBase(nn.Module):
    """Weights, norm and activation that both versions share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int],
        padding: int | tuple[int, int],
        dilation: int | tuple[int, int],
        groups: int,
        deformable_groups: int,
        bias: bool,
        norm: nn.Module | None,
        activation: Callable | None,
    ):
        super().__init__()
        assert in_channels % groups == 0, f"in_channels {in_channels} not divisible by groups {groups}"
        assert out_channels % groups == 0, f"out_channels {out_channels} not divisible by groups {groups}"
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.deformable_groups = deformable_groups
        self.with_bias = bias
        self.norm = norm
        self.activation = activation
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *self.kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, nonlinearity="relu")

    def _convolve(self, x: Tensor, offset: Tensor, mask: Tensor | None) -> Tensor:
        taps = self.deformable_groups * self.kernel_size[0] * self.kernel_size[1]
        if offset.shape[1] != 2 * taps:
            raise RuntimeError(f"deformable conv: offset must have {2 * taps} channels, got {offset.shape[1]}")
        # Under autocast the offsets may come in half precision; the operator wants one type throughout.
        x, offset = x.to(self.weight.dtype), offset.to(self.weight.dtype)
        mask = mask if mask is None else mask.to(self.weight.dtype)
        x = deform_conv2d(x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x

    def extra_repr(self) -> str:
        names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"]
        values = [f"{name}={getattr(self, name)}" for name in [*names, "deformable_groups"]]
        return ", ".join([*values, f"bias={self.with_bias}"])


class DeformConv(_DeformConvBase):
    """A conv whose taps move: Deformable Convolutional Networks (Dai et al., 2017). It has no bias.

    Forward takes x (N, C, H, W) and offset (N, 2 * deformable_groups * kh * kw, H', W') in cells.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        deformable_groups=1,
        bias=False,
        norm=None,
        activation=None,
    ):
        assert not bias, "DeformConv has no bias"
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            _pair(stride),
            _pair(padding),
            _pair(dilation),
            groups,
            deformable_groups,
            bias,
            norm,
            activation,
        )

    def forward(self, x: Tensor, offset: Tensor) -> Tensor:
        return self._convolve(x, offset, None)


class ModulatedDeformConv(_DeformConvBase):
    """A deformable conv that also scales each tap: Deformable ConvNets v2 (Zhu et al., 2019).

    Forward takes x and offset as `DeformConv`, and mask (N, deformable_groups * kh * kw, H', W').
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups=1,
        deformable_groups=1,
        bias=True,
        norm=None,
        activation=None,
    ):
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            deformable_groups,
            bias,
            norm,
            activation,
        )

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        return self._convolve(x, offset, mask)
