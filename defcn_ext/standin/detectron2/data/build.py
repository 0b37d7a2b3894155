"""From names of data sets to loaders."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.utils.data as torchdata

from detectron2.config import configurable
from detectron2.data.common import AspectRatioGroupedDataset, DatasetFromList, MapDataset, ToIterableDataset
from detectron2.data.dataset_mapper import DatasetMapper
from detectron2.data.records import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
    get_detection_dataset_dicts,
    load_proposals_into_dataset,
    print_instances_class_histogram,
)
from detectron2.data.samplers import (
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils.comm import get_world_size
from detectron2.utils.env import seed_all_rng

__all__ = [
    "build_batch_data_loader",
    "build_detection_train_loader",
    "build_detection_test_loader",
    "filter_images_with_few_keypoints",
    "filter_images_with_only_crowd_annotations",
    "get_detection_dataset_dicts",
    "load_proposals_into_dataset",
    "print_instances_class_histogram",
]

logger = logging.getLogger(__name__)


def build_batch_data_loader(
    dataset: torchdata.Dataset,
    sampler: torchdata.Sampler | None,
    total_batch_size: int,
    *,
    aspect_ratio_grouping: bool = False,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    drop_last: bool = True,
    single_gpu_batch_size: int | None = None,
    prefetch_factor: int = 2,
    persistent_workers: bool = False,
    pin_memory: bool = False,
    seed: int | None = None,
    **kwargs: Any,
):
    """A loader of batches that are lists of items.

    Args:
        dataset: map-style, or iterable without a sampler.
        sampler: the order of a map-style dataset.
        total_batch_size: items a step over all worker processes.
        aspect_ratio_grouping: whether only images of the same orientation meet in a batch; then there is no `len`.
        num_workers: loading processes for each training process.
        collate_fn: turns the list of a batch into something else.
        drop_last: whether an incomplete last batch is dropped (without grouping).
        single_gpu_batch_size: items a step in this process, with `total_batch_size` 0 or None.
        prefetch_factor, persistent_workers, pin_memory, kwargs: for torch's DataLoader.
        seed: of the workers' random numbers.

    Raises:
        ValueError: both batch sizes.
        AssertionError: the batch size is not a positive multiple of the world size.
    """
    if single_gpu_batch_size:
        if total_batch_size:
            raise ValueError("give either total_batch_size or single_gpu_batch_size, not both")
        batch_size = single_gpu_batch_size
    else:
        world_size = get_world_size()
        assert total_batch_size > 0 and total_batch_size % world_size == 0, (
            f"total_batch_size {total_batch_size} must be a positive multiple of the {world_size} processes"
        )
        batch_size = total_batch_size // world_size

    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable dataset takes no sampler"
    else:
        dataset = ToIterableDataset(dataset, sampler, shard_chunk_size=batch_size)
    options = {
        "num_workers": num_workers,
        "prefetch_factor": prefetch_factor if num_workers > 0 else None,
        "persistent_workers": persistent_workers,
        "pin_memory": pin_memory,
        "worker_init_fn": worker_init_reset_seed,
        "generator": None if seed is None else torch.Generator().manual_seed(seed),
        **kwargs,
    }
    if aspect_ratio_grouping:
        assert drop_last, "aspect_ratio_grouping never gives incomplete batches; drop_last=False has no meaning"
        single_items = torchdata.DataLoader(dataset, collate_fn=operator.itemgetter(0), **options)
        batches = AspectRatioGroupedDataset(single_items, batch_size)
        return batches if collate_fn is None else MapDataset(batches, collate_fn)
    collate_fn = trivial_batch_collator if collate_fn is None else collate_fn
    return torchdata.DataLoader(dataset, batch_size, drop_last=drop_last, collate_fn=collate_fn, **options)


def _train_loader_from_config(cfg, mapper=None, *, dataset=None, sampler=None) -> dict[str, Any]:
    if dataset is None:
        proposal_files = cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None
        dataset = _train_records(cfg, cfg.DATASETS.TRAIN, proposal_files)
    if mapper is None:
        mapper = DatasetMapper(cfg, True)
    if sampler is None and not isinstance(dataset, torchdata.IterableDataset):
        sampler = _train_sampler(cfg, dataset)
    return {
        "dataset": dataset,
        "sampler": sampler,
        "mapper": mapper,
        "total_batch_size": cfg.SOLVER.IMS_PER_BATCH,
        "aspect_ratio_grouping": cfg.DATALOADER.ASPECT_RATIO_GROUPING,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


def _train_sampler(cfg, dataset) -> torchdata.Sampler:
    """The sampler that DATALOADER.SAMPLER_TRAIN names, seeded with SEED. Raises ValueError for an unknown name."""
    name, seed = cfg.DATALOADER.SAMPLER_TRAIN, cfg.SEED
    logger.info("Using training sampler %s", name)
    if name == "TrainingSampler":
        return TrainingSampler(len(dataset), seed=seed)
    if name == "RandomSubsetTrainingSampler":
        return RandomSubsetTrainingSampler(
            len(dataset), cfg.DATALOADER.RANDOM_SUBSET_RATIO, seed_shuffle=seed, seed_subset=seed
        )
    if name == "RepeatFactorTrainingSampler":
        return RepeatFactorTrainingSampler(_category_factors(cfg, dataset), seed=seed)
    if name in ("WeightedTrainingSampler", "WeightedCategoryTrainingSampler"):
        factors = _dataset_factors(cfg, by_category=name == "WeightedCategoryTrainingSampler")
        assert len(factors) == len(dataset), f"{name}: {len(dataset)} items, but DATASETS.TRAIN has {len(factors)}"
        return RepeatFactorTrainingSampler(factors, seed=seed)
    raise ValueError(f"DATALOADER.SAMPLER_TRAIN: unknown sampler '{name}'")


def _category_factors(cfg, records: list[dict]) -> torch.Tensor:
    return RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
        records, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.REPEAT_SQRT
    )


def _dataset_factors(cfg, by_category: bool) -> torch.Tensor:
    """(n,) over all training sets: each one's factor in DATASETS.TRAIN_REPEAT_FACTOR, pairs of name and factor.

    With `by_category`, times the factors of the categories within each set.
    """
    factor = dict(cfg.DATASETS.TRAIN_REPEAT_FACTOR)
    unknown = set(factor) - set(cfg.DATASETS.TRAIN)
    assert not unknown, f"DATASETS.TRAIN_REPEAT_FACTOR: {sorted(unknown)} not in DATASETS.TRAIN"
    parts = []
    for name in cfg.DATASETS.TRAIN:
        records = _train_records(cfg, [name])
        within = _category_factors(cfg, records) if by_category else torch.ones(len(records))
        parts.append(within * float(factor.get(name, 1.0)))
    return torch.cat(parts)


def _train_records(
    cfg, names: Sequence[str], proposal_files: Sequence[str] | None = None
) -> list[dict] | torchdata.Dataset:
    return get_detection_dataset_dicts(
        names,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=proposal_files,
    )


@configurable(from_config=_train_loader_from_config)
def build_detection_train_loader(
    dataset: list | torchdata.Dataset,
    *,
    mapper: Callable[[dict], Any] | None,
    sampler: torchdata.Sampler | None = None,
    total_batch_size: int,
    aspect_ratio_grouping: bool = True,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
    **kwargs: Any,
):
    """An endless loader for training. Called with a cfg, see `_train_loader_from_config` for what comes from where.

    Args:
        dataset: records, or a torch dataset.
        mapper: turns a record into an item; None leaves it as it is.
        sampler: `TrainingSampler` by default; none for iterable datasets.
        total_batch_size, aspect_ratio_grouping, num_workers, collate_fn, kwargs: see `build_batch_data_loader`.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable dataset takes no sampler"
    else:
        sampler = TrainingSampler(len(dataset)) if sampler is None else sampler
        assert isinstance(sampler, torchdata.Sampler), f"expected a Sampler, got {type(sampler)}"
    return build_batch_data_loader(
        dataset,
        sampler,
        total_batch_size,
        aspect_ratio_grouping=aspect_ratio_grouping,
        num_workers=num_workers,
        collate_fn=collate_fn,
        **kwargs,
    )


