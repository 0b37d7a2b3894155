"""Feature pyramid networks (Lin et al., 2017), with the further levels of RetinaNet and Mask R-CNN."""

import itertools
from collections.abc import Callable, Sequence

from fvcore.common.config import CfgNode
from fvcore.nn import weight_init
from torch import Tensor, nn
from torch.nn import functional as F

from detectron2.layers import Conv2d, ShapeSpec, get_norm

from .backbone import Backbone
from .build import BACKBONE_REGISTRY
from .resnet import build_resnet_backbone

__all__ = ["FPN", "build_resnet_fpn_backbone", "build_retinanet_resnet_fpn_backbone"]


class FPN(Backbone):
    """Adds coarse features to finer ones, top down. The level of stride 2^k is called p<k>.

    Args:
        bottom_up: gives the features to combine.
        in_features: their names, fine to coarse; each stride is twice the one before (AssertionError).
        out_channels: of every level.
        norm: of all convs; they have a bias only without one.
        top_block: makes coarser levels. It takes one feature, named `in_feature`, which is looked up in the
            bottom-up features first and then among the levels here, and returns `num_levels` maps.
        fuse_type: "sum" or "avg" of the two inputs of a level.
        square_pad: if above 0, inputs are padded to squares of this side.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        norm: str | Callable[[int], nn.Module] = "",
        top_block: nn.Module | None = None,
        fuse_type: str = "sum",
        square_pad: int = 0,
    ):
        super().__init__()
        assert isinstance(bottom_up, Backbone), f"FPN: bottom_up is no Backbone: {type(bottom_up).__name__}"
        assert len(in_features) > 0, "FPN: no in_features"
        assert fuse_type in ("sum", "avg"), f"FPN: fuse_type {fuse_type!r} is neither 'sum' nor 'avg'"
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        for fine, coarse in itertools.pairwise(strides):
            assert coarse == 2 * fine, f"FPN: strides must double from one feature to the next, got {strides}"
        self.in_features = tuple(in_features)
        self._levels = [stride.bit_length() - 1 for stride in strides]
        for name, level in zip(in_features, self._levels):
            # Both are made before the first is filled, as in Detectron2: what a seed gives depends on it.
            lateral = _conv(shapes[name].channels, out_channels, 1, norm)
            output = _conv(out_channels, out_channels, 3, norm)
            weight_init.c2_xavier_fill(lateral)
            weight_init.c2_xavier_fill(output)
            self.add_module(f"fpn_lateral{level}", lateral)
            self.add_module(f"fpn_output{level}", output)
        self.top_block = top_block
        self.bottom_up = bottom_up
        self._fuse_type = fuse_type
        self._square_pad = square_pad
        self._size_divisibility = strides[-1]
        last = self._levels[-1] + (0 if top_block is None else top_block.num_levels)
        levels = range(self._levels[0], last + 1)
        self._out_features = [f"p{level}" for level in levels]
        self._out_feature_channels = {name: out_channels for name in self._out_features}
        self._out_feature_strides = {f"p{level}": 2**level for level in levels}

    @property
    def size_divisibility(self) -> int:
        return self._size_divisibility

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"square_size": self._square_pad}

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> the levels, fine to coarse. RuntimeError if a level is not twice the size of the next."""
        features = self.bottom_up(x)
        merged = None
        outputs = {}
        for name, level in zip(self.in_features[::-1], self._levels[::-1]):
            lateral = getattr(self, f"fpn_lateral{level}")(features[name])
            merged = lateral if merged is None else self._fuse(lateral, merged)
            outputs[f"p{level}"] = getattr(self, f"fpn_output{level}")(merged)
        outputs = dict(reversed(outputs.items()))
        if self.top_block is not None:
            source = self.top_block.in_feature
            extra = self.top_block(features[source] if source in features else outputs[source])
            outputs.update(zip(self._out_features[len(outputs) :], extra, strict=True))
        return outputs

    def _fuse(self, lateral: Tensor, coarser: Tensor) -> Tensor:
        total = lateral + F.interpolate(coarser, scale_factor=2.0, mode="nearest")
        return total / 2 if self._fuse_type == "avg" else total


def _conv(in_channels: int, out_channels: int, kernel: int, norm: str | Callable[[int], nn.Module]) -> Conv2d:
    return Conv2d(
        in_channels, out_channels, kernel, padding=kernel // 2, bias=norm == "", norm=get_norm(norm, out_channels)
    )


class LastLevelMaxPool(nn.Module):
    """One more level, of every second cell of p5 (Mask R-CNN)."""

    num_levels = 1
    in_feature = "p5"

    def forward(self, x: Tensor) -> list[Tensor]:
        return [F.max_pool2d(x, kernel_size=1, stride=2)]


class LastLevelP6P7(nn.Module):
    """Two more levels by convs of stride 2 (RetinaNet): P6 from `in_feature`, P7 from relu(P6)."""

    num_levels = 2

    def __init__(self, in_channels: int, out_channels: int, in_feature: str = "res5"):
        super().__init__()
        self.in_feature = in_feature
        self.p6 = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(out_channels, out_channels, 3, stride=2, padding=1)
        for layer in (self.p6, self.p7):
            weight_init.c2_xavier_fill(layer)

    def forward(self, c5: Tensor) -> list[Tensor]:
        p6 = self.p6(c5)
        return [p6, self.p7(F.relu(p6))]


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """`MODEL.RESNETS` and `MODEL.FPN`, with P6 by max pooling."""
    return _resnet_fpn(cfg, build_resnet_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_resnet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """`MODEL.RESNETS` and `MODEL.FPN`, with P6 and P7 by convs from res5."""
    bottom_up = build_resnet_backbone(cfg, input_shape)
    top_block = LastLevelP6P7(bottom_up.output_shape()["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS)
    return _resnet_fpn(cfg, bottom_up, top_block)


def _resnet_fpn(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module) -> FPN:
    fpn = cfg.MODEL.FPN
    return FPN(bottom_up, fpn.IN_FEATURES, fpn.OUT_CHANNELS, fpn.NORM, top_block, fpn.FUSE_TYPE)
