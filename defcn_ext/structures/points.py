"""The locations that predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def recording() -> bool:
    """Whether torch records a graph now: what is kept from this call, or read off it as a number, would freeze it."""
    return bool(torch.jit.is_tracing() or torch.compiler.is_compiling())  # type: ignore[attr-defined, no-untyped-call]


@dataclass(frozen=True, eq=False)
class Points:
    """The locations that predict, level by level, row-major inside a level.

    >>> points = Points.from_sizes([(2, 3), (1, 2)], strides=[8, 16])
    >>> len(points), points.counts, points.xy[4].tolist(), points.xy[7].tolist()
    (8, [6, 2], [12.0, 12.0], [24.0, 8.0])
    >>> box = points.boxes(torch.tensor([4.0, 4, 4, 4]))[4]
    >>> box.tolist()
    [8.0, 8.0, 16.0, 16.0]
    >>> points.ltrb(box)[4].tolist()
    [4.0, 4.0, 4.0, 4.0]

    With anchors, every anchor is a point: it has scores, a box and a target of its own, in assignment, losses and
    inference alike. What several anchors a cell cannot do: candidates that ask how a point lies (`center`, `inside`,
    `near`, `nearest_per_level`, `best_squares`) know one point a cell, so that only `overlapping_anchors` and those
    over all points serve anchors; and 3D Max Filtering wants a map with one point a cell. Only `thresholds`, made for
    anchors, ignores points (`Pairs.ignored`); losses of any branch leave these out.

    Attributes:
        xy: (R, 2) centre of each cell, pixels of the network input.
        stride: (R,) stride of the point's level, pixels.
        level: (R,) index of the point's level, the finest is 0.
        sizes: (height, width) of each level, in cells.
        strides: stride of each level, pixels.
        offset: position of the point inside its cell, as a share of the cell.
        per_cell: number of points of each cell, cell by cell; more than one only for anchors.
        anchors: (R, 4) box of each point, pixels, or None where points have none.
        cells: (height, width) of a cell of each level, pixels; () where these are the strides.
    """

    xy: Tensor
    stride: Tensor
    level: Tensor
    sizes: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]
    offset: float = 0.5
    per_cell: int = 1
    anchors: Tensor | None = None
    cells: tuple[tuple[int, int], ...] = ()

    @classmethod
    def from_sizes(
        cls,
        sizes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        *,
        offset: float = 0.5,
        fill: bool = False,
        device: torch.device | str | None = None,
    ) -> Points:
        """Lays a point into every cell of every level: `(x, y) = ((column + offset) stride, (row + offset) stride)`.

        Args:
            fill: cells are not a stride wide and high but the image's width and height divided by their number, rounded
                down. Of an image 800 high P7, of 7 rows, has them 114 pixels apart then (torchvision).

        Raises:
            ValueError: `sizes` and `strides` differ in length, or a level has no cells.
        """
        if len(sizes) != len(strides):
            raise ValueError(f"{len(sizes)} level sizes but {len(strides)} strides: give one stride a level")
        if not recording() and any(h < 1 or w < 1 for h, w in sizes):
            raise ValueError(f"every level needs at least one cell, got sizes {list(sizes)}")
        cells = _filling(sizes, strides) if fill else ()
        xy, stride, level = [], [], []
        for index, ((h, w), s) in enumerate(zip(sizes, strides)):
            high, wide = cells[index] if cells else (s, s)
            y = (torch.arange(h, device=device, dtype=torch.float32) + offset) * high
            x = (torch.arange(w, device=device, dtype=torch.float32) + offset) * wide
            grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
            xy.append(torch.stack([grid_x, grid_y], dim=-1).reshape(-1, 2))
            stride.append(torch.full((h * w,), float(s), device=device))
            level.append(torch.full((h * w,), index, device=device, dtype=torch.long))
        every_size = tuple((h, w) for h, w in sizes)
        joined = torch.cat(xy), torch.cat(stride), torch.cat(level)
        return cls(*joined, every_size, tuple(strides), offset, cells=cells)

    @classmethod
    def with_anchors(
        cls,
        sizes: Sequence[tuple[int, int]],
        strides: Sequence[int],
        shapes: Tensor,
        *,
        offset: float = 0.0,
        fill: bool = False,
        device: torch.device | str | None = None,
    ) -> Points:
        """Lays A anchors into every cell of every level, each a point of its own: R = A times the number of cells.

        Args:
            shapes: (A, 2) width and height of the anchors of a cell, in strides; or (L, A, 2), those of each level.
            fill: as in `from_sizes`.
        """
        cells = cls.from_sizes(sizes, strides, offset=offset, fill=fill, device=device)
        every = shapes.to(cells.xy)
        half = (every if every.dim() == 2 else every[cells.level]) * cells.stride[:, None, None] / 2
        corners = torch.cat([cells.xy[:, None] - half, cells.xy[:, None] + half], dim=-1)
        count = shapes.shape[-2]
        xy, stride, level = (x.repeat_interleave(count, dim=0) for x in (cells.xy, cells.stride, cells.level))
        anchors = corners.flatten(0, 1)
        return cls(xy, stride, level, cells.sizes, cells.strides, offset, count, anchors, cells.cells)

    def __len__(self) -> int:
        return len(self.xy)

    @property
    def counts(self) -> list[int]:
        """Number of points of each level."""
        return [h * w * self.per_cell for h, w in self.sizes]

    @property
    def steps(self) -> Tensor:
        """(L, 2) how far apart the points of each level lie, (x, y) pixels."""
        steps = [(wide, high) for high, wide in self.cells] or [(s, s) for s in self.strides]
        return torch.tensor(steps, dtype=torch.float32, device=self.xy.device)

    @property
    def starts(self) -> Tensor:
        """(L,) index of the first point of each level."""
        return torch.tensor([0, *self.counts[:-1]], device=self.xy.device).cumsum(0)

    def boxes(self, ltrb: Tensor) -> Tensor:
        """Turns distances (..., R, 4) to the left, top, right and bottom side, in pixels, into boxes (..., R, 4)."""
        return torch.cat([self.xy - ltrb[..., :2], self.xy + ltrb[..., 2:]], dim=-1)

    def ltrb(self, boxes: Tensor) -> Tensor:
        """The inverse of `boxes`: distances (..., R, 4) from each point to the sides of its box, negative outside.

        Args:
            boxes: (..., R, 4), or one box (4,) for all points.
        """
        return torch.cat([self.xy - boxes[..., :2], boxes[..., 2:] - self.xy], dim=-1)


def _filling(sizes: Sequence[tuple[int, int]], strides: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(height, width) of the cells of each level, in whole pixels, whose rows and columns fill the finest level."""
    extent = [side * strides[0] for side in sizes[0]]
    return tuple((extent[0] // h, extent[1] // w) for h, w in sizes)
