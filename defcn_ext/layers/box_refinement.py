"""Box refinement (DW, section 3.5): each side is read again at a learned point near its own boundary."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defcn_ext.structures import Points

# Channels of the offsets, as (y, x) pairs of the left, top, right and bottom side.
NUM_OFFSETS = 8


class BoxRefinement(nn.Module):
    """Predicts an offset for the boundary point of each side, and takes the side's coordinate from there.

    >>> points = Points.from_sizes([(2, 2)], strides=[8])
    >>> boxes = points.boxes(torch.full((1, 4, 4), 3.0))
    >>> BoxRefinement(16)([torch.rand(1, 16, 2, 2)], points, boxes).shape
    torch.Size([1, 4, 4])

    Args:
        in_channels: C of the box tower.
        padding: what a boundary point beyond the map reads, "zeros" (as released) or the nearest "border".

    Raises:
        ValueError: `padding` is none of these.
    """

    def __init__(self, in_channels: int, padding: str = "zeros"):
        super().__init__()
        if padding not in ("zeros", "border"):
            raise ValueError(f"REFINE.PADDING: unknown value {padding!r}; known: 'zeros', 'border'")
        self.padding = padding
        self.offset = nn.Conv2d(in_channels, NUM_OFFSETS, 3, padding=1)
        nn.init.normal_(self.offset.weight, std=0.01)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, features: Sequence[Tensor], points: Points, boxes: Tensor) -> Tensor:
        """
        Args:
            features: (N, C, H_l, W_l) of the box tower, a tensor a level.
            points: where the boxes are predicted, one a cell.
            boxes: (N, R, 4) coarse boxes, pixels.

        Returns:
            (N, R, 4) refined boxes, pixels.
        """
        levels = boxes.split(points.counts, dim=1)
        centres = points.xy.split(points.counts)
        refined = [
            self._refine_level(self.offset(x).float(), box, xy, stride)
            for x, box, xy, stride in zip(features, levels, centres, points.strides)
        ]
        return torch.cat(refined, dim=1)

    def _refine_level(self, offset: Tensor, boxes: Tensor, xy: Tensor, stride: int) -> Tensor:
        height, width = offset.shape[-2:]
        offset = offset.permute(0, 2, 3, 1).flatten(1, 2).unflatten(-1, (4, 2)).flip(-1)  # (N, H W, side, xy)
        where = boundary_points(boxes, xy) + offset * stride
        maps = boxes.transpose(1, 2).reshape(-1, 1, height, width)  # one map a side
        # each axis by a number: a tensor of both would have to be copied to the device, which waits for it
        grid = torch.stack([where[..., 0] / (width * stride), where[..., 1] / (height * stride)], dim=-1) * 2 - 1
        grid = grid.transpose(1, 2).reshape(-1, height, width, 2)
        side = F.grid_sample(maps, grid, mode="bilinear", padding_mode=self.padding, align_corners=False)
        side = side.view(boxes.shape[0], 4, -1).transpose(1, 2)
        return torch.cat([torch.minimum(side[..., :2], xy), torch.maximum(side[..., 2:], xy)], dim=-1)


def boundary_points(boxes: Tensor, xy: Tensor) -> Tensor:
    """(N, R, 4, 2): the middle of the left, top, right and bottom side as seen from each point (DW Eq. 9), pixels."""
    x, y = xy.expand(boxes.shape[0], -1, -1).unbind(-1)
    left, top, right, bottom = boxes.unbind(-1)
    sides = [(left, y), (x, top), (right, y), (x, bottom)]
    return torch.stack([torch.stack(side, dim=-1) for side in sides], dim=-2)
