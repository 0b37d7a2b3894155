"""How augmentations choose and apply transforms."""

from unittest import mock

import numpy as np
import pytest

from detectron2.data import transforms as T
from tests.standin import raised, says


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


def test_aug_input(z, golden, image):
    facts = golden["auginput"]
    inputs = T.AugInput(image, boxes=z["boxes_in"].astype("float32"), sem_seg=image[:, :, 0])
    assert sorted(vars(inputs)) == sorted(facts["attributes"])
    transforms = inputs.apply_augmentations([T.ResizeTransform(23, 31, 30, 40), T.HFlipTransform(40)])
    assert type(transforms).__name__ == facts["returned"]
    assert [type(t).__name__ for t in transforms.transforms] == facts["members"]
    np.testing.assert_array_equal(inputs.image, z["auginput/image"])
    np.testing.assert_array_equal(inputs.sem_seg, z["auginput/sem_seg"])
    assert inputs.boxes.dtype == np.float32
    close(inputs.boxes, z["auginput/boxes"])
    assert raised(T.AugInput, image.tolist()) == facts["needs_ndarray"]["raises"]
    assert raised(T.AugInput, image, z["boxes_in"]) == facts["boxes_keyword_only"]["raises"]
    assert facts["image_is_keyword_or_first"] and T.AugInput(image=image).image is image


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(np.zeros((4, 4), dtype="int64"), marks=pytest.mark.standin_only("integers of other sizes too")),
        np.zeros((1, 4, 4, 3), dtype="uint8"),
    ],
)
def test_aug_input_refuses_what_is_no_image(bad):
    with pytest.raises(AssertionError):
        T.AugInput(bad)


def test_apply_augmentations(golden, image):
    changed, transforms = T.apply_augmentations([T.RandomFlip(prob=1.0)], image)
    kinds = {"first": type(changed).__name__, "second": type(transforms).__name__}
    assert kinds == golden["apply_augmentations_on_ndarray"]
    assert type(transforms + transforms).__name__ == golden["transform_list_add"]["type"]
    _, never = T.apply_augmentations([T.RandomFlip(prob=0.0)], T.AugInput(image))
    assert [type(t).__name__ for t in never.transforms] == golden["noop_in_list"]
    assert T.apply_transform_gens is T.apply_augmentations
    assert (T.TransformGen, T.StandardAugInput) == (T.Augmentation, T.AugInput)


class FlipWithBoxes(T.Augmentation):
    def get_transform(self, image, boxes):
        assert boxes.shape == (2, 4)
        return T.HFlipTransform(image.shape[1])


class AnyName(T.Augmentation):
    def get_transform(self, picture):
        assert picture.ndim == 3
        return T.NoOpTransform()


class NeedsMore(T.Augmentation):
    def get_transform(self, image, depth):
        return T.NoOpTransform()


class ReturnsNothing(T.Augmentation):
    def get_transform(self, image):
        return None


class Variadic(T.Augmentation):
    def get_transform(self, *inputs):
        return T.NoOpTransform()


def test_arguments_of_get_transform_name_inputs(z, golden, image):
    inputs = T.AugInput(image, boxes=z["boxes_in"])
    transforms = T.AugmentationList([FlipWithBoxes(), AnyName()])(inputs)
    assert [type(t).__name__ for t in transforms.transforms] == golden["augmentation_two_args"]
    np.testing.assert_array_equal(inputs.image, image[:, ::-1])
    single = golden["augmentation_single_arg_any_name_gets_image"]
    assert single["ok"] and type(AnyName()(inputs)).__name__ == single["type"]
    assert raised(NeedsMore(), inputs) == golden["augmentation_missing_input"]["raises"]
    assert raised(ReturnsNothing(), inputs) == golden["augmentation_wrong_return"]["raises"]
    with pytest.raises(TypeError, match=says("inputs")):
        Variadic()(inputs)


def test_random_apply(image):
    flip = mock.MagicMock(spec=T.Augmentation)
    apply = T.RandomApply(flip, prob=0.5)
    with mock.patch.object(apply, "_rand_range", return_value=0.51):
        assert type(apply.get_transform(image)) is T.NoOpTransform
    flip.get_transform.assert_not_called()
    with mock.patch.object(apply, "_rand_range", return_value=0.49):
        assert apply.get_transform(image) is flip.get_transform.return_value
    inputs = T.AugInput(image)
    assert type(T.RandomApply(T.HFlipTransform(31), prob=1.0)(inputs)) is T.HFlipTransform
    np.testing.assert_array_equal(inputs.image, image[:, ::-1])
    with pytest.raises(AssertionError):
        T.RandomApply(flip, prob=1.1)
