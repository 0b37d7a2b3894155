"""RobustMapper: as DatasetMapper on good data, and unimpressed by bad data."""

import copy
import logging

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_api

from defcn_ext.data import RobustMapper, UnreadableImageError, add_data_config
from defcn_ext.data import mapper as mapper_module
from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode


@pytest.fixture
def cfg():
    config = get_cfg()
    add_data_config(config)
    config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MAX_SIZE_TRAIN = (30, 50), 90
    config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST = 50, 90
    return config


@pytest.fixture
def make_record(make_image):
    def make(name="a.png", size=(40, 60), **more):
        def annotation(box, **extra):
            x, y, w, h = box
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            fixed = {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, "segmentation": [polygon]}
            return {**fixed, "iscrowd": 0, **extra}

        annotations = [annotation([5.0, 6.0, 20.0, 10.0]), annotation([0.0, 0.0, 30.0, 30.0], iscrowd=1)]
        path = make_image(name, size)
        return {"file_name": path, "height": size[0], "width": size[1], "annotations": annotations, "id": 5, **more}

    return make


def assert_same(ours: dict, stock: dict) -> None:
    assert set(ours) == set(stock)
    assert torch.equal(ours["image"], stock["image"])
    assert ours["image"].dtype == torch.uint8
    for key in set(stock) - {"image", "instances"}:
        assert ours[key] == stock[key]
    if "instances" in stock:
        assert ours["instances"].image_size == stock["instances"].image_size
        assert set(ours["instances"].get_fields()) == set(stock["instances"].get_fields())
        assert torch.equal(ours["instances"].gt_boxes.tensor, stock["instances"].gt_boxes.tensor)
        assert torch.equal(ours["instances"].gt_classes, stock["instances"].gt_classes)


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("mask_on", [True, False])
@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("cache", [True, False])
def test_same_as_stock_on_good_data(cfg, make_record, is_train, mask_on, crop, cache):
    cfg.MODEL.MASK_ON, cfg.INPUT.CROP.ENABLED, cfg.INPUT.CACHE = mask_on, crop, cache
    record = make_record()
    if mask_on and crop:  # fvcore crops polygons with shapely, which is no requirement; masks need nothing
        cfg.INPUT.MASK_FORMAT = "bitmask"
        polygons = record["annotations"][0]["segmentation"]
        record["annotations"][0]["segmentation"] = mask_api.merge(mask_api.frPyObjects(polygons, 40, 60))
    before = copy.deepcopy(record)
    ours, stock = RobustMapper(cfg, is_train), DatasetMapper(cfg, is_train)
    for seed in range(4):
        np.random.seed(seed)
        expected = stock(record)
        np.random.seed(seed)
        assert_same(ours(record), expected)
    assert record == before


def test_masks_are_mapped_with_the_boxes(cfg, make_record):
    cfg.MODEL.MASK_ON = True
    instances = RobustMapper(cfg, True)(make_record())["instances"]
    assert torch.allclose(instances.gt_masks.get_bounding_boxes().tensor, instances.gt_boxes.tensor, atol=1e-3)


def test_a_box_without_mask_among_masks(cfg, make_record):
    record = make_record()
    bare = {k: v for k, v in record["annotations"][0].items() if k != "segmentation"}
    record["annotations"].insert(0, bare)
    assert len(RobustMapper(cfg, True)(record)["instances"]) == 2
    cfg.MODEL.MASK_ON = True
    instances = RobustMapper(cfg, True)(record)["instances"]
    assert len(instances) == len(instances.gt_masks) == 1


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("size, shape", [((4000, 1), (90, 1)), ((1, 4000), (1, 90)), ((1, 60), (2, 90))])
def test_a_very_thin_image_keeps_both_sides(cfg, make_record, is_train, size, shape):
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (50,), "none"
    record = make_record(size=size)
    record["annotations"][0].update(bbox=[0.0, 0.0, 1.0, 1.0])
    mapped = RobustMapper(cfg, is_train)(record)
    assert mapped["image"].shape[1:] == shape
    if is_train:
        x_scale, y_scale = shape[1] / mapped["width"], shape[0] / mapped["height"]
        assert mapped["instances"].gt_boxes.tensor[0].tolist() == pytest.approx([0, 0, x_scale, y_scale])


def test_record_without_annotations_gets_no_instances(cfg, make_record):
    record = make_record()
    del record["annotations"]
    assert "instances" not in RobustMapper(cfg, True)(record)
    assert len(RobustMapper(cfg, True)(make_record(annotations=[]))["instances"]) == 0


