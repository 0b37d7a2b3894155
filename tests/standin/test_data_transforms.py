"""Transforms, augmentations, image reading and the mapper, against values measured on Detectron2."""

import copy
import itertools
from pathlib import Path
from unittest import mock

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from PIL import Image

from detectron2.config import get_cfg
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode
from tests.standin import says


@pytest.fixture(scope="module")
def z(facts):
    return facts("golden_transforms.npz")


@pytest.fixture(scope="module")
def golden(facts):
    return facts("golden_transforms.json")


@pytest.fixture
def image(z):
    return z["image_uint8"].copy()


def resize_and_flip():
    return T.TransformList([T.ResizeTransform(23, 31, 46, 62), T.HFlipTransform(62)])


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * max(np.abs(expected).max(), 1e-12))


def raised(function, *args, **kwargs) -> str | None:
    try:
        function(*args, **kwargs)
    except Exception as error:
        return type(error).__name__
    return None


# Resizing


def test_output_shape_of_every_measured_size(z):
    grid = z["resize_shortest_edge/grid_h_w_short_max_newh_neww"]
    computed = [T.ResizeShortestEdge.get_output_shape(*row[:4].tolist()) for row in grid]
    assert len(computed) == 312
    np.testing.assert_array_equal(computed, grid[:, 4:])


@pytest.mark.parametrize(
    "key, interp, prepare",
    [
        ("uint8_40x17", None, lambda image: image),
        ("uint8_40x17_nearest", 0, lambda image: image),
        ("uint8_40x17_bicubic", 3, lambda image: image),
        ("gray_1ch_40x17", None, lambda image: image[:, :, :1]),
    ],
)
def test_resize_of_uint8_is_exact(z, image, key, interp, prepare):
    resized = T.ResizeTransform(23, 31, 40, 17).apply_image(prepare(image), interp)
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized, z[f"resize/{key}"])


def test_resize_of_floats_segmentations_coordinates_and_boxes(z, image):
    resize = T.ResizeTransform(23, 31, 40, 17)
    close(resize.apply_image(image.astype("float32")), z["resize/float32_40x17"])
    np.testing.assert_array_equal(resize.apply_segmentation(image[:, :, 0]), z["resize/seg_40x17"])
    close(resize.apply_coords(z["resize/coords_in"].copy()), z["resize/coords_40x17"])
    close(resize.apply_box(z["boxes_in"]), z["resize/boxes_40x17"])
    np.testing.assert_array_equal(T.ResizeTransform(23, 31, 46, 62).apply_image(image), z["resize/uint8_46x62"])


def test_resize_traits(z, golden, image):
    resize = T.ResizeTransform(23, 31, 40, 17)
    inverse = resize.inverse()
    assert {"class": type(inverse).__name__, **{k: getattr(inverse, k) for k in ("h", "w", "new_h", "new_w")}} == (
        golden["resize.inverse"]
    )
    coords, boxes = z["resize/coords_in"].copy(), z["boxes_in"].copy()
    resize.apply_coords(coords)
    resize.apply_box(boxes)
    assert (not np.array_equal(coords, z["resize/coords_in"])) is golden["resize.apply_coords_modifies_input"]
    assert (not np.array_equal(boxes, z["boxes_in"])) is golden["resize.apply_box_modifies_input"]
    assert raised(resize.apply_image, image[:-1]) == golden["resize.wrong_input_size"]["raises"]
    # torch's own error: a plain RuntimeError in 2.4, later the more special one that was recorded
    assert raised(resize.apply_image, image.astype("int32")) in (golden["resize.int32"]["raises"], "RuntimeError")
    assert str(resize.apply_image(image).dtype) == golden["resize.uint8_out_dtype"]
    assert str(resize.apply_image(image.astype(float)).dtype) == golden["resize.float64_out_dtype"]
    assert list(resize.apply_image(image[:, :, 0]).shape) == golden["resize.2d_ok"]
    for channels in (2, 4):
        assert golden[f"resize.{channels}_channels"]["ok"]
        many = np.repeat(image[:, :, :1], channels, axis=2)
        assert resize.apply_image(many).shape == (40, 17, channels)