def _test_loader_from_config(cfg, dataset_name: str | list[str], mapper=None) -> dict[str, Any]:
    names = [dataset_name] if isinstance(dataset_name, str) else list(dataset_name)
    proposal_files = None
    if cfg.MODEL.LOAD_PROPOSALS:
        tests = list(cfg.DATASETS.TEST)
        proposal_files = [cfg.DATASETS.PROPOSAL_FILES_TEST[tests.index(name)] for name in names]
    dataset = get_detection_dataset_dicts(names, filter_empty=False, proposal_files=proposal_files)
    return {
        "dataset": dataset,
        "mapper": DatasetMapper(cfg, False) if mapper is None else mapper,
        "num_workers": cfg.DATALOADER.NUM_WORKERS,
    }


@configurable(from_config=_test_loader_from_config)
def build_detection_test_loader(
    dataset: list | torchdata.Dataset,
    *,
    mapper: Callable[[dict], Any],
    sampler: torchdata.Sampler | None = None,
    batch_size: int = 1,
    num_workers: int = 0,
    collate_fn: Callable[[list], Any] | None = None,
) -> torchdata.DataLoader:
    """A loader that gives every item once, in order; each worker process its own contiguous part.

    Args:
        dataset: records, or a torch dataset.
        mapper: turns a record into an item; None leaves it as it is.
        sampler: `InferenceSampler` by default; none for iterable datasets.
        batch_size: items a step in this process; the last batch may be smaller.
        num_workers: loading processes.
        collate_fn: turns the list of a batch into something else.
    """
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    if mapper is not None:
        dataset = MapDataset(dataset, mapper)
    if isinstance(dataset, torchdata.IterableDataset):
        assert sampler is None, "an iterable dataset takes no sampler"
    elif sampler is None:
        sampler = InferenceSampler(len(dataset))
    return torchdata.DataLoader(
        dataset,
        batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=trivial_batch_collator if collate_fn is None else collate_fn,
    )


def trivial_batch_collator(batch: list) -> list:
    """A batch as the list that it is."""
    return batch


def worker_init_reset_seed(worker_id: int) -> None:
    """Gives each loading process its own random numbers: torch's initial seed plus the worker's number."""
    # In a worker, torch's initial seed already contains the worker's number; numpy takes 32 bits at most.
    seed_all_rng(torch.initial_seed() % 2**31 + worker_id)
