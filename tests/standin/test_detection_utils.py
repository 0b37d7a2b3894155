"""Reading of images and of annotations, against values measured on Detectron2."""

import copy
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.data.detection_utils import SizeMismatchError
from detectron2.structures import BoxMode
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


def resize_and_flip():
    return T.TransformList([T.ResizeTransform(23, 31, 46, 62), T.HFlipTransform(62)])


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * max(np.abs(expected).max(), 1e-12))


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
