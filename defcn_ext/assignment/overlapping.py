"""The best points of each object for a quality that vanishes where boxes do not overlap, on a CPU.

Of 20,000 points a few hundred predict a box that touches an object, and no other can have a quality above 0. They are
found from the boxes alone: by all boxes where there are few objects (or, of the smallest batches, not at all: there
all pairs are judged, which takes the fewest calls), else by squares of 4 x 4 cells, of which only
those are opened whose hull touches the object. Of what is found, one point in 16 is judged first, that of the largest
IoU; k of these bound the k-th best quality from below, and only points whose IoU can still reach it are judged. So most
class scores are never read, and nothing is approximate. All of it runs in numpy, whose calls cost a third of torch's;
the quality itself is the rule's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from defcn_ext.structures import Pairs

from .box_planes import NO_BOX, Floats, finite_planes, plane_iou, plane_iou_of_few
from .candidates import Quality
from .scene import Scene
from .tiles import cut_levels

Ints = NDArray[np.int64]

SMALL = 1 << 15  # pairs of object and point, up to which all are judged, which takes the fewest calls
DIRECT = 1 << 17  # pairs of object and point, up to which all boxes are compared
TILES_AT_ONCE = 1 << 17  # pairs of object and tile; 512 KiB a float32 array
OPEN_AT_ONCE = 1 << 13  # opened tiles, of 16 points each
FEW = 1 << 12  # overlapping pairs that are all judged at once
SLACK = 1e-5  # by which bounds are loosened; more than the rounding of either side
QUALITY_BITS = 31  # of a float32 that is not negative; as integers these compare like the numbers


class Found(NamedTuple):
    """Pairs, ordered by group and in each from the best to the worst. A group is an object on one set of points."""

    group: Ints
    location: Ints
    quality: Floats

    def of(self, index: Ints | NDArray[np.bool_]) -> Found:
        return Found(self.group[index], self.location[index], self.quality[index])


NOTHING = Found(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))


@dataclass(frozen=True)
class KnownOverlap(Scene):
    """A scene that is asked for certain pairs alone, whose IoU (P,) has been found already."""

    overlap: Tensor

    def iou(self, point: Tensor, object: Tensor) -> Tensor:
        return self.overlap


class OverlapSearch:
    """Finds the best points of objects, on all levels together or on each.

    Args:
        exponent: the quality is at most `IoU^exponent`, and 0 or less where the IoU is 0.
        by_level: whether every level is a set of its own.
    """

    def __init__(self, scene: Scene, quality: Quality, exponent: float, by_level: bool):
        self.scene, self.quality, self.exponent = scene, quality, exponent
        self.num_points = len(scene.points)
        counts = scene.points.counts if by_level else [self.num_points]
        self.count = np.array(counts, dtype=np.int64)
        self.start = np.cumsum(self.count) - self.count
        self.image = scene.image.numpy()
        self.gt = scene.gt_boxes.numpy().T  # (4, G)
        self.boxes, self.finite = finite_planes(scene.boxes.numpy(), self.num_points)  # (N, 4, R)

    def best(self, objects: Tensor, k: int) -> tuple[Pairs, Tensor]:
        """
        Args:
            objects: (g,) increasing.
            k: points an object and set; sets of fewer give all of them.

        Returns:
            the pairs with their quality, by object; and the objects among those given that are left out, because
            predictions that are not finite stand among the points of quality 0.
        """
        some = objects.numpy()
        if len(some) * self.num_points <= SMALL and self.finite:
            return self._of_all(some, k), objects[:0]
        if len(some) * self.num_points <= DIRECT:
            found = self._direct(some, k)
        else:
            found = self._tiled(some, k)
        found, left_out = self._filled(some, found, k)
        index, point = self._indices(some, found.group, found.location)
        pairs = Pairs(point, index, quality=torch.from_numpy(found.quality))
        return pairs, objects[torch.from_numpy(left_out)]

    def _of_all(self, objects: Ints, k: int) -> Pairs:
        """All points are judged, and those of an object sorted by set, then quality, then location."""
        image = self.image[objects]
        iou = plane_iou_of_few(self.boxes[image].transpose(1, 0, 2), self.gt[:, objects, None])
        first, place, picked = _columns(tuple(self.count.tolist()), k)
        begin = (image * self.num_points)[:, None]
        point = begin + np.arange(self.num_points)
        scene = KnownOverlap(**vars(self.scene), overlap=torch.from_numpy(iou))
        index = torch.from_numpy(objects)
        quality = self.quality(scene, torch.from_numpy(point), index[:, None]).numpy()
        bits = quality.view(np.int32).astype(np.int64)
        bits <<= place
        key = first - bits
        key.sort(axis=1)
        location = key[:, picked] & ((1 << place) - 1)
        best = quality[np.arange(len(objects))[:, None], location].ravel()
        location += begin
        return Pairs(
            torch.from_numpy(location.ravel()),
            torch.from_numpy(objects.repeat(len(picked))),
            quality=torch.from_numpy(best),
        )

    def _direct(self, objects: Ints, k: int) -> Found:
        boxes = self.boxes[self.image[objects]].transpose(1, 0, 2)
        iou = plane_iou(boxes, self.gt[:, objects, None]).ravel()
        hit = np.flatnonzero(iou)
        row, location = np.divmod(hit, self.num_points)
        group = row
        if len(self.start) > 1:
            group = row * len(self.start) + self.scene.points.level.numpy()[location]
        return self._best_of_touching(objects, group, location, iou[hit], k)

    def _tiled(self, objects: Ints, k: int) -> Found:
        """Image by image, a bounded number of tiles at a time; every group is complete in one part."""
        cut, found = _tiles(self.scene.points.sizes, self.scene.points.per_cell), []
        set_of_tile = np.searchsorted(self.start, cut[:, 0], side="right") - 1
        image = self.image[objects]
        for n in np.unique(image):
            planes = np.append(self.boxes[n], NO_BOX, axis=1)
            tiles = planes[:, cut]  # (4, B, 16)
            hull = *tiles[:2].min(2), *tiles[2:].max(2)
            rows = np.flatnonzero(image == n)
            for part in np.array_split(rows, -(-len(rows) * len(cut) // TILES_AT_ONCE)):
                row, tile = self._touched(objects[part], hull)
                for opened in _parts(row, OPEN_AT_ONCE):
                    mine, its = part[row[opened]], tile[opened]
                    iou = plane_iou(tiles[:, its], self.gt[:, objects[mine], None])
                    hit = np.flatnonzero(iou)
                    group = (mine * len(self.start) + set_of_tile[its])[hit // cut.shape[1]]
                    location, overlap = cut[its].ravel()[hit], iou.ravel()[hit]
                    found.append(self._best_of_touching(objects, group, location, overlap, k))
        whole = _joined([NOTHING, *found])
        return whole.of(np.argsort(whole.group, kind="stable"))  # objects come image by image

    def _touched(self, objects: Ints, hull: tuple[Floats, ...]) -> tuple[Ints, Ints]:
        """Row into the objects, and tile, wherever the tile's hull touches the object; by row."""
        x1, y1, x2, y2 = self.gt[:, objects, None]
        touched = hull[0] < x2
        touched &= hull[1] < y2
        touched &= hull[2] > x1
        touched &= hull[3] > y1
        return np.divmod(np.flatnonzero(touched), len(hull[0]))

    def _best_of_touching(self, objects: Ints, group: Ints, location: Ints, iou: Floats, k: int) -> Found:
        """The best of pairs that overlap, which are ordered by group."""
        if len(group) > FEW:
            some = _best_of_each_16(group, iou)
            quality = self._judge(objects, group[some], location[some], iou[some])
            least = self._least(group[some], location[some], quality, k)
            needed = (least.astype(np.float64) ** (1 / self.exponent) * (1 - SLACK)).astype(np.float32)
            chosen = np.flatnonzero(iou >= needed[group])
            group, location, iou = group[chosen], location[chosen], iou[chosen]
        return self._best_of(group, location, self._judge(objects, group, location, iou), k)

    def _least(self, group: Ints, location: Ints, quality: Floats, k: int) -> Floats:
        """(groups,) the k-th best quality of each group so far, 0 where there are fewer."""
        top = self._best_of(group, location, quality, k)
        least = np.zeros(int(group.max()) + 1, dtype=np.float32)
        full = np.flatnonzero(top.group[k - 1 :] == top.group[: max(0, len(top.group) - k + 1)])
        least[top.group[full]] = top.quality[full + k - 1]
        return least

    def _best_of(self, group: Ints, location: Ints, quality: Floats, k: int) -> Found:
        """The k best pairs above 0 of each group; of equals those of the smallest location."""
        if not (quality > 0).all():
            positive = np.flatnonzero(quality > 0)
            group, location, quality = group[positive], location[positive], quality[positive]
        place = int(self.num_points).bit_length()
        if len(group) and int(group.max()).bit_length() + QUALITY_BITS + place < 64:
            worse = np.int64((1 << QUALITY_BITS) - 1) - quality.view(np.int32)
            key = np.sort((group << np.int64(QUALITY_BITS + place)) | (worse << np.int64(place)) | location)
            group, location = key >> np.int64(QUALITY_BITS + place), key & np.int64((1 << place) - 1)
            bits = np.int64((1 << QUALITY_BITS) - 1) - ((key >> np.int64(place)) & np.int64((1 << QUALITY_BITS) - 1))
            quality = bits.astype(np.int32).view(np.float32)
        else:
            order = np.lexsort((location, -quality, group))
            group, location, quality = group[order], location[order], quality[order]
        kept = np.ones(len(group), dtype=bool)
        kept[k:] = group[k:] != group[: max(0, len(group) - k)]
        return Found(group, location, quality).of(kept)

    def _filled(self, objects: Ints, found: Found, k: int) -> tuple[Found, Ints]:
        """With points of quality 0 where a group has fewer than k above it, the first of the set that are not in it.

        Returns:
            what is found now, and the rows of objects that are left out.
        """
        wanted = np.tile(np.minimum(self.count, k), len(objects))
        lacking = wanted - np.bincount(found.group, minlength=len(wanted))
        short = np.flatnonzero(lacking)
        if len(short) == 0:
            return found, short
        free = np.arange(k) < wanted[short, None]
        slot = np.full(len(wanted), -1)
        slot[short] = np.arange(len(short))
        offset, mine = found.location - self.start[found.group % len(self.start)], slot[found.group]
        early = np.flatnonzero((mine >= 0) & (offset < k))
        free[mine[early], offset[early]] = False
        free &= free.cumsum(1) <= lacking[short, None]
        which, offset = free.nonzero()
        group = short[which]
        location = self.start[group % len(self.start)] + offset
        index, point = self._indices(objects, group, location)
        spoilt = self.scene.boxes[point].sum(1) + self.scene.score(point, index)
        left_out = np.unique(group[~np.isfinite(spoilt.numpy())] // len(self.start))
        every = _joined([found, Found(group, location, np.zeros(len(group), dtype=np.float32))])
        order = np.argsort(every.group, kind="stable")
        if len(left_out):
            order = order[~np.isin(every.group[order] // len(self.start), left_out)]
        return every.of(order), left_out

    def _judge(self, objects: Ints, group: Ints, location: Ints, iou: Floats) -> Floats:
        index, point = self._indices(objects, group, location)
        scene = KnownOverlap(**vars(self.scene), overlap=torch.from_numpy(iou))
        judged: Floats = self.quality(scene, point, index).numpy()
        return judged

    def _indices(self, objects: Ints, group: Ints, location: Ints) -> tuple[Tensor, Tensor]:
        """Object and batch-wide point of pairs."""
        index = objects[group // len(self.start)]
        return torch.from_numpy(index), torch.from_numpy(location + self.image[index] * self.num_points)


def _joined(parts: list[Found]) -> Found:
    return Found(
        np.concatenate([x.group for x in parts]),
        np.concatenate([x.location for x in parts]),
        np.concatenate([x.quality for x in parts]),
    )


@lru_cache(maxsize=64)
def _columns(counts: tuple[int, ...], k: int) -> tuple[Ints, int, Ints]:
    """For `_of_all`: what its keys begin with, the bits of a location, and the places of the best when it has sorted.

    A quality of no bits, which is 0, is the largest of its set but for those below 0.
    """
    total = sum(counts)
    place = total.bit_length()
    set_of_point = np.repeat(np.arange(len(counts)), counts)
    start = np.cumsum(counts) - counts
    picked = np.concatenate([a + np.arange(min(k, count)) for a, count in zip(start, counts)])
    return (set_of_point << (place + QUALITY_BITS + 2)) + np.arange(total), place, picked


@lru_cache(maxsize=64)
def _tiles(sizes: tuple[tuple[int, int], ...], per_cell: int) -> Ints:
    """(B, T) the points of each tile, as `cut_levels`; the number of points where a tile juts out."""
    tiles: Ints = cut_levels(sizes, per_cell)[0].numpy()
    return np.where(tiles < 0, sum(h * w for h, w in sizes) * per_cell, tiles)


def _best_of_each_16(group: Ints, value: Floats) -> Ints:
    """Index of the largest of every 16 entries in a row, or of fewer where a group ends; `group` increases."""
    index = np.arange(len(group))
    first = np.flatnonzero(np.diff(group, prepend=-1))
    within = index - first.repeat(np.diff(first, append=len(group)))
    key = (value.view(np.int32).astype(np.int64) << np.int64(32)) | index
    best: Ints = np.maximum.reduceat(key, np.flatnonzero(within & 15 == 0)) & np.int64((1 << 32) - 1)
    return best


def _parts(row: Ints, size: int) -> list[slice]:
    """Slices of an increasing array, none much longer than `size`, that leave equal entries together."""
    last = np.flatnonzero(np.diff(row, append=-1)) + 1
    ends = last[np.flatnonzero(np.diff(last // size, append=-1))]
    return [slice(int(a), int(b)) for a, b in zip([0, *ends[:-1]], ends)]
