import random
from itertools import chain, islice

import numpy as np
import pytest
import torch

from defcn_ext.engine.data_order import ResumableLoader, build_sampler, images_per_process
from defcn_ext.engine.seeding import derive, run_seed, sample_randomness, seed_step
from detectron2.config import get_cfg
from detectron2.data.samplers import TrainingSampler

SHAPES = [(4, 3), (3, 4), (5, 5), (6, 2), (2, 6), (9, 9), (8, 1), (1, 8), (7, 6), (6, 7), (3, 3), (5, 4)]
RECORDS = [{"id": i, "width": w, "height": h} for i, (w, h) in enumerate(SHAPES)]


def draw(record: dict) -> dict:
    return {**record, "draws": (np.random.rand(), random.random(), torch.rand(()).item())}


def loader(mapper=draw, seed=7, **options) -> ResumableLoader:
    options = {"batch_size": 2, "group_by_shape": False, **options}
    return ResumableLoader(
        RECORDS, mapper, make_sampler=lambda s: TrainingSampler(len(RECORDS), seed=s), seed=seed, **options
    )


def take(loader: ResumableLoader, count: int, start: int = 0) -> list[list[dict]]:
    loader.start = start
    return list(islice(loader, count))


def ids(batches) -> list[list[int]]:
    return [[sample["id"] for sample in batch] for batch in batches]


def test_order_is_that_of_detectron2s_sampler():
    stream = list(islice(TrainingSampler(len(RECORDS), seed=7), 20))
    assert list(chain.from_iterable(ids(take(loader(), 10)))) == stream


def test_order_and_grouping_match_detectron2s_loader(facts):
    golden = facts("golden_samplers.json")["loaders"]
    for grouping in (True, False):
        records = [{"id": i, "width": w, "height": h} for i, (w, h) in enumerate(golden_shapes(facts))]
        found = ResumableLoader(
            records,
            dict,
            make_sampler=lambda seed: TrainingSampler(12, seed=seed),
            seed=7,
            batch_size=4,
            group_by_shape=grouping,
        )
        assert ids(islice(found, 8)) == golden[f"grouping={grouping},workers=0"]


def golden_shapes(facts):
    return facts("golden_samplers.json")["aspect_ratio"]["width_height"]


@pytest.mark.parametrize("grouped", [False, True])
def test_resumed_stream_is_the_unbroken_one(grouped):
    whole = take(loader(group_by_shape=grouped), 40)
    assert take(loader(group_by_shape=grouped), 23, start=17) == whole[17:]


def test_workers_change_nothing():
    assert take(loader(num_workers=2), 6, start=3) == take(loader(), 6, start=3)


def test_grouped_batches_have_one_shape():
    for batch in take(loader(group_by_shape=True, batch_size=3), 30):
        assert len({sample["width"] > sample["height"] for sample in batch}) == 1


def test_seed_changes_order_and_draws():
    first, second = take(loader(seed=1), 6), take(loader(seed=2), 6)
    assert ids(first) != ids(second)
    assert not {s["draws"] for b in first for s in b} & {s["draws"] for b in second for s in b}


def test_a_record_is_augmented_differently_each_time():
    draws = [s["draws"] for batch in take(loader(), 12) for s in batch if s["id"] == 0]
    assert len(draws) == 2 and draws[0] != draws[1]


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    take(loader(), 3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]


def test_refused_records_are_replaced_in_the_same_way_each_time():
    def refuse(record: dict) -> dict | None:
        return None if record["id"] % 2 else record

    whole = ids(take(loader(mapper=refuse), 12))
    assert all(i % 2 == 0 for batch in whole for i in batch)
    assert ids(take(loader(mapper=refuse), 6, start=6)) == whole[6:]
    with pytest.raises(RuntimeError, match="100 records"):
        take(loader(mapper=lambda record: None), 1)


def sampler_cfg(name: str):
    cfg = get_cfg()
    cfg.DATALOADER.SAMPLER_TRAIN = name
    return cfg


def test_repeat_factor_sampler_repeats_rare_classes():
    cfg = sampler_cfg("RepeatFactorTrainingSampler")
    cfg.DATALOADER.REPEAT_THRESHOLD = 0.4
    records = [{"annotations": [{"category_id": int(i == 0)}]} for i in range(10)]
    stream = list(islice(build_sampler(cfg, records)(5), 1000))
    # category 1 is in a tenth of the images: sqrt(0.4 / 0.1) = 2 copies against 1 of the nine others
    assert stream.count(0) == pytest.approx(1000 * 2 / 11, abs=2)


def test_random_subset_sampler():
    cfg = sampler_cfg("RandomSubsetTrainingSampler")
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5
    make = build_sampler(cfg, RECORDS)
    assert len(set(islice(make(1), 100))) == 6
    assert list(islice(make(1), 20)) == list(islice(make(1), 20))


def test_unknown_sampler():
    with pytest.raises(ValueError, match="'Typo'.*TrainingSampler"):
        build_sampler(sampler_cfg("Typo"), RECORDS)


def test_images_per_process():
    cfg = get_cfg()
    cfg.SOLVER.IMS_PER_BATCH = 6
    assert images_per_process(cfg) == 6
    cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(ValueError, match="IMS_PER_BATCH 0"):
        images_per_process(cfg)


def test_run_seed_is_seed_or_new_each_time():
    cfg = get_cfg()
    cfg.SEED = 5
    assert run_seed(cfg) == 5
    cfg.SEED = -1
    drawn = set()
    for _ in range(4):
        np.random.seed(0)  # what the script seeds has no say
        drawn.add(run_seed(cfg))
    assert len(drawn) == 4


def test_seeds_of_steps_and_samples_are_apart():
    assert len({derive(s, kind, i) for s in range(20) for kind in (0, 1) for i in range(50)}) == 2000
    seed_step(1, 4)
    step = np.random.rand(), torch.rand(()).item(), random.random()
    seed_step(1, 4)
    assert step == (np.random.rand(), torch.rand(()).item(), random.random())
    with sample_randomness(1, 4):
        assert np.random.rand() != step[0]
