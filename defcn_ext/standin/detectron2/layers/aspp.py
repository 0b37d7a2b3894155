import copy
from collections.abc import Callable, Sequence

import torch
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from .batch_norm import get_norm
from .blocks import DepthwiseSeparableConv2d
from .wrappers import Conv2d


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling (DeepLab v3, Chen et al., 2017): parallel views of several reaches, merged.

    Args:
        dilations: three dilations, of the 3 x 3 convs.
        norm: a name for `get_norm`, or a callable.
        activation: a module or function; modules are copied for each conv.
        pool_kernel_size: (height, width) of the average pooling; None pools the whole map.
        use_depthwise_separable_conv: in place of the dilated 3 x 3 convs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        dilations: Sequence[int],
        *,
        norm: str | Callable,
        activation: Callable,
        pool_kernel_size: tuple[int, int] | None = None,
        dropout: float = 0.0,
        use_depthwise_separable_conv: bool = False,
    ):
        super().__init__()
        assert len(dilations) == 3, f"ASPP: expected 3 dilations, got {len(dilations)}"
        self.pool_kernel_size = pool_kernel_size
        self.dropout = dropout

        def conv(channels: int, kernel: int, dilation: int = 1, normed: bool = True) -> nn.Module:
            layer = Conv2d(
                channels,
                out_channels,
                kernel,
                padding=dilation if kernel > 1 else 0,
                dilation=dilation,
                bias=not (norm and normed),
                norm=get_norm(norm, out_channels) if normed else None,
                activation=copy.deepcopy(activation),
            )
            weight_init.c2_xavier_fill(layer)
            return layer

        def separable(dilation: int) -> nn.Module:
            layers = {"norm1": norm, "activation1": activation, "norm2": norm, "activation2": activation}
            return DepthwiseSeparableConv2d(in_channels, out_channels, 3, dilation, dilation, **layers)

        self.convs = nn.ModuleList([conv(in_channels, 1)])
        for dilation in dilations:
            wide = separable(dilation) if use_depthwise_separable_conv else conv(in_channels, 3, dilation)
            self.convs.append(wide)
        pool = nn.AvgPool2d(pool_kernel_size, stride=1) if pool_kernel_size else nn.AdaptiveAvgPool2d(1)
        # A norm over a single value per image would be the constant 0, hence none on the pooled whole.
        self.convs.append(nn.Sequential(pool, conv(in_channels, 1, normed=pool_kernel_size is not None)))
        self.project = conv(5 * out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        if self.pool_kernel_size and (size[0] % self.pool_kernel_size[0] or size[1] % self.pool_kernel_size[1]):
            raise ValueError(f"ASPP: {tuple(size)} is not divisible by pool_kernel_size {self.pool_kernel_size}")
        views = [conv(x) for conv in self.convs]
        views[-1] = F.interpolate(views[-1], size=size, mode="bilinear", align_corners=False)
        x = self.project(torch.cat(views, dim=1))
        return F.dropout(x, self.dropout, training=self.training)
