"""The best of each group of entries: the points of an object, the objects of a point."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def first_of_group(group: Tensor, quality: Tensor, tie: Tensor) -> Tensor:
    """Index of the best entry of each group; of equals the one with the smallest `tie`. Deterministic on any device.

    Args:
        group, quality, tie: (P,).

    Returns:
        one index a group that occurs, by increasing group.
    """
    if group.device.type == "cpu":
        return torch.from_numpy(first_of_group_on_host(group.numpy(), quality.numpy(), tie.numpy()))
    order, rank = ranked(group, quality, tie)
    return order[rank == 0]


def first_of_group_on_host(group: Ints, quality: Floats, tie: Ints) -> Ints:
    order: Ints = np.lexsort((tie, -quality, group))
    in_order = group[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = in_order[1:] != in_order[:-1]
    return order[first]


def ranked(group: Tensor, quality: Tensor, tie: Tensor) -> tuple[Tensor, Tensor]:
    """(P,) the entries by group, in each from the best to the worst, and (P,) their ranks from 0 on."""
    if group.device.type == "cpu":
        order = torch.from_numpy(np.lexsort((tie.numpy(), -quality.numpy(), group.numpy())))
    else:
        order = tie.argsort(stable=True)
        order = order[quality[order].argsort(descending=True, stable=True)]
        order = order[group[order].argsort(stable=True)]
    sorted_group = group[order]
    first = torch.ones_like(sorted_group, dtype=torch.bool)
    first[1:] = sorted_group[1:] != sorted_group[:-1]
    position = torch.arange(len(order), device=order.device)
    start = torch.where(first, position, 0).cummax(0).values if len(order) else position
    return order, position - start
