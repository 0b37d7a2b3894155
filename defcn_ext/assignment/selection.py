"""Step three: which of the candidates count.

A selection step takes the scene, the candidates ordered by object, and their quality (P,), and returns the pairs that
stay. After it, no point serves two objects.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from defcn_ext.structures import Pairs

from .matching import match_pairs
from .scene import Scene

Selection = Callable[[Scene, Pairs, Tensor], Pairs]


def matching(invalid: float = -1.0) -> Selection:
    """One-to-one: the matching of largest total quality (DeFCN Eq. 3), exact.

    Args:
        invalid: what leaving an object out is worth. For a quality in [0, 1]: with -1 (DeFCN) as many objects as
            possible get a point before the quality decides; with 0 (DATE) the quality alone decides. A quality of
            another range wants a lower value, since pairs below it are never taken.
    """

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        return pairs[match_pairs(pairs.point, pairs.object, quality, invalid=invalid)]

    return select


def top_of_object() -> Selection:
    """One-to-one without matching ("argmax"): each object takes its best point; if two want one point, the better wins.

    The loser gets no positive (DeFCN, section 3.1, "POTO argmax").
    """

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        best = first_of_group(pairs.object, quality, pairs.point)
        return _one_object_a_point(pairs[best], quality[best])

    return select


def best_of_point() -> Selection:
    """One-to-many: every candidate counts; a point wanted by several objects goes to the best of them."""

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        return _one_object_a_point(pairs, quality)

    return select


def mean_plus_std(inside: bool = True) -> Selection:
    """One-to-many: candidates at least as good as mean + standard deviation of their object's candidates.

    The threshold of ATSS (Zhang et al. 2020), with the unbiased deviation, on any quality (10-defcn, section 6). It
    is taken over all candidates; only then those outside the box are dropped. A quality of 0 never counts. A point
    wanted by several objects goes to the best of them.
    """

    def select(scene: Scene, pairs: Pairs, quality: Tensor) -> Pairs:
        keep = (quality >= _thresholds(scene, pairs, quality)[pairs.object]) & (quality > 0)
        if inside:
            keep &= scene.ltrb(pairs.point, pairs.object).amin(-1) > 0
        return _one_object_a_point(pairs[keep], quality[keep])

    return select


def _thresholds(scene: Scene, pairs: Pairs, quality: Tensor) -> Tensor:
    """(G,) mean + unbiased standard deviation of each object's candidates; one candidate has deviation 0."""
    zeros = torch.zeros(scene.num_objects, dtype=torch.float64, device=quality.device)
    value = quality.double()
    count = zeros.index_add(0, pairs.object, torch.ones_like(value))
    mean = zeros.index_add(0, pairs.object, value) / count.clamp(min=1)
    squares = zeros.index_add(0, pairs.object, (value - mean[pairs.object]).square())
    return (mean + (squares / (count - 1).clamp(min=1)).sqrt()).float()


def _one_object_a_point(pairs: Pairs, quality: Tensor) -> Pairs:
    kept = first_of_group(pairs.point, quality, pairs.object).sort().values
    return pairs[kept]


def first_of_group(group: Tensor, quality: Tensor, tie: Tensor) -> Tensor:
    """Index of the best entry of each group; of equals the one with the smallest `tie`. Deterministic on any device.

    Args:
        group, quality, tie: (P,).

    Returns:
        one index a group that occurs, by increasing group.
    """
    order = tie.argsort(stable=True)
    order = order[quality[order].argsort(descending=True, stable=True)]
    order = order[group[order].argsort(stable=True)]
    sorted_group = group[order]
    first = torch.ones_like(sorted_group, dtype=torch.bool)
    first[1:] = sorted_group[1:] != sorted_group[:-1]
    return order[first]
