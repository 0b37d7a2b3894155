"""Anchor boxes on the feature maps."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, RotatedBoxes
from detectron2.utils.registry import Registry

ANCHOR_GENERATOR_REGISTRY = Registry("ANCHOR_GENERATOR")
ANCHOR_GENERATOR_REGISTRY.__doc__ = """Modules that make anchors. Called with `(cfg, input_shape: list[ShapeSpec])`."""


class BufferList(nn.Module):
    """Tensors that follow the module from device to device and stay out of the state dict."""

    def __init__(self, buffers: Sequence[torch.Tensor]) -> None:
        super().__init__()
        for i, buffer in enumerate(buffers):
            self.register_buffer(str(i), buffer, persistent=False)

    def __len__(self) -> int:
        return len(self._buffers)

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self._buffers.values())


@ANCHOR_GENERATOR_REGISTRY.register()
class DefaultAnchorGenerator(nn.Module):
    """The same boxes around every cell of a feature map: for each size, for each aspect ratio.

    Args:
        sizes: square roots of the anchor areas, in pixels: one list a level, or one list for all levels.
        aspect_ratios: height / width, given like `sizes`.
        strides: of each level, in pixels.
        offset: position of the anchors' centre in a cell, in strides: 0 its top left corner, 0.5 its middle.
    """

    box_dim: int = 4

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]] | Sequence[float],
        aspect_ratios: Sequence[Sequence[float]] | Sequence[float],
        strides: Sequence[int],
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        assert 0.0 <= offset < 1.0, f"offset must be in [0, 1), got {offset}"
        self.strides = list(strides)
        self.offset = offset
        per_level = zip(_per_level(sizes, len(strides), "sizes"), _per_level(aspect_ratios, len(strides), "ratios"))
        self.cell_anchors = BufferList([self.generate_cell_anchors(*level) for level in per_level])

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict:
        return {
            "sizes": cfg.MODEL.ANCHOR_GENERATOR.SIZES,
            "aspect_ratios": cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS,
            "strides": [shape.stride for shape in input_shape],
            "offset": cfg.MODEL.ANCHOR_GENERATOR.OFFSET,
        }

    @property
    @torch.jit.unused
    def num_anchors(self) -> list[int]:
        """Anchors a cell, per level."""
        return [len(cell) for cell in self.cell_anchors]

    @property
    @torch.jit.unused
    def num_cell_anchors(self) -> list[int]:
        """The same as `num_anchors`."""
        return self.num_anchors

    def generate_cell_anchors(
        self, sizes: Sequence[float] = (32, 64, 128, 256, 512), aspect_ratios: Sequence[float] = (0.5, 1, 2)
    ) -> torch.Tensor:
        """(len(sizes) * len(aspect_ratios), 4) boxes around the origin."""
        anchors = []
        for size in sizes:
            for ratio in aspect_ratios:
                half_width = math.sqrt(size**2 / ratio) / 2
                half_height = half_width * ratio
                anchors.append([-half_width, -half_height, half_width, half_height])
        return torch.tensor(anchors)

    def forward(self, features: list[torch.Tensor]) -> list[Boxes]:
        """The anchors of each feature map (N, C, H, W): H * W * A boxes, row by row, the anchors of a cell together."""
        anchors: list[Boxes] = []
        cells = [buffer for _, buffer in self.cell_anchors.named_buffers()]  # the form that TorchScript knows
        for feature, stride, cell in zip(features, self.strides, cells):
            x, y = _cell_positions(feature, stride, self.offset)
            shifts = torch.stack([x, y, x, y], dim=-1).to(cell)
            anchors.append(Boxes((shifts[:, :, None] + cell).reshape(-1, 4)))
        return anchors


@ANCHOR_GENERATOR_REGISTRY.register()
class RotatedAnchorGenerator(nn.Module):
    """The same rotated boxes around every cell of a feature map: for each size, each aspect ratio, each angle.

    Args:
        sizes, aspect_ratios, strides, offset: as for `DefaultAnchorGenerator`.
        angles: degrees counterclockwise, given like `sizes`.
    """

    box_dim: int = 5

    @configurable
    def __init__(
        self,
        *,
        sizes: Sequence[Sequence[float]] | Sequence[float],
        aspect_ratios: Sequence[Sequence[float]] | Sequence[float],
        strides: Sequence[int],
        angles: Sequence[Sequence[float]] | Sequence[float],
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        assert 0.0 <= offset < 1.0, f"offset must be in [0, 1), got {offset}"
        self.strides = list(strides)
        self.offset = offset
        lists = {"sizes": sizes, "ratios": aspect_ratios, "angles": angles}
        per_level = zip(*(_per_level(values, len(strides), what) for what, values in lists.items()))
        self.cell_anchors = BufferList([self.generate_cell_anchors(*level).float() for level in per_level])

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict:
        return {
            **DefaultAnchorGenerator.from_config(cfg, input_shape),
            "angles": cfg.MODEL.ANCHOR_GENERATOR.ANGLES,
        }

    @property
    @torch.jit.unused
    def num_anchors(self) -> list[int]:
        """Anchors a cell, per level."""
        return [len(cell) for cell in self.cell_anchors]

    @property
    @torch.jit.unused
    def num_cell_anchors(self) -> list[int]:
        """The same as `num_anchors`."""
        return self.num_anchors

    def generate_cell_anchors(
        self,
        sizes: Sequence[float] = (32, 64, 128, 256, 512),
        aspect_ratios: Sequence[float] = (0.5, 1, 2),
        angles: Sequence[float] = (-90, -60, -30, 0, 30, 60, 90),
    ) -> torch.Tensor:
        """(len(sizes) * len(aspect_ratios) * len(angles), 5) boxes around the origin."""
        upright = [(math.sqrt(size**2 / ratio), ratio) for size in sizes for ratio in aspect_ratios]
        return torch.tensor([[0, 0, width, width * ratio, angle] for width, ratio in upright for angle in angles])

    def forward(self, features: list[torch.Tensor]) -> list[RotatedBoxes]:
        """The anchors of each feature map (N, C, H, W), ordered like those of `DefaultAnchorGenerator`."""
        anchors = []
        for feature, stride, cell in zip(features, self.strides, self.cell_anchors):
            x, y = _cell_positions(feature, stride, self.offset)
            zero = torch.zeros_like(x)
            shifts = torch.stack([x, y, zero, zero, zero], dim=-1).to(cell)
            anchors.append(RotatedBoxes((shifts[:, :, None] + cell).reshape(-1, self.box_dim)))
        return anchors


def build_anchor_generator(cfg: CfgNode, input_shape: list[ShapeSpec]) -> nn.Module:
    """The registered generator named by `MODEL.ANCHOR_GENERATOR.NAME`."""
    return ANCHOR_GENERATOR_REGISTRY.get(cfg.MODEL.ANCHOR_GENERATOR.NAME)(cfg, input_shape)


def _cell_positions(feature: torch.Tensor, stride: int, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y, each (H, W) in pixels, of the anchors' centres on a feature map (N, C, H, W)."""
    y = (torch.arange(feature.shape[-2], device=feature.device, dtype=torch.float32) + offset) * stride
    x = (torch.arange(feature.shape[-1], device=feature.device, dtype=torch.float32) + offset) * stride
    y, x = torch.meshgrid(y, x, indexing="ij")
    return x, y


def _per_level(values: Sequence, num_levels: int, what: str) -> Sequence[Sequence[float]]:
    """One list a level, from that, from a list of one list, or from a plain list of numbers."""
    assert len(values) > 0, f"anchor {what} must not be empty"
    lists = values if isinstance(values[0], Sequence) else [values]
    if len(lists) == 1:
        lists = list(lists) * num_levels
    assert len(lists) == num_levels, f"anchor {what}: {len(lists)} lists for {num_levels} levels"
    return lists