def test_random_resizes_follow_the_measured_draws(golden, image):
    cases = [
        ("resize_choice_seed0", T.ResizeShortestEdge((20, 25, 30), sample_style="choice")),
        ("resize_range_seed0", T.ResizeShortestEdge((20, 30), sample_style="range")),
        ("resize_scale_seed0", T.ResizeScale(0.5, 1.5, 40, 50)),
    ]
    for key, augmentation in cases:
        np.random.seed(0)
        drawn = [augmentation.get_transform(image) for _ in golden[key]]
        assert [[t.new_h, t.new_w] for t in drawn] == golden[key], key


def test_resize_shortest_edge_traits(golden, image):
    facts = golden["resize_shortest_edge"]
    one = T.ResizeShortestEdge(20)
    assert list(one.short_edge_length) == facts["int_argument_short_edge_length"]
    assert one.sample_style == facts["default_sample_style"]
    assert one.interp == facts["interp_default"]
    zero = T.ResizeShortestEdge(0, sample_style="choice").get_transform(image)
    assert type(zero).__name__ == facts["zero_size_gives"]
    assert raised(T.ResizeShortestEdge, (20, 25, 30)) == facts["range_needs_two"]["raises"]
    assert raised(T.ResizeShortestEdge, (20, 30), sample_style="any") == facts["unknown_style"]["raises"]
    assert repr(T.ResizeShortestEdge((640, 800), 1333, "choice")) == facts["repr"]
    assert repr(T.RandomFlip()) == facts["repr_flip"]


def test_augmentations_print_what_they_were_given():
    """Also an argument that equals its default."""
    assert str(T.RandomCrop("relative", (100, 100))) == "RandomCrop(crop_type='relative', crop_size=(100, 100))"
    given, left = T.RandomFlip(prob=float("0.5")), T.RandomFlip()
    assert (str(given), str(left)) == ("RandomFlip(prob=0.5)", "RandomFlip()")
    assert str(T.AugmentationList([given, left])) == "AugmentationList[RandomFlip(prob=0.5), RandomFlip()]"
    assert repr(T.RandomCrop("relative", np.zeros((9, 2)))) == "RandomCrop(crop_type='relative', crop_size=...)"


def test_fixed_sizes(image):
    assert T.Resize(12).get_transform(image).apply_image(image).shape == (12, 12, 3)
    assert T.Resize((12, 7)).get_transform(image).apply_image(image).shape == (12, 7, 3)
    shapes = {T.RandomResize([(10, 11), (12, 13)]).get_transform(image).apply_image(image).shape for _ in range(20)}
    assert shapes == {(10, 11, 3), (12, 13, 3)}


# Flips, crops, colours, rotations


@pytest.mark.parametrize("name, flip", [("hflip", T.HFlipTransform(31)), ("vflip", T.VFlipTransform(23))])
def test_flips(z, image, name, flip):
    np.testing.assert_array_equal(flip.apply_image(image), z[f"{name}/image"])
    close(flip.apply_box(z["boxes_in"]), z[f"{name}/boxes"])
    close(flip.apply_coords(z["resize/coords_in"].copy()), z[f"{name}/coords"])


def test_horizontal_flip_is_a_view(golden, image):
    assert T.HFlipTransform(31).apply_image(image).flags.c_contiguous is golden["hflip_is_contiguous"]


@pytest.mark.parametrize(
    "key, seed, arguments, transform",
    [
        ("random_flip_seed0", 0, {}, T.HFlipTransform),
        ("random_vflip_prob0.3_seed1", 1, {"prob": 0.3, "horizontal": False, "vertical": True}, T.VFlipTransform),
    ],
)
def test_random_flips_follow_the_measured_draws(golden, image, key, seed, arguments, transform):
    augmentation = T.RandomFlip(**arguments)
    np.random.seed(seed)
    drawn = [augmentation.get_transform(image) for _ in golden[key]]
    assert ["flip" if type(t) is transform else "noop" for t in drawn] == golden[key]


