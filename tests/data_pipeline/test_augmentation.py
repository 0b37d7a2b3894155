"""Augmentations from the config: Detectron2's by default, more where a key says so."""

import numpy as np
import pytest

from defcn_ext.data import add_data_config, build_train_augmentation
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.data.detection_utils import (
    annotations_to_instances,
    build_augmentation,
    filter_empty_instances,
    transform_instance_annotations,
)
from detectron2.structures import BoxMode


@pytest.fixture
def cfg():
    config = get_cfg()
    add_data_config(config)
    config.INPUT.MIN_SIZE_TRAIN, config.INPUT.MAX_SIZE_TRAIN = (46, 64), 100
    return config


@pytest.mark.parametrize("flip", ["horizontal", "vertical", "none"])
@pytest.mark.parametrize("sampling", ["choice", "range"])
def test_defaults_are_detectron2s(cfg, flip, sampling):
    cfg.INPUT.RANDOM_FLIP, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = flip, sampling
    assert repr(build_train_augmentation(cfg)) == repr(build_augmentation(cfg, is_train=True))


def test_crop_comes_first(cfg):
    cfg.INPUT.CROP.ENABLED = True
    expected = "RandomCrop(crop_type='relative_range', crop_size=[0.9, 0.9])"
    assert repr(build_train_augmentation(cfg)[0]) == expected


def test_both_flips(cfg):
    cfg.INPUT.FLIP_BOTH = True
    augmentations = T.AugmentationList(build_train_augmentation(cfg))
    image = np.zeros((46, 46, 3), dtype=np.uint8)
    image[0, 0] = 255
    corners = set()
    for _ in range(60):
        inputs = T.AugInput(image.copy())
        augmentations(inputs)
        y, x = np.argwhere(inputs.image[..., 0] > 100)[0] * 2 // inputs.image.shape[0]
        corners.add((int(y), int(x)))
    assert corners == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_scale_jitter_gives_squares_and_moves_boxes_along(cfg):
    cfg.INPUT.SCALE_JITTER, cfg.INPUT.RANDOM_FLIP = (0.5, 2.0), "none"
    augmentations = T.AugmentationList(build_train_augmentation(cfg))
    scales = []
    for _ in range(40):
        inputs = T.AugInput(np.zeros((32, 64, 3), dtype=np.uint8), boxes=np.array([[16.0, 8.0, 48.0, 24.0]]))
        transforms = augmentations(inputs)
        assert inputs.image.shape == (64, 64, 3)
        box = transforms.apply_box(np.array([[16.0, 8.0, 48.0, 24.0]]))[0]
        scales.append((box[2] - box[0]) / 32)
    assert 0.45 < min(scales) < 0.8 and 1.6 < max(scales) < 2.05
    cfg.INPUT.SCALE_JITTER_SIZE = 96
    assert "96" in repr(build_train_augmentation(cfg)[1])


def test_color_jitter_changes_pixels_not_boxes(cfg):
    cfg.INPUT.COLOR_JITTER, cfg.INPUT.RANDOM_FLIP = 0.3, "none"
    cfg.INPUT.MIN_SIZE_TRAIN = (46,)
    image = np.random.RandomState(0).randint(60, 180, (46, 46, 3)).astype(np.uint8)
    inputs = T.AugInput(image)
    transforms = T.AugmentationList(build_train_augmentation(cfg))(inputs)
    assert inputs.image.dtype == np.uint8
    assert 1 < np.abs(inputs.image.astype(int) - image).mean() < 120
    box = np.array([[1.0, 2.0, 3.0, 4.0]])
    assert np.array_equal(transforms.apply_box(box), box)


def draws_of_detr_crop(cfg, size, count=200):
    """Of each draw: the sizes (height, width) of the crop, or None, and of the result; seeded."""
    cfg.INPUT.DETR_CROP.ENABLED, cfg.INPUT.RANDOM_FLIP = True, "none"
    augmentations = T.AugmentationList(build_train_augmentation(cfg))
    np.random.seed(0)
    draws = []
    for _ in range(count):
        inputs = T.AugInput(np.zeros((*size, 1), dtype=np.uint8))
        crops = [t for t in augmentations(inputs).transforms if hasattr(t, "x0")]
        draws.append(((crops[0].h, crops[0].w) if crops else None, inputs.image.shape[:2]))
    return draws


