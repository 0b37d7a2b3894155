"""One-to-many by matching: every object stands there several times."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from defcn_ext.structures import Pairs

from .matching import Bools, Doubles, Ints, match_on_host
from .scene import Scene
from .selection import Selection
from .steps import register_step

UNMATCHED = -1e8  # as many copies as possible get a point before the quality decides


@register_step("selection", "ranks_points")
def repeated_matching(k: int = 8) -> Selection:
    """One-to-many: the matching of largest total quality in which every object stands `k` times (DDQ, section 3.3).

    Exact, as if all copies of all objects were matched with points one to one. A quality of any range does. In an image
    of G objects and R points there are `min(k, R / G)` copies of each, and at least one.

    Args:
        k: copies of an object.

    Example:
        >>> from defcn_ext.assignment import build_rule, examples
        >>> rule = build_rule("Combine(candidates=inside, quality=min_cost, selection=repeated_matching(k=3))")
        >>> pairs = rule(*examples.two_objects())
        >>> pairs.point.tolist(), pairs.object.tolist()
        ([0, 1, 8, 64, 3, 24], [0, 0, 0, 1, 1, 1])
    """
    if k < 1:
        raise ValueError(f"repeated_matching: k must be at least 1, got {k}")

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        objects_of_image = torch.bincount(scene.image)[scene.image]
        copies = (len(scene.points) // objects_of_image).clamp(1, k)[pairs.object]
        host = torch.stack([x.double() for x in (pairs.point, pairs.object, copies, quality)]).cpu().numpy()
        point, object, times = host[:3].astype(np.int64)
        chosen = match_copies(point, object, times, host[3])
        return pairs[torch.from_numpy(chosen).to(pairs.point.device, non_blocking=True)]

    return select


def match_copies(point: Ints, object: Ints, copies: Ints, quality: Doubles) -> Ints:
    """Indices, by object, of the pairs of the best matching of copies of the objects with points.

    An object keeps its best n points, where n is at least the number of copies of all objects, itself included, that
    keep one of these. Some best matching needs no other; the reason is that of `dense.everywhere`. Objects that share
    no kept point with another one have their best points without further ado.

    Args:
        point, object: (P,) who may be paired with whom; a pair may occur once.
        copies: (P,) how often the pair's object stands there, at least 1.
        quality: (P,) finite.

    Example:
        >>> point, object = np.array([7, 8, 9, 8, 9]), np.array([0, 0, 0, 1, 1])
        >>> match_copies(point, object, np.full(5, 2), np.array([0.9, 0.8, 0.1, 0.7, 0.2])).tolist()
        [0, 1, 4]
    """
    order = np.lexsort((point, -quality, object))
    if len(order) == 0:
        return order
    start = np.flatnonzero(np.diff(object[order], prepend=-1))
    row = np.repeat(np.arange(len(start)), np.diff(np.append(start, len(order))))
    rank, copies_of = np.arange(len(order)) - start[row], copies[order][start]
    kept, alone = _keep(np.unique(point[order], return_inverse=True)[1], row, rank, copies_of)
    best = alone[row] & (rank < copies_of[row])
    hard = np.flatnonzero(kept & ~alone[row])
    times = copies_of[row[hard]]
    entry = np.repeat(hard, times)
    copy = np.arange(len(entry)) - np.repeat(np.cumsum(times) - times, times)
    line = row[entry] * copies.max() + copy
    solved = match_on_host(point[order][entry], line, quality[order][entry], UNMATCHED)
    chosen: Ints = np.sort(np.concatenate([np.flatnonzero(best), entry[solved]]))
    return order[chosen]


def _keep(column: Ints, row: Ints, rank: Ints, copies: Ints) -> tuple[Bools, Bools]:
    """(P,) whether a pair can be needed, and (G,) whether an object keeps no point that another one keeps.

    Args:
        column, row, rank: (P,) point, object and rank within the object of each pair.
        copies: (G,).
    """
    count, number = np.bincount(row), copies.copy()
    while True:
        kept = rank < number[row]
        keeps = csr_matrix((np.ones(kept.sum(), dtype=np.int32), (row[kept], column[kept])))
        rivals = (keeps @ keeps.T).astype(bool)
        short = (number < rivals @ copies) & (number < count)
        if not short.any():
            return kept, rivals.getnnz(axis=1) == 1
        number[short] *= 2
