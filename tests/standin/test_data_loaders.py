"""Loaders of given records, against values measured on Detectron2."""

import itertools
import random

import numpy as np
import pytest
import torch

from detectron2.data import build_batch_data_loader, build_detection_test_loader, build_detection_train_loader
from detectron2.data.build import worker_init_reset_seed
from detectron2.data.common import (
    DatasetFromList,
    MapDataset,
    ToIterableDataset,
)
from detectron2.data.samplers import (
    InferenceSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from tests.standin import raised


@pytest.fixture(scope="module")
def golden(facts):
    return facts("golden_samplers.json")


@pytest.fixture
def world(monkeypatch):
    """Makes this process rank `rank` of `size`."""

    def pretend(size, rank):
        monkeypatch.setattr(comm, "get_world_size", lambda: size)
        monkeypatch.setattr(comm, "get_rank", lambda: rank)
        monkeypatch.setattr("detectron2.data.build.get_world_size", lambda: size)

    return pretend


def first(iterable, n):
    return list(itertools.islice(iterable, n))


def records(golden):
    sizes = golden["aspect_ratio"]["width_height"]
    return [{"id": i, "width": w, "height": h} for i, (w, h) in enumerate(sizes)]


def identity(x):
    return x


def ids(batches):
    return [[record["id"] for record in batch] for batch in batches]


@pytest.mark.parametrize("grouping, workers", list(itertools.product([True, False], [0, 2])))
def test_train_loader(golden, grouping, workers):
    facts = golden["loaders"]
    loader = build_detection_train_loader(
        records(golden),
        mapper=identity,
        sampler=TrainingSampler(12, seed=7),
        total_batch_size=4,
        aspect_ratio_grouping=grouping,
        num_workers=workers,
    )
    assert ids(first(loader, 8)) == facts[f"grouping={grouping},workers={workers}"]
    assert type(loader).__name__ == facts[f"class_grouping_{str(grouping).lower()}"]
    assert raised(len, loader) == facts[f"len_grouping_{str(grouping).lower()}"]["raises"]


def test_train_loader_in_a_world(golden, world):
    facts = golden["loaders"]
    assert first(TrainingSampler(12, seed=7), 36) == facts["sampler_stream_seed7"]
    world(2, 1)
    arguments = {"mapper": None, "aspect_ratio_grouping": False}
    sampler = TrainingSampler(12, seed=7)
    loader = build_detection_train_loader(records(golden), sampler=sampler, total_batch_size=4, **arguments)
    assert ids(first(loader, 6)) == facts["rank1_of_2,grouping=False,workers=0"]
    for batch_size, key in ((3, "batch_not_divisible_by_world"), (0, "batch_0")):
        refused = raised(
            build_detection_train_loader, records(golden), sampler=sampler, total_batch_size=batch_size, **arguments
        )
        assert refused == facts[key]["raises"]


def test_train_loader_options(golden):
    facts = golden["loaders"]
    arguments = {"mapper": None, "sampler": TrainingSampler(12, seed=7)}
    both = raised(
        build_detection_train_loader, records(golden), total_batch_size=4, single_gpu_batch_size=2, **arguments
    )
    assert both == facts["both_batch_sizes"]["raises"]
    single = build_detection_train_loader(
        records(golden), total_batch_size=None, single_gpu_batch_size=2, aspect_ratio_grouping=False, **arguments
    )
    assert ids(first(single, 1)) == [facts["sampler_stream_seed7"][:2]]
    # Of the stream 3, 4, 0, ... images 3 and 0 are wide, 4 is tall.
    for grouping, expected in ((True, facts["collate_fn"]), (False, [3, 4])):
        loader = build_detection_train_loader(
            records(golden),
            total_batch_size=2,
            aspect_ratio_grouping=grouping,
            collate_fn=lambda batch: [record["id"] for record in batch],
            **arguments,
        )
        assert next(iter(loader)) == expected
    assert (
        type(next(iter(build_detection_train_loader(records(golden), total_batch_size=2, **arguments)))).__name__
        == (facts["mapper_none"]["type"])
    )


def test_iterable_datasets_train(golden):
    stream = ToIterableDataset(DatasetFromList(records(golden)), TrainingSampler(12, seed=7))
    loader = build_detection_train_loader(stream, mapper=identity, total_batch_size=4, aspect_ratio_grouping=False)
    assert ids(first(loader, 2)) == golden["loaders"]["grouping=False,workers=0"][:2]
    with pytest.raises(AssertionError):
        build_detection_train_loader(stream, mapper=None, sampler=TrainingSampler(12), total_batch_size=4)


def test_test_loader(golden, world):
    facts = golden["loaders"]["test"]
    loader = build_detection_test_loader(records(golden), mapper=identity)
    assert type(loader).__name__ == facts["class"]
    assert len(loader) == facts["len"]
    assert ids(first(loader, 3)) == facts["first3"]
    five = build_detection_test_loader(records(golden), mapper=identity, batch_size=5, num_workers=2)
    assert ids(five) == facts["batch_size_5"]
    world(3, 1)
    shard = build_detection_test_loader(records(golden), mapper=identity)
    assert ids(shard) == facts["rank1_of_3"]
    assert len(shard) == facts["len_rank1_of_3"]


def test_iterable_datasets_and_batches_for_inference():
    numbers = DatasetFromList(list(range(50)))
    stream = ToIterableDataset(numbers, InferenceSampler(50))
    loader = build_detection_test_loader(stream, mapper=identity, num_workers=2)
    assert sorted(itertools.chain.from_iterable(loader)) == list(range(50))
    batches = build_batch_data_loader(numbers, InferenceSampler(50), 8, num_workers=2, drop_last=False)
    assert [len(batch) for batch in batches] == [8] * 6 + [2]


def test_worker_seed(facts, monkeypatch):
    seeds = facts("golden_behaviours.json")["seeds"]
    monkeypatch.setattr(torch, "initial_seed", lambda: 1000)
    worker_init_reset_seed(3)
    drawn = np.random.rand(), random.random()
    np.random.seed(seeds["worker_seed_for_torch_seed_1000_worker_3"])
    random.seed(seeds["worker_seed_for_torch_seed_1000_worker_3"])
    assert drawn == (np.random.rand(), random.random())


def draw(_):
    return np.random.randint(2**31)


def test_loader_seed_repeats_the_workers_random_numbers():
    def batches(seed):
        loader = build_batch_data_loader(
            MapDataset(list(range(8)), draw), InferenceSampler(8), 2, num_workers=2, seed=seed
        )
        return list(loader)

    same, again, other = batches(3), batches(3), batches(4)
    assert same == again
    assert same != other
