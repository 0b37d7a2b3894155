"""Dataset wrappers: lists that workers share, mapping, streams from samplers, grouping by aspect ratio."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import pickle
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
import torch.utils.data as data
from torch.utils.data.sampler import Sampler

__all__ = ["MapDataset", "DatasetFromList", "AspectRatioGroupedDataset", "ToIterableDataset"]

logger = logging.getLogger(__name__)

RETRIES_BEFORE_WARNING = 3


class MapDataset(data.Dataset):
    """Applies a function to each item. An item for which it returns None is replaced or skipped.

    Over a map-style dataset, another index is drawn among those not known to fail. Over an iterable dataset
    the item is skipped, and the result is an `IterableDataset` too.
    """

    def __new__(cls, dataset: data.Dataset, map_func: Callable[[Any], Any]):
        if isinstance(dataset, data.IterableDataset):
            return _MapIterableDataset(dataset, map_func)
        return super().__new__(cls)

    def __init__(self, dataset: data.Dataset, map_func: Callable[[Any], Any]):
        self._dataset = dataset
        self._map_func = map_func
        self._rng = random.Random(42)
        self._usable = set(range(len(dataset)))

    def __getnewargs__(self) -> tuple:
        return self._dataset, None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_map_func": _dump_function(self._map_func)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _map_func=pickle.loads(state["_map_func"]))

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, idx: int) -> Any:
        current = int(idx)
        for attempt in itertools.count(1):
            item = self._map_func(self._dataset[current])
            if item is not None:
                self._usable.add(current)
                return item
            self._usable.discard(current)
            if attempt >= RETRIES_BEFORE_WARNING:
                logger.warning("The map function gave None %d times in a row, starting at index %s", attempt, idx)
            current = self._rng.choice(list(self._usable))


class _MapIterableDataset(data.IterableDataset):
    def __init__(self, dataset: data.IterableDataset, map_func: Callable[[Any], Any]):
        self._dataset = dataset
        self._map_func = map_func

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_map_func": _dump_function(self._map_func)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _map_func=pickle.loads(state["_map_func"]))

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[Any]:
        return (mapped for mapped in map(self._map_func, self._dataset) if mapped is not None)


def _dump_function(func: Callable) -> bytes:
    """Pickles lambdas and local functions too where cloudpickle is there; its output loads with plain pickle."""
    try:
        import cloudpickle
    except ImportError:
        return pickle.dumps(func)
    return cloudpickle.dumps(func)


class _TorchSerializedList:
    """A list as one tensor of pickled bytes, so that forked workers do not copy it page by page.

    Each access unpickles a fresh copy. Raises ValueError for an empty list.
    """

    def __init__(self, lst: list):
        if not lst:
            raise ValueError("Cannot serialize an empty list")
        chunks = [np.frombuffer(pickle.dumps(item, protocol=-1), dtype=np.uint8) for item in lst]
        self._ends = torch.from_numpy(np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64))
        self._bytes = torch.from_numpy(np.concatenate(chunks))
        logger.info("Serialized %d elements into %.2f MiB", len(lst), len(self._bytes) / 1024**2)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, idx: int) -> Any:
        idx = range(len(self))[idx]
        start = self._ends[idx - 1].item() if idx else 0
        return pickle.loads(memoryview(self._bytes[start : self._ends[idx].item()].numpy()))


_default_serialize: Callable[[list], Any] = _TorchSerializedList


@contextlib.contextmanager
def set_default_dataset_from_list_serialize_method(new: Callable[[list], Any]) -> Iterator[None]:
    """Within the context, `DatasetFromList(serialize=True)` packs its list with `new`."""
    global _default_serialize
    old, _default_serialize = _default_serialize, new
    try:
        yield
    finally:
        _default_serialize = old


class DatasetFromList(data.Dataset):
    """A list as a dataset.

    Args:
        lst: the items.
        copy: whether each access returns a deep copy, so that callers may change it. Serialized items are
            always fresh.
        serialize: True, False, or a function that turns the list into something with `len` and indexing.

    Raises:
        TypeError: `serialize` is neither a bool nor callable.
    """

    def __init__(self, lst: list, copy: bool = True, serialize: bool | Callable[[list], Any] = True):
        if not isinstance(serialize, bool) and not callable(serialize):
            raise TypeError(f"serialize must be a bool or a function, got {serialize!r}")
        self._copy = copy
        self._serialized = bool(serialize)
        if serialize is True:
            serialize = _default_serialize
        self._lst = serialize(lst) if serialize else lst

    def __len__(self) -> int:
        return len(self._lst)

    def __getitem__(self, idx: int) -> Any:
        item = self._lst[idx]
        return copy.deepcopy(item) if self._copy and not self._serialized else item


class ToIterableDataset(data.IterableDataset):
    """The stream of a map-style dataset's items in a sampler's order.

    Args:
        dataset: map-style.
        sampler: gives the indices; may be endless.
        shard_sampler: whether each worker takes its own part of the indices. Without it, every worker gives
            all of them.
        shard_chunk_size: how many consecutive indices a worker takes in its turn. With the batch size here,
            the order of batches does not depend on the number of workers.
    """

    def __init__(self, dataset: data.Dataset, sampler: Sampler, shard_sampler: bool = True, shard_chunk_size: int = 1):
        assert not isinstance(dataset, data.IterableDataset), "ToIterableDataset needs a map-style dataset"
        assert isinstance(sampler, Sampler), f"ToIterableDataset needs a Sampler, got {type(sampler)}"
        self.dataset = dataset
        self.sampler = sampler
        self.shard_sampler = shard_sampler
        self.shard_chunk_size = shard_chunk_size

    def __iter__(self) -> Iterator[Any]:
        worker = data.get_worker_info()
        indices: Iterable[int] = self.sampler
        if self.shard_sampler and worker is not None:
            indices = _shard(self.sampler, self.shard_chunk_size, worker.id, worker.num_workers)
        return (self.dataset[idx] for idx in indices)

    def __len__(self) -> int:
        return len(self.sampler)


def _shard(indices: Iterable[int], chunk_size: int, shard: int, num_shards: int) -> Iterator[int]:
    """The chunks number `shard`, `shard + num_shards`, ... of the stream."""
    for position, idx in enumerate(indices):
        if position // chunk_size % num_shards == shard:
            yield idx


class AspectRatioGroupedDataset(data.IterableDataset):
    """Batches of records that are all wider than high, or all not.

    A batch is given out as soon as it is full. What is left when the stream ends stays for the next pass.

    Args:
        dataset: iterable of dicts with `width` and `height`.
        batch_size: records in a batch.
    """

    def __init__(self, dataset: Iterable[dict], batch_size: int):
        self.dataset = dataset
        self.batch_size = batch_size
        self._buckets: list[list[dict]] = [[], []]

    def __iter__(self) -> Iterator[list[dict]]:
        for record in self.dataset:
            bucket = self._buckets[0 if record["width"] > record["height"] else 1]
            bucket.append(record)
            if len(bucket) == self.batch_size:
                # Emptied before the yield: a consumer that stops here must not leave a full bucket behind.
                batch = bucket.copy()
                bucket.clear()
                yield batch
