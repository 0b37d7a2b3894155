"""Large pictures, tile by tile.

A detector without NMS gives one box an object in every tile, so that an object in the overlap of two tiles has two.
The merge knows three rules, and no NMS inside a tile:

1. A box that touches an inner border of its tile is a part of an object: it goes. Its object lies whole in another tile
   if it is not larger than the overlap, and else in the look at the whole picture.
2. Boxes of one class from *different* tiles that overlap by more than `iou` are one object, of which the highest score
   stays. A box stands for one box of every other tile at most: two objects behind each other, which a tile tells apart,
   stay two.
3. A box that overlaps by less, but lies inside a box of another tile by more than `inside` of its area, is a part: it
   goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .detections import Detections
from .metadata import ModelFileError

TOUCH = 2.0  # pixels from an inner border


@dataclass(frozen=True)
class Tiling:
    """
    Attributes:
        side: of a tile, pixels of the picture.
        overlap: of two neighbours, pixels; as large as the largest object that tiles should find.
        whole: look at the whole picture too, for objects that are larger.
        iou, inside: of the merge.

    Raises:
        ModelFileError: the overlap is not smaller than the side.
    """

    side: int = 800
    overlap: int = 200
    whole: bool = True
    iou: float = 0.5
    inside: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.side:
            raise ModelFileError(f"tiles of {self.side} pixels cannot overlap by {self.overlap}: make it less")


@dataclass(frozen=True)
class Tile:
    """Rows `top` to `bottom` and columns `left` to `right` of a picture of `size`."""

    top: int
    left: int
    bottom: int
    right: int
    size: tuple[int, int]

    def cut(self, picture: np.ndarray) -> np.ndarray:
        return picture[self.top : self.bottom, self.left : self.right]

    def is_whole(self, boxes: np.ndarray) -> np.ndarray:
        """Which boxes, in pixels of the tile, do not touch a border that is none of the picture."""
        x1, y1, x2, y2 = boxes.T
        height, width = self.bottom - self.top, self.right - self.left
        cut = (x1 < TOUCH) & (self.left > 0) | (y1 < TOUCH) & (self.top > 0)
        cut |= (x2 > width - TOUCH) & (self.right < self.size[1]) | (y2 > height - TOUCH) & (self.bottom < self.size[0])
        return ~cut


def tiles_of(size: tuple[int, int], tiling: Tiling) -> list[Tile]:
    """Tiles that cover a picture, the last of a row or column moved back inside it; and the picture itself."""
    height, width = size
    tiles = [
        Tile(top, left, min(top + tiling.side, height), min(left + tiling.side, width), size)
        for top in _starts(height, tiling)
        for left in _starts(width, tiling)
    ]
    return [*tiles, Tile(0, 0, height, width, size)] if tiling.whole and len(tiles) > 1 else tiles


def _starts(length: int, tiling: Tiling) -> Iterator[int]:
    step, start = tiling.side - tiling.overlap, 0
    while start + tiling.side < length:
        yield start
        start += step
    yield max(0, length - tiling.side)


def merged(found: Sequence[tuple[Tile, Detections]], size: tuple[int, int], tiling: Tiling, most: int) -> Detections:
    """The detections of a picture from those of its tiles, the best `most` of them."""
    parts, origin = [], []
    for number, (tile, detections) in enumerate(found):
        kept = detections.at(tile.is_whole(detections.boxes))
        moved = kept.boxes + np.array([tile.left, tile.top] * 2, dtype=np.float32)
        parts.append((moved, kept.scores, kept.labels))
        origin += [number] * len(kept)
    boxes, scores, labels = (np.concatenate(x) for x in zip(*parts))
    every = Detections(boxes, scores, labels, size, found[0][1].class_names)
    order = np.argsort(-scores, kind="stable")
    every, tiles = every.at(order), np.asarray(origin, dtype=int)[order]
    return every.at(_without_repeats(every, tiles, tiling)[:most])


def _without_repeats(every: Detections, tiles: np.ndarray, tiling: Tiling) -> np.ndarray:
    """Indices of those that stay, by decreasing score."""
    iou, inside = _overlaps(every.boxes)
    rivals = (tiles[:, None] != tiles) & (every.labels[:, None] == every.labels)
    parts = (rivals & (inside > tiling.inside) & (iou <= tiling.iou)).any(axis=1)
    same, kept, taken = rivals & (iou > tiling.iou), [], set()
    for index in np.flatnonzero(~parts).tolist():
        free = [other for other in kept if same[index, other] and (other, tiles[index]) not in taken]
        if free:
            taken.add((max(free, key=lambda other: iou[index, other]), tiles[index]))
        else:
            kept.append(index)
    return np.asarray(kept, dtype=int)


def _overlaps(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(M, M) IoU, and the share of the row's box that lies in the column's."""
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=2)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return common / (area[:, None] + area - common), common / area[:, None]
