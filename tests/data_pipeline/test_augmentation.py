"""Augmentations from the config: Detectron2's by default, more where a key says so."""

import numpy as np
import pytest

from defcn_ext.data import add_data_config, build_train_augmentation
from detectron2.config import get_cfg
from detectron2.data import transforms as T
from detectron2.data.detection_utils import build_augmentation


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
    cfg.INPUT.RANDOM_FLIP = "both"
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
