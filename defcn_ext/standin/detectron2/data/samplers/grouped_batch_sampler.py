"""Batches that stay within one group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data.sampler import BatchSampler, Sampler

__all__ = ["GroupedBatchSampler"]


class GroupedBatchSampler(BatchSampler):
    """Batches of indices of one group each, in the order in which they fill up.

    Incomplete batches are kept for the next pass, hence there is no length.

    Args:
        sampler: gives single indices.
        group_ids: the group of each index.
        batch_size: indices in a batch.
    """

    def __init__(self, sampler: Sampler, group_ids: Sequence[int], batch_size: int):
        if not isinstance(sampler, Sampler):
            raise ValueError(f"GroupedBatchSampler needs a Sampler, got {sampler!r}")
        self.sampler = sampler
        self.group_ids = np.asarray(group_ids)
        assert self.group_ids.ndim == 1, f"group_ids must be one-dimensional, got shape {self.group_ids.shape}"
        self.batch_size = batch_size
        self._pending: dict[int, list[int]] = defaultdict(list)

    def __iter__(self) -> Iterator[list[int]]:
        for idx in self.sampler:
            group = int(self.group_ids[idx])
            self._pending[group].append(idx)
            if len(self._pending[group]) == self.batch_size:
                yield self._pending.pop(group)

    def __len__(self) -> int:
        raise NotImplementedError("how many batches fill up is only known after the pass")
