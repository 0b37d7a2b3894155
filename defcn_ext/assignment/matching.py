"""Exact one-to-one matching on sparse candidate pairs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

Ints = NDArray[np.int64]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]


def match_pairs(point: Tensor, object: Tensor, quality: Tensor, *, invalid: float = -1.0) -> Tensor:
    """Picks the pairs of the one-to-one matching of largest total quality.

    The optimum is the one of `scipy.optimize.linear_sum_assignment` on the full (objects x points) matrix in which
    every other pair has the value `invalid`, less those other pairs. Leaving an object unmatched is worth `invalid`;
    a pair below `invalid` is never taken.

    The pairs travel to the host in one copy and are solved for the whole batch at once.

    Args:
        point, object: (P,) who may be paired with whom; a pair may occur once.
        quality: (P,) finite.
        invalid: value of the pairs that are not listed.

    Returns:
        (M,) indices into the pairs, by increasing object; no point and no object twice.

    Raises:
        ValueError: a quality is not finite.

    Example:
        >>> point, object = torch.tensor([7, 8, 7]), torch.tensor([0, 0, 1])
        >>> match_pairs(point, object, torch.tensor([0.9, 0.8, 0.5]))  # both want point 7
        tensor([1, 2])
    """
    host = torch.stack([point.double(), object.double(), quality.double()]).cpu().numpy()
    chosen = match_on_host(host[0].astype(np.int64), host[1].astype(np.int64), host[2], invalid)
    return torch.from_numpy(chosen).to(point.device, non_blocking=True)


def match_on_host(point: Ints, object: Ints, quality: Doubles, invalid: float) -> Ints:
    """`match_pairs` on numpy arrays. Equal qualities go to the pair of the smaller point index where that is free."""
    if not np.isfinite(quality).all():
        raise ValueError("match_pairs: a quality is not finite; give such pairs the worst quality first")
    order = np.lexsort((point, object))
    order = order[quality[order] >= invalid]
    if len(order) == 0:
        return order
    objects, row = np.unique(object[order], return_inverse=True)
    points, column = np.unique(point[order], return_inverse=True)
    gain = quality[order] - _affordable(quality[order], invalid, len(objects))

    best = _best_of_each_row(row, gain)
    if len(np.unique(column[best])) == len(best):
        return order[best]  # every object has its favourite point to itself: nothing can be better
    return order[_assign(row, column, gain, len(objects), len(points))]


def _affordable(quality: Doubles, invalid: float, num_objects: int) -> float:
    """A price of leaving an object out as small as the matching allows.

    Once it outweighs every rearrangement of the others, a lower `invalid` (such as -1e8) changes nothing but the
    precision of the sums.
    """
    spread = quality.max() - quality.min()
    return max(invalid, float(quality.min() - (num_objects + 1) * (spread + 1)))


def _best_of_each_row(row: Ints, gain: Doubles) -> Ints:
    """Index of the largest gain in each row, the first of equals; `row` ascends."""
    start = np.flatnonzero(np.diff(row, prepend=-1))
    largest = np.maximum.reduceat(gain, start)
    hits = np.flatnonzero(gain == largest[row])
    return hits[np.flatnonzero(np.diff(row[hits], prepend=-1))]


def _assign(row: Ints, column: Ints, gain: Doubles, num_rows: int, num_columns: int) -> Ints:
    """Solves the assignment with the Jonker-Volgenant algorithm on sparse rows; each row may stay alone, at gain 0."""
    count = np.bincount(row, minlength=num_rows)
    # One private extra column a row stands for "unmatched". All costs are shifted to be positive, since the sparse
    # solver takes zeros for missing entries; every row is matched once, so the shift does not move the optimum.
    highest = gain.max() + 1.0
    end = np.cumsum(count)
    cost = np.insert(highest - gain, end, highest)
    columns = np.insert(column, end, num_columns + np.arange(num_rows))
    pointer = np.concatenate([[0], end + np.arange(1, num_rows + 1)])
    matrix = csr_matrix((cost, columns, pointer), shape=(num_rows, num_columns + num_rows))
    rows, matched = min_weight_full_bipartite_matching(matrix)
    real = matched < num_columns
    width = num_columns + 1
    chosen: Ints = np.searchsorted(row * width + column, rows[real] * width + matched[real])
    return chosen
