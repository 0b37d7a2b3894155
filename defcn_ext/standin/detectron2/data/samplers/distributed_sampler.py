"""Samplers whose streams are split over the worker processes of a distributed run."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data.sampler import Sampler

from detectron2.utils import comm

__all__ = ["TrainingSampler", "RandomSubsetTrainingSampler", "InferenceSampler", "RepeatFactorTrainingSampler"]

logger = logging.getLogger(__name__)


class _EndlessSampler(Sampler):
    """An endless stream of epochs, the same on all ranks, of which rank r of w takes items r, r + w, ...

    Children say what an epoch is. `seed=None` draws a seed that all ranks share.
    """

    def __init__(self, shuffle: bool, seed: int | None):
        self._shuffle = shuffle
        self._seed = int(comm.shared_random_seed() if seed is None else seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        """The indices of the next epoch, (n,), drawn from `generator`."""
        raise NotImplementedError

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        while True:
            yield from self._epoch(generator).tolist()

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self._stream(), self._rank, None, self._world_size)


class TrainingSampler(_EndlessSampler):
    """All indices, in a new order each epoch.

    Raises:
        TypeError: `size` is not an int.
        ValueError: `size` is not positive.
    """

    def __init__(self, size: int, shuffle: bool = True, seed: int | None = None):
        if not isinstance(size, int):
            raise TypeError(f"TrainingSampler: size must be an int, got {type(size).__name__}")
        if size <= 0:
            raise ValueError(f"TrainingSampler: size must be positive, got {size}")
        super().__init__(shuffle, seed)
        self._size = size

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        return torch.randperm(self._size, generator=generator) if self._shuffle else torch.arange(self._size)


class RandomSubsetTrainingSampler(TrainingSampler):
    """A random part of the indices, the same part each epoch.

    Args:
        size: length of the data set.
        subset_ratio: the part, in (0, 1]; rounded down to whole items.
        shuffle: whether each epoch has a new order.
        seed_shuffle: seed of the order.
        seed_subset: seed of the choice.

    Raises:
        AssertionError: the ratio is outside (0, 1] or leaves nothing.
    """

    def __init__(
        self,
        size: int,
        subset_ratio: float,
        shuffle: bool = True,
        seed_shuffle: int | None = None,
        seed_subset: int | None = None,
    ):
        super().__init__(size, shuffle, seed_shuffle)
        assert 0.0 < subset_ratio <= 1.0, f"subset_ratio must be in (0, 1], got {subset_ratio}"
        subset_size = int(size * subset_ratio)
        assert subset_size > 0, f"subset_ratio {subset_ratio} of {size} items leaves none"
        generator = torch.Generator()
        generator.manual_seed(int(comm.shared_random_seed() if seed_subset is None else seed_subset))
        self._subset = torch.randperm(size, generator=generator)[:subset_size]
        logger.info("Training on a random subset: %d of %d items", subset_size, size)

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        if not self._shuffle:
            return self._subset
        return self._subset[torch.randperm(len(self._subset), generator=generator)]


class RepeatFactorTrainingSampler(_EndlessSampler):
    """Each index as often as its factor says, on average over epochs.

    The fractional part of a factor is the probability of one more copy in an epoch (LVIS, Gupta et al. 2019).

    Args:
        repeat_factors: (n,) floats, the expected copies of each item in an epoch.
    """

    def __init__(self, repeat_factors: torch.Tensor, *, shuffle: bool = True, seed: int | None = None):
        super().__init__(shuffle, seed)
        self._whole = torch.trunc(repeat_factors)
        self._fraction = repeat_factors - self._whole

    @staticmethod
    def repeat_factors_from_category_frequency(
        dataset_dicts: list[dict], repeat_thresh: float, sqrt: bool = True
    ) -> torch.Tensor:
        """The factor of an image: that of its rarest category, max(1, sqrt(threshold / frequency)).

        Args:
            dataset_dicts: records with `annotations`.
            repeat_thresh: categories in a smaller part of the images than this are repeated.
            sqrt: False leaves the root out.

        Returns:
            (n,) float32; 1 for images without annotations.
        """
        categories = [{anno["category_id"] for anno in record["annotations"]} for record in dataset_dicts]
        images_with = Counter(itertools.chain.from_iterable(categories))
        exponent = 0.5 if sqrt else 1.0
        factor = {
            category: max(1.0, (repeat_thresh * len(dataset_dicts) / count) ** exponent)
            for category, count in images_with.items()
        }
        return torch.tensor([max((factor[c] for c in present), default=1.0) for present in categories])

    def _epoch(self, generator: torch.Generator) -> torch.Tensor:
        extra = torch.rand(len(self._fraction), generator=generator) < self._fraction
        copies = (self._whole + extra.float()).long().numpy()
        # Not torch.repeat_interleave: it wakes OpenMP's threads, which costs milliseconds on a busy machine.
        indices = torch.from_numpy(np.repeat(np.arange(len(copies)), copies))
        return indices[torch.randperm(len(indices), generator=generator)] if self._shuffle else indices


class InferenceSampler(Sampler):
    """Each index once, in order: every rank a contiguous part, the first `size % world` of them one longer."""

    def __init__(self, size: int):
        assert size > 0, f"InferenceSampler: size must be positive, got {size}"
        self._size = size
        self._local_indices = self._get_local_indices(size, comm.get_world_size(), comm.get_rank())

    @staticmethod
    def _get_local_indices(total_size: int, world_size: int, rank: int) -> range:
        share, longer = divmod(total_size, world_size)
        begin = rank * share + min(rank, longer)
        return range(begin, begin + share + (rank < longer))

    def __iter__(self) -> Iterator[int]:
        return iter(self._local_indices)

    def __len__(self) -> int:
        return len(self._local_indices)