def test_random_flip_needs_one_direction(golden):
    assert raised(T.RandomFlip, horizontal=True, vertical=True) == golden["random_flip_both"]["raises"]
    assert raised(T.RandomFlip, horizontal=False) == golden["random_flip_none"]["raises"]


def test_crop(z, image):
    crop = T.CropTransform(4, 6, 20, 10)
    np.testing.assert_array_equal(crop.apply_image(image), z["crop/image_x4_y6_w20_h10"])
    close(crop.apply_box(z["boxes_in"]), z["crop/boxes"])


@pytest.mark.parametrize(
    "crop_type, crop_size",
    [
        ("relative_range", (0.6, 0.5)),
        ("absolute", (10, 12)),
        ("relative", (0.5, 0.25)),
        ("absolute_range", (10, 20)),
    ],
)
def test_random_crops_follow_the_measured_draws(golden, image, crop_type, crop_size):
    augmentation = T.RandomCrop(crop_type, crop_size)
    np.random.seed(0)
    drawn = [augmentation.get_transform(image) for _ in range(20)]
    assert [[t.x0, t.y0, t.w, t.h] for t in drawn] == golden[f"random_crop_{crop_type}_seed0"]


def test_fixed_size_crop(z, golden, image):
    np.random.seed(2)
    transforms = T.FixedSizeCrop((30, 20)).get_transform(image)
    facts = golden["fixed_size_crop_seed2"]
    assert [type(t).__name__ for t in transforms.transforms] == facts["transforms"]
    cropped = transforms.apply_image(image)
    assert list(cropped.shape) == facts["out_shape"]
    np.testing.assert_array_equal(cropped, z["fixed_size_crop/30x20_seed2"])
    assert transforms.apply_segmentation(image[:, :, 0])[-1, -1] == 255


@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Saturation"])
def test_colours(z, image, name):
    np.random.seed(3)
    changed = getattr(T, f"Random{name}")(0.7, 1.3).get_transform(image).apply_image(image)
    np.testing.assert_array_equal(changed, z[f"color/{name.lower()}_seed3"])


def test_lighting_shifts_each_channel_by_one_amount(image):
    image = image.astype("float64")
    np.random.seed(0)
    shift = T.RandomLighting(10.0).get_transform(image).apply_image(image) - image
    np.random.seed(0)
    w1, w2, w3 = np.random.normal(scale=10.0, size=3)
    red = -0.5675 * 0.2175 * w1 + 0.7192 * 0.0188 * w2 + 0.4009 * 0.0045 * w3
    np.testing.assert_allclose(shift[:, :, 0], red, rtol=1e-6)
    assert np.ptp(shift, axis=(0, 1)).max() < 1e-6


