"""The mapper, against values measured on Detectron2."""

import copy
import itertools
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from tests.standin import raised


@pytest.fixture(scope="module")
def z(facts):
    return facts("golden_transforms.npz")


@pytest.fixture(scope="module")
def golden(facts):
    return facts("golden_transforms.json")


@pytest.fixture
def image(z):
    return z["image_uint8"].copy()


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * max(np.abs(expected).max(), 1e-12))


@pytest.fixture
def png(tmp_path, image):
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    return str(path)


def mapper_config(mask_on=False):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (46,), 100
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 46, 100
    cfg.MODEL.MASK_ON = mask_on
    return cfg


@pytest.fixture
def record(png, golden):
    return {
        "file_name": png,
        "height": 23,
        "width": 31,
        "image_id": 1,
        "extra": "kept",
        "annotations": copy.deepcopy(golden["annotations_in"]),
    }


@pytest.mark.parametrize("is_train, mask_on", list(itertools.product([True, False], repeat=2)))
def test_mapper(z, golden, record, is_train, mask_on):
    key = f"train={is_train},mask_on={mask_on}"
    facts, before = golden["mapper"][key], copy.deepcopy(record)
    mapper = DatasetMapper(mapper_config(mask_on), is_train)
    np.random.seed(0)
    item = mapper(record)
    assert sorted(item) == facts["keys"]
    assert [str(item["image"].dtype), list(item["image"].shape)] == facts["image"]
    np.testing.assert_array_equal(item["image"], z[f"mapper/{key}/image"])
    assert [item["height"], item["width"]] == facts["height_width"]
    assert str(mapper.augmentations) == facts["augmentations"]
    assert (record == before) is facts["input_record_unchanged"]
    if is_train:
        instances = item["instances"]
        assert {
            "image_size": list(instances.image_size),
            "n": len(instances),
            "fields": {name: type(value).__name__ for name, value in instances.get_fields().items()},
        } == facts["instances"]
        close(instances.gt_boxes.tensor.numpy(), z[f"mapper/{key}/boxes"])
        np.testing.assert_array_equal(instances.gt_classes, z[f"mapper/{key}/classes"])


def test_mapper_augmentations_from_config(golden):
    facts = golden["mapper"]
    cfg = mapper_config()
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.RANDOM_FLIP = True, "none"
    assert str(DatasetMapper(cfg, True).augmentations) == facts["crop_enabled"]
    assert str(DatasetMapper(cfg, False).augmentations) == facts["crop_enabled_test"]
    assert not DatasetMapper(cfg, True).recompute_boxes
    cfg.MODEL.MASK_ON = True
    assert DatasetMapper(cfg, True).recompute_boxes
    cfg = mapper_config()
    cfg.INPUT.RANDOM_FLIP = "vertical"
    assert str(DatasetMapper(cfg, True).augmentations) == facts["vertical"]
    for kind, is_train in (("train", True), ("test", False)):
        assert list(map(repr, utils.build_augmentation(get_cfg(), is_train))) == golden["build_augmentation"][kind]


def test_mapper_formats_and_sizes(golden, record):
    facts = golden["mapper"]
    cfg = mapper_config()
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST = "RGB", 0
    unresized = DatasetMapper(cfg, False)(record)["image"]
    assert list(unresized.shape) == facts["test_min_size_0_shape"]
    assert unresized[:, 0, 0].tolist() == facts["format_RGB_first_pixel"]
    mapper = DatasetMapper(mapper_config(), True)
    assert raised(mapper, {**record, "width": 32}) == facts["wrong_width"]["raises"]
    bare = {k: v for k, v in record.items() if k not in ("width", "height")}
    item = mapper(bare)
    assert [item["height"], item["width"]] == facts["width_height_absent_filled"]


def test_mapper_without_objects(golden, record):
    facts = golden["mapper"]
    mapper = DatasetMapper(mapper_config(mask_on=True), True)
    instances = mapper({**record, "annotations": []})["instances"]
    assert {"n": len(instances), "fields": sorted(instances.get_fields())} == facts["no_annotations"]
    record.pop("annotations")
    assert sorted(mapper(record)) == facts["annotations_key_absent"]


def test_mapper_without_config(golden, record):
    facts = golden["mapper"]
    augmentations = [T.RandomFlip(prob=1.0)]
    explicit = DatasetMapper(is_train=True, augmentations=augmentations, image_format="BGR")
    assert type(explicit).__name__ == facts["explicit_constructor"]["type"]
    explicit = DatasetMapper(True, augmentations=[T.HFlipTransform(31)], image_format="BGR")
    assert type(explicit).__name__ == facts["explicit_with_transform"]["type"]
    assert explicit(record)["instances"].gt_boxes.tensor[0].tolist() == [31 - 16, 3, 31 - 4, 13]
    refused = raised(DatasetMapper, True, augmentations=[], image_format="BGR", recompute_boxes=True)
    assert refused == facts["recompute_boxes_without_masks"]["raises"]


def test_mapper_recomputes_boxes_from_masks(record):
    # Only the mask says that the object ends at x = 10.
    mask = np.zeros((23, 31), dtype=np.uint8, order="F")
    mask[2:12, 2:10] = 1
    record["annotations"] = [
        {
            "bbox": [2.0, 2.0, 20.0, 20.0],
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": 0,
            "segmentation": mask_util.encode(mask),
        }
    ]
    settings = {
        "augmentations": [T.CropTransform(1, 1, 25, 20, 31, 23)],
        "image_format": "BGR",
        "use_instance_mask": True,
        "instance_mask_format": "bitmask",
    }
    kept, recomputed = (DatasetMapper(True, recompute_boxes=recompute, **settings) for recompute in (False, True))
    assert kept(record)["instances"].gt_boxes.tensor.tolist() == [[1, 1, 19, 19]]
    assert recomputed(record)["instances"].gt_boxes.tensor.tolist() == [[1, 1, 9, 11]]


def test_mapper_reads_segmentations(record, tmp_path, image):
    path = tmp_path / "seg.png"
    Image.fromarray(image[:, :, 0]).save(path)
    record["sem_seg_file_name"] = str(path)
    item = DatasetMapper(True, augmentations=[T.HFlipTransform(31)], image_format="BGR")(record)
    np.testing.assert_array_equal(item["sem_seg"], image[:, ::-1, 0])
    assert "sem_seg_file_name" not in item and Path(record["sem_seg_file_name"]).exists()
