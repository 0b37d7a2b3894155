"""ResNet (He et al., 2016), ResNeXt (Xie et al., 2017) and their deformable versions."""

import math
from collections.abc import Sequence
from typing import Any

from fvcore.common.config import CfgNode
from torch import Tensor, nn

from detectron2.layers import CNNBlockBase, ShapeSpec

from .backbone import Backbone
from .build import BACKBONE_REGISTRY
from .resnet_blocks import BasicBlock, BasicStem, BottleneckBlock, DeformBottleneckBlock

__all__ = [
    "BasicBlock",
    "BasicStem",
    "BottleneckBlock",
    "DeformBottleneckBlock",
    "ResNet",
    "ResNetBlockBase",
    "build_resnet_backbone",
    "make_stage",
]

ResNetBlockBase = CNNBlockBase

# Blocks of res2, res3, res4 and res5.
BLOCKS_PER_STAGE = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
BASIC_DEPTHS = (18, 34)


class ResNet(Backbone):
    """A stem and stages named res2, res3, ...; with `num_classes` also the classifier `linear`.

    Stages after the last one in `out_features` are dropped.

    Args:
        stem: a module with `stride` and `out_channels`.
        stages: lists of `CNNBlockBase`.
        num_classes: None for no classifier.
        out_features: names to return, of "stem", "res2", ..., "linear"; by default the last one.
        freeze_at: see `freeze`.
    """

    def __init__(
        self,
        stem: CNNBlockBase,
        stages: Sequence[Sequence[CNNBlockBase]],
        num_classes: int | None = None,
        out_features: Sequence[str] | None = None,
        freeze_at: int = 0,
    ):
        super().__init__()
        self.stem = stem
        self.num_classes = num_classes
        names = [f"res{i}" for i in range(2, 2 + len(stages))]
        if out_features is None:
            out_features = ["linear" if num_classes is not None else names[-1]]
        known = ["stem", *names, *([] if num_classes is None else ["linear"])]
        unknown = [name for name in out_features if name not in known]
        assert len(out_features) > 0 and not unknown, f"ResNet: out_features {out_features} are not among {known}"
        needed = len(names) if num_classes is not None else max(known.index(name) for name in out_features)
        self._out_features = list(out_features)
        self._out_feature_strides = {"stem": stem.stride}
        self._out_feature_channels = {"stem": stem.out_channels}
        self.stage_names = tuple(names[:needed])
        stride, channels = stem.stride, stem.out_channels
        for name, blocks in zip(self.stage_names, stages):
            assert len(blocks) > 0, f"ResNet: {name} has no blocks"
            assert all(isinstance(b, CNNBlockBase) for b in blocks), f"ResNet: {name} has other than CNNBlockBase"
            self.add_module(name, nn.Sequential(*blocks))
            stride *= math.prod(block.stride for block in blocks)
            channels = blocks[-1].out_channels
            self._out_feature_strides[name] = stride
            self._out_feature_channels[name] = channels
        if num_classes is not None:
            self.avgpool = nn.AdaptiveAvgPool2d(1)
            self.linear = nn.Linear(channels, num_classes)
            # Goyal et al., 2017 (Accurate, Large Minibatch SGD), section 5.1.
            nn.init.normal_(self.linear.weight, std=0.01)
        self.freeze(freeze_at)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) -> the maps of `out_features`; "linear" is (N, num_classes)."""
        assert x.dim() == 4, f"ResNet: expected (N, C, H, W), got {tuple(x.shape)}"
        outputs = {}
        for name in ("stem", *self.stage_names):
            x = getattr(self, name)(x)
            if name in self._out_features:
                outputs[name] = x
        if self.num_classes is not None and "linear" in self._out_features:
            outputs["linear"] = self.linear(self.avgpool(x).flatten(1))
        return outputs

    def freeze(self, freeze_at: int = 0) -> "ResNet":
        """Freezes the first parts: 1 the stem, 2 also res2, and so on; 0 nothing. Returns itself."""
        if freeze_at >= 1:
            self.stem.freeze()
        for name in self.stage_names[: max(freeze_at - 1, 0)]:
            for block in getattr(self, name):
                block.freeze()
        return self

    @staticmethod
    def make_stage(
        block_class: type[CNNBlockBase], num_blocks: int, *, in_channels: int, out_channels: int, **kwargs: Any
    ) -> list[CNNBlockBase]:
        """Blocks one after the other.

        Args:
            kwargs: for every block. Names ending in `_per_block` hold one value for each.
        """
        suffix = "_per_block"
        for name, value in kwargs.items():
            fits = not name.endswith(suffix) or len(value) == num_blocks
            assert fits, f"make_stage: {name} must have {num_blocks} values, got {value}"
        blocks = []
        for i in range(num_blocks):
            options = {k.removesuffix(suffix): v[i] if k.endswith(suffix) else v for k, v in kwargs.items()}
            blocks.append(block_class(in_channels=in_channels, out_channels=out_channels, **options))
            in_channels = out_channels
        return blocks

    @staticmethod
    def make_default_stages(
        depth: int, block_class: type[CNNBlockBase] | None = None, **kwargs: Any
    ) -> list[list[CNNBlockBase]]:
        """The four stages of a plain ResNet of that depth: 18, 34, 50, 101 or 152.

        Args:
            kwargs: for every block.
        """
        basic = depth in BASIC_DEPTHS
        block_class = block_class or (BasicBlock if basic else BottleneckBlock)
        in_channels, out_channels = 64, 64 if basic else 256
        stages = []
        for index, num_blocks in enumerate(BLOCKS_PER_STAGE[depth]):
            options = {} if basic else {"bottleneck_channels": out_channels // 4}
            options |= {"in_channels": in_channels, "out_channels": out_channels, **kwargs}
            strides = _strides(num_blocks, 1 if index == 0 else 2)
            stages.append(ResNet.make_stage(block_class, num_blocks, stride_per_block=strides, **options))
            in_channels, out_channels = out_channels, 2 * out_channels
        return stages


make_stage = ResNet.make_stage


def _strides(num_blocks: int, stride: int) -> list[int]:
    """Only the first block of a stage has a stride."""
    return [stride] + [1] * (num_blocks - 1)


@BACKBONE_REGISTRY.register()
def build_resnet_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNet:
    """The ResNet that `MODEL.RESNETS` describes, frozen up to `MODEL.BACKBONE.FREEZE_AT`.

    Raises:
        KeyError: an unknown depth.
        AssertionError: a dilation other than 1 and 2, or an option that ResNet-18 and 34 do not have.
    """
    options = cfg.MODEL.RESNETS
    blocks_per_stage = BLOCKS_PER_STAGE[options.DEPTH]
    assert options.RES5_DILATION in (1, 2), f"MODEL.RESNETS.RES5_DILATION must be 1 or 2, got {options.RES5_DILATION}"
    if options.DEPTH in BASIC_DEPTHS:
        assert options.RES2_OUT_CHANNELS == 64, f"MODEL.RESNETS.RES2_OUT_CHANNELS must be 64 at depth {options.DEPTH}"
        plain = not any(options.DEFORM_ON_PER_STAGE) and options.RES5_DILATION == 1 and options.NUM_GROUPS == 1
        assert plain, f"MODEL.RESNETS: depth {options.DEPTH} has no deformable convs, dilation or groups"
    stem = BasicStem(input_shape.channels, options.STEM_OUT_CHANNELS, options.NORM)
    in_channels = stem.out_channels
    stages = []
    for index, num_blocks in enumerate(blocks_per_stage):
        dilation = options.RES5_DILATION if index == 3 else 1
        stride = 1 if index == 0 or dilation > 1 else 2
        block_class, kwargs = _block_options(options, index, dilation)
        channels = {"in_channels": in_channels, "out_channels": options.RES2_OUT_CHANNELS * 2**index}
        strides = _strides(num_blocks, stride)
        stages.append(
            make_stage(block_class, num_blocks, stride_per_block=strides, norm=options.NORM, **channels, **kwargs)
        )
        in_channels = channels["out_channels"]
    return ResNet(stem, stages, out_features=options.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT)


def _block_options(options: CfgNode, index: int, dilation: int) -> tuple[type[CNNBlockBase], dict[str, Any]]:
    """The block class of stage `index` (0 is res2), and what it takes beside channels, stride and norm."""
    if options.DEPTH in BASIC_DEPTHS:
        return BasicBlock, {}
    kwargs = {
        "bottleneck_channels": options.NUM_GROUPS * options.WIDTH_PER_GROUP * 2**index,
        "num_groups": options.NUM_GROUPS,
        "stride_in_1x1": options.STRIDE_IN_1X1,
        "dilation": dilation,
    }
    if not options.DEFORM_ON_PER_STAGE[index]:
        return BottleneckBlock, kwargs
    deform = {"deform_modulated": options.DEFORM_MODULATED, "deform_num_groups": options.DEFORM_NUM_GROUPS}
    return DeformBottleneckBlock, kwargs | deform
