"""Samplers, groups and wrappers of data sets, against values measured on Detectron2."""

import itertools
import pickle
import re

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from detectron2.data.common import (
    AspectRatioGroupedDataset,
    DatasetFromList,
    MapDataset,
    ToIterableDataset,
    set_default_dataset_from_list_serialize_method,
)
from detectron2.data.samplers import (
    GroupedBatchSampler,
    InferenceSampler,
    RandomSubsetTrainingSampler,
    RepeatFactorTrainingSampler,
    TrainingSampler,
)
from detectron2.utils import comm
from tests.standin import raised, says


@pytest.fixture(scope="module")
def z(facts):
    return facts("golden_samplers.npz")


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


def worlds(z, prefix):
    """The entries `prefix...worldW_rankR` as (key, W, R)."""
    for key in z.files:
        if key.startswith(prefix) and "_world" in key:
            size, rank = key.rsplit("_world", 1)[1].split("_rank")
            yield key, int(size), int(rank)


class Fixed(SequentialSampler):
    """Gives the indices it was made from."""

    def __iter__(self):
        return iter(self.data_source)


def test_training_sampler(z, world):
    checked = 0
    for key, size, rank in worlds(z, "training/size"):
        world(size, rank)
        length, seed = key.removeprefix("training/size").split("_world")[0].split("_seed")
        sampler = TrainingSampler(int(length), seed=int(seed))
        np.testing.assert_array_equal(first(sampler, 24), z[key], err_msg=key)
        assert first(sampler, 24) == z[key].tolist(), "a second pass starts over"
        checked += 1
    assert checked == 18
    world(2, 1)
    unshuffled = TrainingSampler(5, shuffle=False, seed=0)
    np.testing.assert_array_equal(first(unshuffled, 12), z["training/noshuffle_size5_world2_rank1"])


def test_training_sampler_refusals(golden):
    facts = golden["training"]
    assert raised(TrainingSampler, 0) == facts["size_0"]["raises"]
    assert raised(TrainingSampler, 3.0) == facts["size_float"]["raises"]
    assert raised(len, TrainingSampler(3)) == facts["has_len"]["raises"]


def test_seed_of_the_training_sampler(facts, monkeypatch):
    seeds = facts("golden_behaviours.json")["seeds"]
    assert first(TrainingSampler(8, seed=-1), 16) == seeds["TrainingSampler_seed_minus_1_size_8"]
    monkeypatch.setattr(comm, "shared_random_seed", lambda: 555)
    assert TrainingSampler(8)._seed == seeds["sampler_seed_None_uses_shared_random_seed"]


def test_inference_sampler(golden, world):
    facts, checked = golden["inference"], 0
    for key, shards in facts.items():
        if not key.startswith("total"):
            continue
        total, size = map(int, key.removeprefix("total").split("_world"))
        for rank, shard in enumerate(shards):
            world(size, rank)
            assert list(InferenceSampler(total)) == shard, (key, rank)
            assert len(InferenceSampler(total)) == len(shard)
            checked += 1
    assert checked == 40
    world(3, 1)
    assert len(InferenceSampler(10)) == facts["len_rank1_of_3_total10"]
    assert raised(InferenceSampler, 0) == facts["size_0"]["raises"]
    # Nothing to share is what a caller of the rule itself may ask.
    assert InferenceSampler._get_local_indices(0, 5, 3) == range(0)


@pytest.mark.parametrize("threshold, sqrt", list(itertools.product([0.0, 0.2, 0.5], [True, False])))
def test_repeat_factors(z, golden, threshold, sqrt):
    records = [
        {"annotations": [{"category_id": category} for category in categories]}
        for categories in golden["repeat"]["dataset_categories_per_image"]
    ]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(records, threshold, sqrt=sqrt)
    expected = z[f"repeat/factors_thr{threshold}_sqrt{sqrt}"]
    assert factors.dtype == torch.float32
    np.testing.assert_allclose(factors, expected, rtol=1e-5)


def test_repeat_factor_sampler(z, world):
    factors = torch.from_numpy(z["repeat/rep_factors"])
    checked = 0
    for key, size, rank in worlds(z, "repeat/seq_seed3"):
        world(size, rank)
        np.testing.assert_array_equal(first(RepeatFactorTrainingSampler(factors, seed=3), 40), z[key], err_msg=key)
        checked += 1
    assert checked == 3
    world(1, 0)
    unshuffled = RepeatFactorTrainingSampler(factors, shuffle=False, seed=3)
    np.testing.assert_array_equal(first(unshuffled, 40), z["repeat/seq_noshuffle_seed3"])


def test_random_subset_sampler(z, golden):
    size = 10
    shuffled = RandomSubsetTrainingSampler(size, 0.5, seed_shuffle=1, seed_subset=2)
    np.testing.assert_array_equal(first(shuffled, 20), z["subset/ratio0.5_seeds_1_2"])
    in_order = RandomSubsetTrainingSampler(size, 0.5, shuffle=False, seed_shuffle=1, seed_subset=2)
    np.testing.assert_array_equal(first(in_order, 10), z["subset/ratio0.5_noshuffle"])
    assert raised(RandomSubsetTrainingSampler, size, 0.0) == golden["subset"]["ratio_0"]["raises"]
    assert raised(RandomSubsetTrainingSampler, size, 0.01) == golden["subset"]["ratio_too_small"]["raises"]


