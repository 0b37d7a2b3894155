"""What ResNets are made of: the stem, and blocks of the form relu(shortcut(x) + residual(x))."""

from collections.abc import Callable
from typing import Any

from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.layers import CNNBlockBase, Conv2d, DeformConv, ModulatedDeformConv, get_norm

Norm = str | Callable[[int], nn.Module]


def _conv(in_channels: int, out_channels: int, kernel: int, norm: Norm, dilation: int = 1, **kwargs: Any) -> Conv2d:
    """A normed conv without bias that keeps the size (but for its stride)."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel,
        padding=kernel // 2 * dilation,
        dilation=dilation,
        bias=False,
        norm=get_norm(norm, out_channels),
        **kwargs,
    )


class BasicStem(CNNBlockBase):
    """7 x 7 conv and 3 x 3 max pooling, each with stride 2."""

    def __init__(self, in_channels: int = 3, out_channels: int = 64, norm: Norm = "BN"):
        super().__init__(in_channels, out_channels, 4)
        self.conv1 = _conv(in_channels, out_channels, 7, norm, stride=2)
        weight_init.c2_msra_fill(self.conv1)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu_(self.conv1(x)), kernel_size=3, stride=2, padding=1)


class _ResidualBlock(CNNBlockBase):
    """The shortcut is a conv only where the number of channels changes. Subclasses add `residual`, then `_fill`.

    Two orders are part of what a seed means, and follow Detectron2. All convs are made before the first is filled, the
    shortcut made first and filled last: making one draws random numbers too. And the shortcut is computed after the
    residual, so that the gradients of the input add up in that order.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, norm: Norm):
        super().__init__(in_channels, out_channels, stride)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = _conv(in_channels, out_channels, 1, norm, stride=stride)

    def _fill(self, *convs: nn.Module) -> None:
        """He-normal weights for the convs of the residual, then for the shortcut."""
        for layer in (*convs, self.shortcut):
            if layer is not None:
                weight_init.c2_msra_fill(layer)

    def forward(self, x: Tensor) -> Tensor:
        out = self.residual(x)
        return F.relu_(out + (x if self.shortcut is None else self.shortcut(x)))


class BasicBlock(_ResidualBlock):
    """The block of ResNet-18 and 34: two 3 x 3 convs, the first with the stride."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1, norm: Norm = "BN"):
        super().__init__(in_channels, out_channels, stride, norm)
        self.conv1 = _conv(in_channels, out_channels, 3, norm, stride=stride)
        self.conv2 = _conv(out_channels, out_channels, 3, norm)
        self._fill(self.conv1, self.conv2)

    def residual(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu_(self.conv1(x)))


class BottleneckBlock(_ResidualBlock):
    """The block of ResNet-50 and deeper: 1 x 1, 3 x 3, 1 x 1, the 3 x 3 on fewer channels.

    Args:
        bottleneck_channels: of the 3 x 3 conv.
        num_groups: of the 3 x 3 conv; above 1 this is ResNeXt.
        stride_in_1x1: the stride is in the first conv, as in the original weights, rather than in the 3 x 3.
        dilation: of the 3 x 3 conv.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
    ):
        super().__init__(in_channels, out_channels, stride, norm)
        width = bottleneck_channels
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = _conv(in_channels, width, 1, norm, stride=stride1)
        self.conv2 = _conv(width, width, 3, norm, dilation, stride=stride2, groups=num_groups)
        self.conv3 = _conv(width, out_channels, 1, norm)
        self._fill(self.conv1, self.conv2, self.conv3)

    def residual(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv1(x))
        x = F.relu_(self.conv2(x))
        return self.conv3(x)


class DeformBottleneckBlock(_ResidualBlock):
    """A bottleneck whose 3 x 3 conv is deformable, with offsets predicted from the conv's own input.

    `conv2_offset` starts at zero: at first the taps do not move. If modulated, its channels are the offsets followed
    by the masks before the sigmoid.

    Args:
        deform_modulated: also scale each tap (Deformable ConvNets v2).
        deform_num_groups: groups of channels with offsets of their own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        bottleneck_channels: int,
        stride: int = 1,
        num_groups: int = 1,
        norm: Norm = "BN",
        stride_in_1x1: bool = False,
        dilation: int = 1,
        deform_modulated: bool = False,
        deform_num_groups: int = 1,
    ):
        super().__init__(in_channels, out_channels, stride, norm)
        self.deform_modulated = deform_modulated
        self.taps = 9 * deform_num_groups
        width = bottleneck_channels
        stride1, stride2 = (stride, 1) if stride_in_1x1 else (1, stride)
        kernel = {"kernel_size": 3, "stride": stride2, "padding": dilation, "dilation": dilation}
        self.conv1 = _conv(in_channels, width, 1, norm, stride=stride1)
        self.conv2_offset = Conv2d(width, (3 if deform_modulated else 2) * self.taps, **kernel)
        deform_class = ModulatedDeformConv if deform_modulated else DeformConv
        groups = {"groups": num_groups, "deformable_groups": deform_num_groups}
        self.conv2 = deform_class(width, width, **kernel, **groups, bias=False, norm=get_norm(norm, width))
        self.conv3 = _conv(width, out_channels, 1, norm)
        self._fill(self.conv1, self.conv2, self.conv3)
        nn.init.zeros_(self.conv2_offset.weight)
        nn.init.zeros_(self.conv2_offset.bias)

    def residual(self, x: Tensor) -> Tensor:
        x = F.relu_(self.conv1(x))
        offset = self.conv2_offset(x)
        if self.deform_modulated:
            x = self.conv2(x, offset[:, : 2 * self.taps], offset[:, 2 * self.taps :].sigmoid())
        else:
            x = self.conv2(x, offset)
        return self.conv3(F.relu_(x))