@pytest.mark.parametrize("is_train", [True, False])
def test_size_of_the_image_wins(cfg, make_record, is_train):
    with pytest.raises(ValueError):
        DatasetMapper(cfg, is_train)(make_record(height=99))
    mapped = RobustMapper(cfg, is_train)(make_record(height=99))
    assert (mapped["height"], mapped["width"]) == (40, 60)
    assert RobustMapper(cfg, is_train)(make_record(width=None))["width"] == 60


def test_both_flips_pass_through_the_config(cfg):
    cfg.INPUT.RANDOM_FLIP = "both"
    assert len(RobustMapper(cfg, True).augmentations.augs) == 3
    assert len(RobustMapper(cfg, False).augmentations.augs) == 1
    assert cfg.INPUT.RANDOM_FLIP == "both"


@pytest.mark.parametrize("broken", ["cut off", "gone", "no image"])
def test_unreadable_image_is_skipped_in_training_and_named_in_evaluation(
    cfg, make_record, make_truncated, tmp_path, broken, caplog
):
    record = make_record()
    if broken == "cut off":
        record["file_name"] = make_truncated("t.jpg", (200, 200))
    else:
        record["file_name"] = str(tmp_path / "x.jpg")
        if broken == "no image":
            (tmp_path / "x.jpg").write_text("text")
    mapper = RobustMapper(cfg, True)
    with caplog.at_level(logging.WARNING, logger="defcn_ext"):
        assert [mapper(record) for _ in range(12)] == [None] * 12
    told = [r.getMessage() for r in caplog.records]
    assert [m.split()[0] for m in told] == ["1", "10"]
    assert record["file_name"] in told[0]
    if broken == "cut off":
        return
    with pytest.raises(UnreadableImageError, match=f"{record['file_name']}: cannot be read"):
        RobustMapper(cfg, False)(record)


@pytest.mark.parametrize("channels, form", [(3, "BGR"), (1, "L")])
def test_an_image_that_cannot_be_decoded_is_evaluated_as_a_blank_one(
    cfg, make_record, make_truncated, caplog, channels, form
):
    cfg.INPUT.FORMAT = form
    record = make_record(height=99)
    record["file_name"] = make_truncated("t.jpg", (60, 120))
    mapper = RobustMapper(cfg, False)
    mapped = mapper(record)
    assert mapped["image"].shape == (channels, 45, 90) and not mapped["image"].any()
    assert (mapped["height"], mapped["width"]) == (60, 120)
    for _ in range(9):
        mapper(record)
    assert [r.getMessage().split()[0] for r in caplog.records] == ["1", "10"]
    assert record["file_name"] in caplog.text


def test_gives_up_when_nothing_can_be_read(cfg, make_record, monkeypatch):
    monkeypatch.setattr(mapper_module, "GIVE_UP_AFTER", 3)
    mapper, good, bad = RobustMapper(cfg, True), make_record(), {**make_record(), "file_name": "gone.jpg"}
    assert [mapper(r) is None for r in (bad, bad, good, bad, bad)] == [True, True, False, True, True]
    with pytest.raises(UnreadableImageError, match=r"3 images in a row cannot be read, the last: gone\.jpg"):
        mapper(bad)


def test_cache_reads_each_file_once_and_hands_out_fresh_pixels(cfg, make_record, monkeypatch):
    reads = []
    original = mapper_module.utils.read_image
    monkeypatch.setattr(mapper_module.utils, "read_image", lambda p, format: reads.append(p) or original(p, format))
    cfg.INPUT.CACHE, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = True, (40,), "none"
    mapper, record = RobustMapper(cfg, True), make_record()
    first = mapper(record)["image"]
    expected = first.clone()
    first.zero_()
    assert torch.equal(mapper(record)["image"], expected)
    assert len(reads) == 1
    cfg.INPUT.CACHE = False
    uncached = RobustMapper(cfg, True)
    uncached(record), uncached(record)
    assert len(reads) == 3


def test_gives_up_when_every_file_has_failed_and_not_when_one_fails_often(cfg, make_record):
    mapper = RobustMapper(cfg, True, num_records=2)
    good, bad, worse = make_record(), *({**make_record(), "file_name": f"{name}.jpg"} for name in ("bad", "worse"))
    assert [mapper(r) is None for r in (bad, bad, bad, good, worse)] == [True, True, True, False, True]
    with pytest.raises(UnreadableImageError, match=r"none of 2 images can be read, the last: bad\.jpg"):
        mapper(bad)


def test_a_cached_image_is_a_good_one(cfg, make_record):
    cfg.INPUT.CACHE = True
    mapper = RobustMapper(cfg, True, num_records=2)
    good, bad = make_record(), [{**make_record(), "file_name": f"{i}.jpg"} for i in range(3)]
    assert [mapper(r) is None for r in (good, bad[0], good, bad[1], good, bad[2])] == [False, True] * 3
    assert "blank" not in mapper(good)