def test_random_rotation(z, golden, image):
    np.random.seed(3)
    rotation = T.RandomRotation([-30, 30]).get_transform(image)
    facts = golden["rotation_seed3"]
    assert {"angle": rotation.angle, "bound_h": rotation.bound_h, "bound_w": rotation.bound_w} == facts
    close(rotation.apply_coords(z["resize/coords_in"].copy()), z["rotation/coords_seed3"])


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_right_angles_move_pixels_without_blending(image, angle):
    rotation = T.RotationTransform(23, 31, angle)
    expected = np.rot90(image, angle // 90)
    np.testing.assert_array_equal(rotation.apply_image(image), expected)
    np.testing.assert_array_equal(rotation.apply_segmentation(image[:, :, 1]), expected[:, :, 1])


def test_rotation_of_pixels_and_of_coordinates_agree():
    blob = np.zeros((40, 50))
    blob[9:12, 29:32] = 1.0  # its centre is (30.5, 10.5)
    rotation = T.RotationTransform(40, 50, 33.0)
    rotated = rotation.apply_image(blob)
    weights = rotated / rotated.sum()
    center = [(np.arange(n) + 0.5) @ weights.sum(axis) for axis, n in ((0, rotated.shape[1]), (1, rotated.shape[0]))]
    np.testing.assert_allclose(center, rotation.apply_coords([[30.5, 10.5]])[0], atol=0.05)


def test_rotation_keeps_the_fixed_point_and_inverts():
    fixed = T.RotationTransform(40, 50, 25, expand=False, center=(10, 20))
    np.testing.assert_allclose(fixed.apply_coords(np.array([[10.0, 20.0]])), [[10, 20]])
    assert fixed.apply_image(np.ones((40, 50))).shape == (40, 50)
    with pytest.raises(NotImplementedError):
        fixed.inverse()
    there = T.RotationTransform(40, 50, 25)
    points = np.array([[3.0, 4.0], [44.0, 20.0]])
    back = there.inverse().apply_coords(there.apply_coords(points))
    np.testing.assert_allclose(back, points, atol=1.0)  # whole-pixel margins of the enlarged image


def test_random_rotation_by_choice_and_center(image):
    rotation = T.RandomRotation([90, 90], expand=False, center=[(0.25, 0.5)], sample_style="choice").get_transform(
        image
    )
    np.testing.assert_allclose(rotation.center, (31 * 0.25, 23 * 0.5))
    assert type(T.RandomRotation(360).get_transform(image)) is T.NoOpTransform


def test_extent_reaches_outside(image):
    extent = T.ExtentTransform((-10, 0, 20, 23), (23, 30), fill=7)
    result = extent.apply_image(image)
    assert result.shape == (23, 30, 3)
    assert (result[:, :10] == 7).all()
    np.testing.assert_array_equal(result[:, 10:], image[:, :20])
    np.testing.assert_allclose(extent.apply_coords(np.array([[0.0, 5.0], [20.0, 23.0]])), [[10, 5], [30, 23]])
    assert extent.apply_image(image[:, :, :1]).shape == (23, 30, 1)
    transform = T.RandomExtent((0.5, 0.5), (0.0, 0.0)).get_transform(image)
    assert transform.output_size == (11, 15)
    np.testing.assert_allclose(transform.src_rect, (7.75, 5.75, 23.25, 17.25))


def test_color_transforms(image):
    plus = T.ColorTransform(lambda img: img + 1)
    np.testing.assert_array_equal(plus.apply_image(image), image + 1)
    assert plus.apply_segmentation(image) is image
    assert type(plus.inverse()) is T.NoOpTransform
    turned = T.PILColorTransform(lambda img: img.transpose(Image.FLIP_LEFT_RIGHT)).apply_image(image)
    np.testing.assert_array_equal(turned, image[:, ::-1])
    with pytest.raises(ValueError):
        T.ColorTransform(3)


def test_category_area_constraint_prefers_mixed_crops(image):
    segmentation = np.zeros((23, 31), dtype=np.uint8)
    segmentation[:, 16:] = 1
    augmentation = T.RandomCrop_CategoryAreaConstraint("absolute", (10, 10), single_category_max_area=0.9)
    shares = [
        (augmentation.get_transform(image, segmentation).apply_segmentation(segmentation) == 1).mean()
        for _ in range(50)
    ]
    # Of the 22 places, 8 mix enough; ten attempts find one with probability 0.99.
    assert np.mean([0.1 < share < 0.9 for share in shares]) > 0.9


def test_min_iou_crop_contains_an_object_center(image):
    boxes = np.array([[5.0, 5.0, 15.0, 15.0], [12.0, 6.0, 25.0, 20.0]])
    augmentation = T.MinIoURandomCrop(min_ious=(0.1,), mode_trials=10)
    kinds = set()
    for _ in range(40):
        crop = augmentation.get_transform(image, boxes)
        kinds.add(type(crop))
        if type(crop) is T.NoOpTransform:
            continue
        corners = np.array([crop.x0, crop.y0]), np.array([crop.x0 + crop.w, crop.y0 + crop.h])
        assert (corners[0] >= 0).all() and (corners[1] <= (31, 23)).all()
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        assert ((centers > corners[0]) & (centers < corners[1])).all(axis=1).any()
    assert kinds == {T.CropTransform, T.NoOpTransform}


def test_rotated_boxes():
    box = np.array([[200.0, 100.0, 80.0, 40.0, 30.0]])
    np.testing.assert_allclose(T.HFlipTransform(500).apply_rotated_box(box.copy()), [[300, 100, 80, 40, -30]])
    assert T.NoOpTransform().apply_rotated_box(box) is box
    np.testing.assert_allclose(
        T.ResizeTransform(300, 500, 600, 1000).apply_rotated_box(box.copy()), [[400, 200, 160, 80, 30]]
    )
    # Only x doubles: |(2 cos 30, sin 30)| = 1.80278, |(2 sin 30, cos 30)| = 1.32288, atan2(2 sin 30, cos 30) = 49.107
    np.testing.assert_allclose(
        T.ResizeTransform(300, 500, 300, 1000).apply_rotated_box(box.copy()),
        [[400, 100, 80 * 1.802776, 40 * 1.322876, 49.106605]],
        rtol=1e-6,
    )


# Augmentations


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


# Reading


@pytest.fixture
def png(tmp_path, image):
    path = tmp_path / "image.png"
    Image.fromarray(image).save(path)
    return str(path)


@pytest.mark.parametrize("format, key", [("RGB", "RGB"), ("BGR", "BGR"), ("L", "L"), ("YUV-BT.601", "YUV")])
def test_read_formats(z, png, format, key):
    read = utils.read_image(png, format)
    assert read.dtype == z[f"read/{key}"].dtype
    np.testing.assert_allclose(read, z[f"read/{key}"], rtol=1e-9, atol=1e-9)


def test_read_traits(golden, png, image, tmp_path):
    facts = golden["read"]
    assert list(utils.read_image(png).shape) == facts["default_format"]
    assert utils.read_image(png, "BGR").flags.c_contiguous is facts["BGR_contiguous"]
    assert list(utils.read_image(png, "L").shape) == facts["L_shape"]
    assert str(utils.read_image(png, "YUV-BT.601").dtype) == facts["YUV_dtype"]
    assert utils.read_image(png, "RGB").flags.writeable is facts["writeable"]
    assert raised(utils.read_image, png + ".missing") == facts["missing_file"]["raises"]
    assert raised(utils.read_image, png, "XYZZY") == facts["unknown_format"]["raises"]
    gray = str(tmp_path / "gray.png")
    Image.fromarray(image[:, :, 0]).save(gray)
    assert list(utils.read_image(gray, "BGR").shape) == facts["gray_file_as_BGR"]
    assert list(utils.read_image(gray).shape) == facts["gray_file_no_format"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(z, golden, image, tmp_path, orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(image).save(path, exif=tags)
    read = utils.read_image(str(path), "RGB")
    assert list(read.shape) == golden["read"]["exif_shapes"][str(orientation)]
    np.testing.assert_array_equal(read, z[f"read/exif_orientation_{orientation}"])


def test_image_size(golden, image):
    facts = golden["check_image_size"]
    with pytest.raises(SizeMismatchError) as error:
        utils.check_image_size({"width": 32, "height": 23, "file_name": "x"}, image)
    assert (error.type.__name__, error.type.__bases__[0].__name__) == (facts["raises"], facts["base"])
    record = {}
    utils.check_image_size(record, image)
    assert record == golden["check_image_size_fills"]


def test_convert_image_to_rgb(golden, image, png):
    facts = golden["convert_image_to_rgb"]
    assert utils.convert_image_to_rgb(image, "BGR")[0, 0].tolist() == facts["BGR_first"]
    assert utils.convert_image_to_rgb(image, "RGB")[0, 0].tolist() == facts["RGB_first"]
    assert utils.convert_image_to_rgb(torch.from_numpy(image), "BGR")[0, 0].tolist() == facts["tensor_ok"]
    yuv = utils.convert_image_to_rgb(utils.read_image(png, "YUV-BT.601"), "YUV-BT.601")
    assert np.abs(yuv.astype(int) - image).max() <= 1
    gray = utils.convert_image_to_rgb(utils.read_image(png, "L"), "L")
    assert gray.shape == (23, 31, 3) and (gray[:, :, 0] == gray[:, :, 2]).all()


# Annotations


@pytest.fixture
def transformed(golden):
    annotations = copy.deepcopy(golden["annotations_in"])
    return [utils.transform_instance_annotations(anno, resize_and_flip(), (46, 62)) for anno in annotations]


def test_transformed_annotations(z, golden, transformed):
    facts = golden["annos"]
    np.testing.assert_array_equal([anno["bbox"] for anno in transformed], z["annos/bbox_transformed"])
    assert [anno["bbox_mode"] for anno in transformed] == facts["bbox_mode_after"]
    assert {type(anno["bbox"]).__name__ for anno in transformed} == {facts["bbox_type"]}
    assert {str(anno["bbox"].dtype) for anno in transformed} == {facts["bbox_dtype"]}
    assert [type(anno["segmentation"]).__name__ for anno in transformed] == facts["segm_types"]
    polygons = [[polygon.tolist() for polygon in anno["segmentation"]] for anno in transformed[:5]]
    assert polygons == facts["polygons_transformed"]
    np.testing.assert_array_equal(transformed[5]["segmentation"], z["annos/rle_mask_transformed"])


def test_annotation_is_changed_in_place(golden):
    annotation = copy.deepcopy(golden["annotations_in"][0])
    result = utils.transform_instance_annotations(annotation, [T.HFlipTransform(31)], (23, 31))
    assert (result is annotation) is golden["annos"]["input_dict_is_modified"]
    assert result["bbox"].tolist() == [31 - 16, 3, 31 - 4, 13]


def test_instances_from_annotations(z, golden, transformed):
    facts = golden["annos"]
    polygons = utils.annotations_to_instances(transformed[:5], (46, 62))
    assert {k: type(v).__name__ for k, v in polygons.get_fields().items()} == facts["fields_polygon"]
    close(polygons.gt_boxes.tensor.numpy(), z["annos/gt_boxes"])
    np.testing.assert_array_equal(polygons.gt_classes, z["annos/gt_classes"])
    assert polygons.gt_classes.dtype == torch.int64
    bitmaps = utils.annotations_to_instances(transformed, (46, 62), mask_format="bitmask")
    assert {k: type(v).__name__ for k, v in bitmaps.get_fields().items()} == facts["fields_bitmask"]
    np.testing.assert_array_equal(bitmaps.gt_masks.tensor, z["annos/bitmasks"])
    wrong = raised(utils.annotations_to_instances, transformed, (46, 62))
    assert wrong == facts["polygon_format_with_a_bitmap"]["raises"]
    unknown = raised(utils.annotations_to_instances, transformed, (46, 62), mask_format="x")
    assert unknown == facts["mask_format_unknown"]["raises"]


def test_instances_of_little(golden, transformed):
    facts = golden["annos"]
    empty = utils.annotations_to_instances([], (46, 62))
    assert {k: [type(v).__name__, len(v)] for k, v in empty.get_fields().items()} == facts["empty"]
    assert empty.gt_boxes.tensor.shape == (0, 4)
    del transformed[0]["segmentation"]
    boxes_only = utils.annotations_to_instances(transformed, (46, 62))
    assert sorted(boxes_only.get_fields()) == facts["no_segmentation_in_first"]


def test_filter_empty_instances(z, golden, transformed):
    instances = utils.annotations_to_instances(transformed[:5], (46, 62))
    for key, arguments in (
        ("filter_mask_box_and_mask", {}),
        ("filter_mask_by_box_only", {"by_mask": False}),
        ("filter_mask_thr5", {"box_threshold": 5}),
    ):
        _, keep = utils.filter_empty_instances(instances, return_mask=True, **arguments)
        np.testing.assert_array_equal(keep, z[f"annos/{key}"], err_msg=key)
    close(utils.filter_empty_instances(instances).gt_boxes.tensor.numpy(), z["annos/filter_boxes"])
    neither = raised(utils.filter_empty_instances, instances, by_box=False, by_mask=False)
    assert neither == golden["annos"]["filter_neither"]["raises"]


def test_integer_boxes_are_truncated_by_a_resize(golden):
    facts = golden["annos"]["integer_box_is_truncated_by_resize"]
    for kind, convert in (("int", int), ("float", float)):
        annotation = {"bbox": list(map(convert, facts["box_xywh"])), "bbox_mode": BoxMode.XYWH_ABS}
        box = utils.transform_instance_annotations(annotation, T.ResizeTransform(23, 31, 39, 53), (39, 53))["bbox"]
        assert str(box.dtype) == facts[f"{kind}_input_dtype"]
        close(box, facts[f"{kind}_input_result"])


def test_keypoints_swap_sides_when_mirrored():
    names = utils.create_keypoint_hflip_indices("keypoints_coco_2017_train")
    # nose, then left and right take turns
    assert names == [0, *itertools.chain.from_iterable((i + 1, i) for i in range(1, 17, 2))]
    keypoints = np.zeros((17, 3))
    keypoints[1] = 10, 5, 2
    keypoints[2] = 40, 5, 1  # beyond the image
    flip = T.TransformList([T.HFlipTransform(30)])
    annotation = {"bbox": [0.0, 0, 9, 9], "bbox_mode": 0, "keypoints": keypoints.flatten().tolist(), "category_id": 0}
    done = utils.transform_instance_annotations(annotation, flip, (20, 30), keypoint_hflip_indices=names)
    expected = np.zeros((17, 3))
    expected[2] = 20, 5, 2
    np.testing.assert_array_equal(done["keypoints"], expected)
    assert utils.annotations_to_instances([done], (20, 30)).gt_keypoints.tensor.shape == (1, 17, 3)
    with pytest.raises(ValueError, match=says("hflip")):
        utils.transform_keypoint_annotations(keypoints.flatten(), flip, (20, 30))
    with pytest.raises(ValueError, match=says("17")):
        utils.transform_keypoint_annotations(keypoints.flatten(), flip, (20, 30), [0])


def test_crop_around_an_object():
    instance = {"bbox": [10, 10, 100, 100], "bbox_mode": BoxMode.XYXY_ABS}
    for _ in range(20):
        crop = utils.gen_crop_transform_with_instance((10, 12), (150, 150), instance)
        assert (crop.h, crop.w) == (10, 12)
        assert crop.x0 <= 55 <= crop.x0 + crop.w and crop.y0 <= 55 <= crop.y0 + crop.h
    with pytest.raises(AssertionError):
        utils.gen_crop_transform_with_instance((10, 10), (15, 15), instance)


def test_proposals_are_transformed_clipped_and_cut():
    record = {
        "proposal_boxes": np.array([[0.0, 0, 5, 5], [3, 3, 3, 9], [10, 10, 90, 90], [1, 1, 2, 2]]),
        "proposal_bbox_mode": BoxMode.XYXY_ABS,
        "proposal_objectness_logits": np.array([4.0, 3.0, 2.0, 1.0]),
    }
    utils.transform_proposals(record, (20, 30), T.HFlipTransform(30), proposal_topk=2)
    assert sorted(record) == ["proposals"]
    assert record["proposals"].proposal_boxes.tensor.tolist() == [[25, 0, 30, 5], [0, 10, 20, 20]]
    assert record["proposals"].objectness_logits.tolist() == [4, 2]


# Mapper


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