def test_detr_crop_cuts_half_of_the_images_then_resizes_all(cfg):
    """A tenth of DATE's sizes. 48 x 64 pixels at a short side of 40, 50, 60 are 53, 67, 80 wide."""
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (48, 80), 133
    cfg.INPUT.DETR_CROP.SIZES, cfg.INPUT.DETR_CROP.CROP = (40, 50, 60), (38, 60)
    draws = draws_of_detr_crop(cfg, (48, 64))
    crops = [crop for crop, _ in draws if crop]
    assert 80 <= len(crops) <= 120
    assert {result for crop, result in draws if not crop} == {(48, 64), (80, 107)}
    heights, widths = zip(*crops)
    assert (min(heights), max(heights), min(widths), max(widths)) == (38, 60, 38, 60)
    for crop, result in (draw for draw in draws if draw[0]):
        assert result in {T.ResizeShortestEdge.get_output_shape(*crop, side, 133) for side in (48, 80)}


def test_detr_crop_is_limited_by_the_image(cfg):
    """A short side of 40 is below CROP's 45: the crop keeps it whole, and cuts the other side, 160, to 45 ... 60."""
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (48,), 200
    cfg.INPUT.DETR_CROP.SIZES, cfg.INPUT.DETR_CROP.CROP = (40,), (45, 60)
    crops = [crop for crop, _ in draws_of_detr_crop(cfg, (20, 80)) if crop]
    assert {height for height, _ in crops} == {40}
    assert {width for _, width in crops} == set(range(45, 61))


def test_detr_crop_leaves_the_rest_of_each_box_and_may_leave_none(cfg):
    """The mapper clips boxes to the crop, and drops those outside. Every pixel of an object is 255, all others 0."""
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (40,), 1000, "none"
    cfg.INPUT.DETR_CROP.ENABLED, cfg.INPUT.DETR_CROP.SIZES, cfg.INPUT.DETR_CROP.CROP = True, (80,), (30, 30)
    augmentations = T.AugmentationList(build_train_augmentation(cfg))
    picture = np.zeros((80, 80, 3), dtype=np.uint8)
    picture[10:40, 20:60] = 255
    annotation = {"bbox": [20, 10, 60, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    np.random.seed(0)
    counts = []
    for _ in range(60):
        inputs = T.AugInput(picture)
        transforms = augmentations(inputs)
        size = inputs.image.shape[:2]
        moved = transform_instance_annotations(dict(annotation), transforms, size)
        boxes = filter_empty_instances(annotations_to_instances([moved], size)).gt_boxes.tensor
        counts.append(len(boxes))
        y, x = np.nonzero(inputs.image[..., 0] > 127)
        assert len(boxes) == (len(y) > 0)
        for box in boxes.numpy():
            assert np.abs(box - [x.min(), y.min(), x.max() + 1, y.max() + 1]).max() <= 1
    assert 0 < counts.count(0) < 30


def test_detr_crop_and_scale_jitter_exclude_each_other(cfg):
    cfg.INPUT.DETR_CROP.ENABLED, cfg.INPUT.SCALE_JITTER = True, (0.5, 2.0)
    with pytest.raises(ValueError, match=r"INPUT\.DETR_CROP\.ENABLED and INPUT\.SCALE_JITTER"):
        build_train_augmentation(cfg)


@pytest.mark.parametrize(
    ("key", "value"), [("SIZES", ()), ("SIZES", (0, 400)), ("CROP", (600, 384)), ("CROP", (384,)), ("CROP", (0, 600))]
)
def test_detr_crop_names_values_out_of_range(cfg, key, value):
    cfg.INPUT.DETR_CROP.ENABLED, cfg.INPUT.DETR_CROP[key] = True, value
    with pytest.raises(ValueError, match=rf"INPUT\.DETR_CROP\.{key}: "):
        build_train_augmentation(cfg)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("RANDOM_FLIP", "diagonal", r"INPUT\.RANDOM_FLIP: unknown value 'diagonal'; known: none, horizontal"),
        ("SCALE_JITTER", (2.0, 0.5), r"INPUT\.SCALE_JITTER: \(2\.0, 0\.5\): expected"),
        ("SCALE_JITTER", (1.0,), r"INPUT\.SCALE_JITTER"),
        ("COLOR_JITTER", 1.0, r"INPUT\.COLOR_JITTER: 1\.0: expected 0 <= x < 1"),
    ],
)
def test_values_out_of_range_are_named(cfg, key, value, message):
    cfg.INPUT[key] = value
    with pytest.raises(ValueError, match=message):
        build_train_augmentation(cfg)