def test_aspect_ratio_grouping(golden):
    facts = golden["aspect_ratio"]
    records = [{"width": w, "height": h, "id": i} for i, (w, h) in enumerate(facts["width_height"])]
    for size in (2, 3):
        batches = AspectRatioGroupedDataset(records, size)
        assert [[r["id"] for r in batch] for batch in batches] == facts[f"batch{size}"]
    second = [[r["id"] for r in batch] for batch in batches]
    assert second == facts["second_pass_starts_with_leftovers"]


def test_a_pass_that_stops_early_leaves_no_full_bucket():
    records = [{"width": w, "height": 1 - w} for w in (1, 0, 1, 0)]
    batches = AspectRatioGroupedDataset(records, 2)
    for _ in range(5):
        next(iter(batches))
        assert all(len(bucket) < 2 for bucket in batches._buckets)


def test_grouped_batch_sampler(golden):
    facts = golden["grouped_batch_sampler"]

    sampler = GroupedBatchSampler(Fixed(facts["order"]), facts["groups"], 2)
    assert [batch for batch in sampler] == facts["batches"]  # list() would ask for the length
    assert raised(len, sampler) == facts["len"]["raises"]
    assert raised(GroupedBatchSampler, facts["order"], facts["groups"], 2) == facts["needs_sampler"]["raises"]


def test_dataset_from_list(golden):
    facts = golden["dataset_from_list"]

    def after_a_change(**arguments):
        dataset = DatasetFromList([{"a": [1]}, {"a": [2]}], **arguments)
        dataset[0]["a"].append(9)
        return dataset[0]

    assert after_a_change(copy=True, serialize=False) == facts["copy_protects"]
    assert after_a_change(copy=False, serialize=False) == facts["no_copy_no_serialize"]
    assert after_a_change() == facts["serialized"]
    assert len(DatasetFromList([{"a": [1]}, {"a": [2]}])) == facts["len"]
    assert raised(DatasetFromList, [1], serialize="yes") == facts["bad_serialize"]["raises"]
    assert raised(DatasetFromList, []) == facts["empty_serialized"]["raises"]
    numbers = DatasetFromList([10, 20, 30])
    assert [numbers[-3], numbers[-2], numbers[-1]] == facts["negative_index_value"]
    assert type(numbers[-1]).__name__ == facts["negative_index_serialized"]["type"]
    with pytest.raises(IndexError):
        numbers[3]


def test_serialize_method_can_be_replaced():
    packed = []

    def pack(lst):
        packed.append(len(lst))
        return [item * 2 for item in lst]

    assert DatasetFromList([1, 2], serialize=pack)[1] == 4
    with set_default_dataset_from_list_serialize_method(pack):
        assert DatasetFromList([1, 2, 3])[2] == 6
    assert DatasetFromList([1, 2, 3])[2] == 3
    assert packed == [2, 3]


def test_map_dataset_draws_another_item_for_none(golden, caplog):
    facts, calls = golden["map_dataset"], []

    def func(x):
        calls.append(x)
        return None if x in facts["map_returns_none_for"] else x * 10

    dataset = MapDataset(list(range(6)), func)
    assert len(dataset) == facts["len"]
    assert [dataset[i] for i in range(6)] == facts["values"]
    assert calls == facts["calls"]
    assert not caplog.records

    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(6))

    mapped = MapDataset(Stream(), func)
    assert isinstance(mapped, IterableDataset)
    assert list(mapped) == facts["iterable_skips_none"]


def test_map_dataset_warns_when_little_works(caplog):
    dataset = MapDataset(list(range(20)), lambda x: x if x == 7 else None)
    assert dataset[0] == 7
    assert re.search(says("in a row"), caplog.text) and caplog.records


def double(x):
    return x * 2


def test_map_dataset_pickles():
    assert pickle.loads(pickle.dumps(MapDataset(DatasetFromList([1, 2, 3]), double)))[2] == 6


def test_map_dataset_pickles_lambdas():
    pytest.importorskip("cloudpickle")
    assert pickle.loads(pickle.dumps(MapDataset(DatasetFromList([1, 2, 3]), lambda x: x * 2)))[2] == 6


def test_to_iterable(golden):
    facts = golden["to_iterable"]
    stream = ToIterableDataset(["a", "b", "c", "d", "e"], Fixed([3, 1, 4, 0]))
    assert list(stream) == facts["no_workers"]
    assert len(stream) == 4
    assert raised(len, ToIterableDataset([1, 2], TrainingSampler(2))) == facts["len"]["raises"]
    assert raised(ToIterableDataset, [1, 2], [0, 1]) == facts["needs_sampler"]["raises"]


def tagged(x):
    return torch.utils.data.get_worker_info().id, x


def test_workers_take_chunks_in_turn(golden):
    for key, shards in golden["to_iterable"]["worker_shards"].items():
        workers, _, chunk, n = key.split("_")
        workers, chunk, n = int(workers), int(chunk.removeprefix("chunk")), int(n.removeprefix("n"))
        dataset = MapDataset(list(range(n)), tagged)
        stream = ToIterableDataset(dataset, SequentialSampler(range(n)), shard_chunk_size=chunk)
        seen = list(DataLoader(stream, batch_size=None, num_workers=workers))
        assert [[x for worker, x in seen if worker == w] for w in range(workers)] == shards, key


def records(golden):
    sizes = golden["aspect_ratio"]["width_height"]
    return [{"id": i, "width": w, "height": h} for i, (w, h) in enumerate(sizes)]
