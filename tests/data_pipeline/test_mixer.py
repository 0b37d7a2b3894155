from itertools import islice

import numpy as np
import pytest
import torch

from defcn_ext.config import add_defcn_config
from defcn_ext.data import build_train_loader
from defcn_ext.data.mixer import Mixer, MixingMapper, build_mixer
from defcn_ext.engine import Trainer
from detectron2.config import get_cfg
from tests.data_pipeline.test_mixing import sample

ALL = {"mosaic": 1.0, "mixup": 1.0, "copy_blend": 1.0, "shares": (0.25, 0.5)}


def make_cfg(**mix):
    cfg = get_cfg()
    add_defcn_config(cfg)
    for key, value in mix.items():
        cfg.INPUT.MIX[key] = value
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS, cfg.SEED = ("quick_train",), 0, 3
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (64, 80), 120
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = 2, 8
    return cfg


def test_pictures_are_mixed_between_two_shares_of_the_training():
    mixer, one = Mixer(**ALL), sample(100, [[2, 2, 18, 18]])
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()
    for progress in (0.0, 0.2499, 0.5, 1.0):
        assert mixer(one, lambda: one, progress) is one
    assert np.random.get_state()[1].tolist() == before
    for progress in (0.25, 0.4999):
        assert mixer(one, lambda: one, progress)["mixed"] == ("mosaic", "mixup", "copy-blend")


def test_each_kind_has_its_probability():
    mixer, one = Mixer(**{**ALL, "mosaic": 0.0, "mixup": 0.25, "copy_blend": 0.75}), sample(9, [[2, 2, 18, 18]])
    np.random.seed(0)
    kinds = [kind for _ in range(150) for kind in mixer(one, lambda: one, 0.3).get("mixed", ())]
    assert [kinds.count(x) / 150 for x in ("mosaic", "mixup", "copy-blend")] == pytest.approx([0, 0.25, 0.75], abs=0.09)


def test_only_large_objects_are_copied_and_no_more_than_asked_for():
    mixer = Mixer(mosaic=0, mixup=0, copy_blend=1, shares=(0, 1), copies=2, min_area=100)
    first = sample(100, [])
    other = sample(200, [[0, 0, 10, 9.9], [0, 0, 10, 10], [5, 5, 20, 20], [20, 0, 40, 6]])
    np.random.seed(1)
    for _ in range(5):
        copied = mixer(first, lambda: other, 0.5)["instances"].gt_boxes.area().tolist()
        assert len(copied) == 2 and min(copied) >= 100
    assert mixer(first, lambda: first, 0.5) is first


def test_what_does_not_fit_together_is_left_alone():
    mixer, first = Mixer(**ALL), sample(1, [[0, 0, 15, 15]])
    other = sample(2, [[0, 0, 15, 15]], polygons=True)
    assert mixer(first, lambda: other, 0.3) is first


def batches(count, start=0, workers=0, cfg=None):
    cfg = cfg or make_cfg(MOSAIC=0.5, MIXUP=0.5, COPY_BLEND=0.5, SHARES=(0.25, 0.75))
    cfg.DATALOADER.NUM_WORKERS = workers
    loader = Trainer.build_train_loader(cfg)
    loader.start = start
    return list(islice(loader, count))


def same(a, b):
    pictures = zip((x for batch in a for x in batch), (x for batch in b for x in batch))
    return [
        torch.equal(x["image"], y["image"]) and x["instances"].gt_boxes.tensor.equal(y["instances"].gt_boxes.tensor)
        for x, y in pictures
    ]


def test_the_trainers_loader_repeats_and_resumes(quick):
    """From batch 2 of 8 to 5 pictures are mixed; the others are those of a training without."""
    found, plain = batches(8), batches(8, cfg=make_cfg())
    mixed = [any("mixed" in x for x in batch) for batch in found]
    assert mixed[:2] == mixed[6:] == [False, False] and sum(mixed[2:6]) >= 3
    assert same(found[:2] + found[6:], plain[:2] + plain[6:]) == [True] * 8
    assert not all(same(found[2:6], plain[2:6]))
    assert all(same(batches(5, start=3), found[3:]))
    assert all(x["image"].shape[1:] == x["instances"].image_size for batch in found for x in batch)
    # as many pixels as without
    sizes = [[x["image"].shape for batch in some for x in batch] for some in (found, plain)]
    assert sizes[0] == sizes[1]
    more = [sum(len(x["instances"]) for batch in some[2:6] for x in batch) for some in (found, plain)]
    assert more[0] > 1.5 * more[1]


@pytest.mark.slow
def test_workers_and_the_cache_change_nothing(quick):
    cached = make_cfg(MOSAIC=0.5, MIXUP=0.5, COPY_BLEND=0.5, SHARES=(0.25, 0.75))
    cached.INPUT.CACHE = True
    found = batches(8)
    assert all(same(batches(8, workers=2), found)) and all(same(batches(8, cfg=cached), found))


def test_detectron2s_loader_counts_the_samples(quick):
    """Ungrouped, one process, no worker: samples 4 to 11 of 16 are those of the shares .25 to .75."""
    cfg = make_cfg(MIXUP=1.0, SHARES=(0.25, 0.75))
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = False
    samples = [x for batch in islice(build_train_loader(cfg), 8) for x in batch]
    assert ["mixed" in x for x in samples] == [False] * 4 + [True] * 8 + [False] * 4


def test_a_record_that_cannot_be_read_is_replaced():
    cfg = make_cfg(MIXUP=1.0, SHARES=(0.0, 1.0))
    calls = []

    def mapper(record):
        calls.append(record)
        return None if record == 0 else sample(record, [])

    mixing = MixingMapper(mapper, [0, 0, 0, 7], build_mixer(cfg), cfg)
    assert mixing(0) is None
    np.random.seed(0)
    assert mixing(7)["mixed"] == ("mixup",)
    with pytest.raises(RuntimeError, match="refused 100 records"):
        MixingMapper(lambda r: sample(1, []) if r else None, [0], build_mixer(cfg), cfg)(1)


def test_off_by_default():
    assert build_mixer(make_cfg()) is None and build_mixer(make_cfg(MOSAIC=0.1)) is not None


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MOSAIC", 1.5, "a number in"),
        ("COPY_BLEND", -0.1, "a number in"),
        ("SHARES", (0.5, 0.07), "start < stop"),
        ("SHARES", (0.0, 1.1), "start < stop"),
        ("BLEND", (0.6, 0.4), "lowest <= highest"),
    ],
)
def test_bad_values(key, value, message):
    with pytest.raises(ValueError, match=rf"INPUT\.MIX\.{key}: .*{message}"):
        build_mixer(make_cfg(**{key: value}))
