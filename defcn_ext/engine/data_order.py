"""A training stream that is a pure function of the seed: any step of any run can be produced again.

Detectron2's loader starts its stream anew when a run resumes, lets augmentation depend on the number of workers, and
repeats the same order in all runs that set no SEED.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from defcn_ext.data.mixer import Mixer
from defcn_ext.engine.processes import tie_to_parent
from defcn_ext.engine.seeding import sample_randomness
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList
from detectron2.data.samplers import RandomSubsetTrainingSampler, RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

Key = tuple[int, int]  # position in the stream of all processes together, index of the record
MAX_TRIES = 100
SAMPLERS = ("TrainingSampler", "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler")


class ResumableLoader:
    """Endless batches (lists of dicts) of this process. Iteration begins at batch `start` of the stream.

    Which records a batch holds depends on the seed, the batch size and the number of processes; neither order nor
    augmentation depends on the number of loader workers.
    """

    def __init__(
        self,
        records: Sequence[dict],
        mapper: Callable[[dict], dict | None],
        *,
        make_sampler: Callable[[int], Iterable[int]],
        seed: int,
        batch_size: int,
        group_by_shape: bool = True,
        num_workers: int = 0,
        mixer: Mixer | None = None,
        num_batches: int = 1,
    ):
        """
        Args:
            records: Detectron2's dataset dicts.
            mapper: makes a sample of a record. None makes the loader take another record in its place.
            make_sampler: seed -> endless indices of this process.
            batch_size: samples of one process.
            group_by_shape: batches hold either wide images, or tall and square ones.
            mixer: makes a sample out of several.
            num_batches: length of the whole training, of which the mixer asks what share is over.
        """
        self.records = DatasetFromList(records, copy=False)
        self.mapper = mapper
        self.make_sampler = make_sampler
        self.seed = seed
        self.batch_size = batch_size
        self.groups = [_is_wide(record) if group_by_shape else False for record in records]
        self.num_workers = num_workers
        self.mixer = mixer
        self.num_batches = num_batches
        self.start = 0

    def __iter__(self) -> Iterator[list[dict]]:
        # The generator argument keeps the loader from drawing its own seed out of the global state.
        yield from DataLoader(
            _KeyedSamples(self.records, self.mapper, self.seed, self.mixer),
            batch_sampler=islice(self._keys(), self.start, None),
            num_workers=self.num_workers,
            collate_fn=_as_list,
            generator=torch.Generator(),
            worker_init_fn=tie_to_parent,
        )

    def _keys(self) -> Iterator[list[tuple[Key, float]]]:
        """The batches with the share of the training that is over before each: a resumed run has the same."""
        for number, batch in enumerate(self._batches()):
            yield [(key, number / self.num_batches) for key in batch]

    def _batches(self) -> Iterator[list[Key]]:
        """Replayed from the beginning: a bucket that is not full yet may hold records from long ago."""
        rank, world_size = comm.get_rank(), comm.get_world_size()
        buckets: dict[bool, list[Key]] = defaultdict(list)
        for position, index in enumerate(self.make_sampler(self.seed)):
            bucket = buckets[self.groups[index]]
            bucket.append((position * world_size + rank, index))
            if len(bucket) == self.batch_size:
                yield bucket.copy()
                bucket.clear()


class _KeyedSamples(Dataset):
    """Samples by key and progress; the random numbers that make one depend on the seed and its position alone."""

    def __init__(
        self, records: DatasetFromList, mapper: Callable[[dict], dict | None], seed: int, mixer: Mixer | None = None
    ):
        self.records = records
        self.mapper = mapper
        self.seed = seed
        self.mixer = mixer

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: tuple[Key, float]) -> dict:
        (position, index), progress = item
        with sample_randomness(self.seed, position):
            sample = self._sample(index)
            return self.mixer(sample, self._another, progress) if self.mixer else sample

    def _sample(self, index: int) -> dict:
        for _ in range(MAX_TRIES):
            sample = self.mapper(self.records[index])
            if sample is not None:
                return sample
            index = int(np.random.randint(len(self)))
        raise RuntimeError(f"the mapper refused {MAX_TRIES} records in a row: are the image files there?")

    def _another(self) -> dict:
        return self._sample(int(np.random.randint(len(self))))


def build_sampler(cfg: CfgNode, records: Sequence[dict]) -> Callable[[int], Iterable[int]]:
    """Seed -> the sampler that DATALOADER.SAMPLER_TRAIN names.

    Raises:
        ValueError: unknown sampler.
    """
    name, options = cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER
    if name == "TrainingSampler":
        return lambda seed: TrainingSampler(len(records), seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, options.REPEAT_THRESHOLD, sqrt=options.REPEAT_SQRT
        )
        return lambda seed: RepeatFactorTrainingSampler(factors, seed=seed)
    if name == "RandomSubsetTrainingSampler":
        ratio = options.RANDOM_SUBSET_RATIO
        return lambda seed: RandomSubsetTrainingSampler(len(records), ratio, seed_shuffle=seed, seed_subset=seed)
    raise ValueError(f"DATALOADER.SAMPLER_TRAIN: unknown sampler {name!r}; known: {', '.join(SAMPLERS)}")


def images_per_process(cfg: CfgNode) -> int:
    """SOLVER.IMS_PER_BATCH over the processes.

    Raises:
        ValueError: it does not divide.
    """
    size, rest = divmod(cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size())
    if rest or size < 1:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH {cfg.SOLVER.IMS_PER_BATCH} cannot be split over {comm.get_world_size()} processes"
        )
    return size


def _is_wide(record: dict[str, Any]) -> bool:
    return record.get("width", 0) > record.get("height", 0)


def _as_list(samples: list[dict]) -> list[dict]:
    return samples
