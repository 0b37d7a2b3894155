"""Step one for rules that look at all points: the best points of each object, exactly, without asking every point.

On the CPU a first look at tiles of points (tiles.py) leaves a few percent of the pairs. On the GPU, and for a quality
that tiles cannot bound, all pairs are asked. Both go a bounded number of pairs at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from defcn_ext.structures import Pairs

from .candidates import Candidates, Quality
from .groups import ranked
from .overlapping import OverlapSearch
from .scene import Scene
from .steps import register_step
from .tiles import tile_points, tile_scene

PAIRS_AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 21}  # on the CPU 512 KiB a tensor
FEW = 8  # points an object that are tried first
MANY = 32  # beyond so many, tiles leave nothing out, and all points are asked


@register_step("candidates", "by_quality")
def best_per_level(k: int = 9) -> Candidates:
    """The `k` points of highest quality on each level, over all points of the level (10-defcn, section 6).

    Levels of fewer than `k` points give all of them. A point of quality 0 still counts as one of the nine.
    """
    if k < 1:
        raise ValueError(f"best_per_level: k must be at least 1, got {k}")

    def candidates(scene: Scene, quality: Quality) -> Pairs:
        objects = torch.arange(scene.num_objects, device=scene.gt_boxes.device)
        return _complete(scene, [best_points(scene, quality, by_level=True)(objects, k)])

    return candidates


@register_step("candidates", "by_quality", "few")
def everywhere() -> Candidates:
    """All points of all levels, of which only those are kept that one-to-one matching can use.

    Let an object keep its best k points, where k is at least the number of objects, itself included, that keep one of
    these. Then some optimal matching needs no other: suppose it gives the object another point. All k are taken then,
    else there were a better one; and one of the k by an object that does not keep it, since too few do. Of that object
    the same holds, and so on around a ring, in which everyone can be given a point it keeps. So k is doubled where it
    is too small. It never has to exceed the number of objects of an image, which is taken where doubling leads too far.
    """

    def candidates(scene: Scene, quality: Quality) -> Pairs:
        objects = torch.arange(scene.num_objects, device=scene.gt_boxes.device)
        search = best_points(scene, quality)
        if objects.is_cuda:
            return _complete(scene, [search(objects, scene.num_objects)])  # k at its largest needs no copy to the host
        k, kept = FEW, [search(objects, FEW)]
        while len(objects := _contested(kept, len(scene.points))):
            if k < MANY:
                k *= 2
            elif k == MANY:
                k = max(2 * k, int(scene.image.bincount().max()))
                search = best_points(scene, quality, tiled=False)
            kept = [x[~torch.isin(x.object, objects)] for x in kept] + [search(objects, k)]
        return _complete(scene, kept)

    return candidates


def _contested(kept: list[Pairs], num_points: int) -> Tensor:
    """Objects that keep fewer points than there are objects that keep one of these, and not all points."""
    object, point = (torch.cat(x).numpy() for x in ([x.object for x in kept], [x.point for x in kept]))
    if len(object) == 0:
        return torch.from_numpy(object)
    column = np.unique(point, return_inverse=True)[1]
    keeps = csr_matrix((np.ones(len(object), dtype=np.int32), (object, column)))
    own, rivals = keeps.getnnz(axis=1), (keeps @ keeps.T).getnnz(axis=1)
    return torch.from_numpy(np.flatnonzero((rivals > own) & (own < num_points)))


def _complete(scene: Scene, kept: list[Pairs]) -> Pairs:
    """All the finds, by object."""
    covered = torch.ones(scene.num_objects, dtype=torch.bool, device=scene.gt_boxes.device)
    return replace(_joined(kept) if len(kept) > 1 else kept[0], covered=covered)


def _joined(parts: list[Pairs]) -> Pairs:
    """The pairs of all parts with their quality, by object."""
    point, object, quality = (torch.cat([getattr(x, name) for x in parts]) for name in ("point", "object", "quality"))
    return Pairs(point, object, quality=quality)[object.argsort(stable=True)]


Search = Callable[[Tensor, int], Pairs]


def best_points(scene: Scene, quality: Quality, by_level: bool = False, tiled: bool = True) -> Search:
    """The fastest way to the `k` best points of each of some objects (g,), on all levels together or on each."""
    exponent = getattr(quality, "iou_exponent", None)
    if exponent is None or scene.boxes.is_cuda:
        return _Search(scene, quality, by_level, tiled).best
    overlapping = OverlapSearch(scene, quality, exponent, by_level)

    def best(objects: Tensor, k: int) -> Pairs:
        pairs, left_out = overlapping.best(objects, k)
        if len(left_out):
            pairs = _joined([pairs, _Search(scene, quality, by_level).best(left_out, k)])
        return pairs

    return best


class _Search:
    """Finds the best points of objects, on all levels together or on each, for any quality."""

    def __init__(self, scene: Scene, quality: Quality, by_level: bool = False, tiled: bool = True):
        self.scene, self.quality = scene, quality
        self.bounded = tiled and getattr(quality, "rises_with_fit", False) and not scene.boxes.is_cuda
        if self.bounded:
            self.tiles, counts = tile_points(scene.points)
            self.tile_scene = tile_scene(scene, self.tiles)
        else:
            self.tiles, counts = (
                torch.arange(len(scene.points), device=scene.boxes.device)[:, None],
                scene.points.counts,
            )
        self.counts = counts if by_level else [len(self.tiles)]

    def best(self, objects: Tensor, k: int) -> Pairs:
        """The `k` best points of each of the objects (g,), with their quality."""
        found = [Pairs(objects[:0], objects[:0], quality=self.scene.boxes.new_zeros(0))]
        for some in self._chunks(objects):
            value = self._dense(some)
            for part, tiles in zip(value.split(self.counts, dim=1), self.tiles.split(self.counts)):
                find = self._best_in_tiles if self.bounded else self._best_points
                found.append(find(some, part, tiles, k))
        return _joined(found)

    def _chunks(self, objects: Tensor) -> list[Tensor]:
        """A bounded number of objects at a time, on the CPU of one image."""
        size = max(1, PAIRS_AT_ONCE[objects.device.type] // len(self.tiles))
        if objects.is_cuda:
            return list(objects.split(size))
        image = self.scene.image[objects]
        return [some for n in image.unique() for some in objects[image == n].split(size)]

    def _dense(self, objects: Tensor) -> Tensor:
        """(g, B) quality at every point, or its bound at every tile."""
        scene = self.tile_scene if self.bounded else self.scene
        image = scene.image[objects if objects.is_cuda else objects[:1], None]
        index = torch.arange(len(self.tiles), device=objects.device)
        return self.quality(scene, image * len(self.tiles) + index, objects[:, None])

    def _best_points(self, objects: Tensor, value: Tensor, points: Tensor, k: int) -> Pairs:
        """The best of the points (b, 1), given their quality (g, b)."""
        top = value.topk(min(k, len(points)), dim=1)
        best = points[top.indices, 0] + self.scene.image[objects, None] * len(self.scene.points)
        return Pairs(best.flatten(), objects.repeat_interleave(best.shape[1]), quality=top.values.flatten())

    def _best_in_tiles(self, objects: Tensor, bound: Tensor, tiles: Tensor, k: int) -> Pairs:
        """The best points in tiles (b, T), given a bound (g, b) of each tile's quality.

        The most promising tiles are asked first. Then only those whose bound is above the k-th best point found so far.
        """
        promising = bound.topk(min(2 * k, len(tiles)), dim=1).indices
        value, point = self._ask(objects.repeat_interleave(promising.shape[1]), tiles[promising.flatten()])
        value, point = value.view(len(objects), -1), point.view(len(objects), -1)
        top, place = value.topk(min(k, value.shape[1]), dim=1)
        least = top[:, -1] if top.shape[1] == k else top.new_full((len(objects),), -math.inf)
        row, tile = (bound.scatter(1, promising, -math.inf) > least[:, None]).nonzero().unbind(1)

        rows, values, points = [torch.arange(len(objects)).repeat_interleave(top.shape[1])], [top.flatten()], []
        points.append(point.gather(1, place).flatten())
        size = max(1, PAIRS_AT_ONCE[objects.device.type] // tiles.shape[1])
        for some, their in zip(row.split(size), tile.split(size)):
            value, point = self._ask(objects[some], tiles[their])
            better = value > least[some, None]
            rows.append(some[:, None].expand_as(value)[better])
            values.append(value[better])
            points.append(point[better])
        every_row, every_point = torch.cat(rows), torch.cat(points)
        every_value = torch.cat(values)
        order, rank = ranked(every_row, every_value, every_point)
        kept = order[(rank < k) & (every_value[order] > -math.inf)]
        return Pairs(every_point[kept], objects[every_row[kept]], quality=every_value[kept])

    def _ask(self, objects: Tensor, tiles: Tensor) -> tuple[Tensor, Tensor]:
        """(M, T) quality and batch-wide index of the points of tiles (M, T), one tile an object; -inf at no point."""
        point = self.scene.image[objects, None] * len(self.scene.points) + tiles.where(tiles >= 0, tiles[:, :1])
        value = self.quality(self.scene, point, objects[:, None])
        return value.masked_fill(tiles < 0, -math.inf), point
