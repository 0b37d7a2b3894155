import numpy as np
import pytest
import torch

from defcn_ext.data.mixing import copy_blend, fit_together, mixup, mosaic
from detectron2.structures import Boxes, Instances, PolygonMasks


def sample(value, boxes, size=(20, 40), polygons=False):
    """A picture of one brightness, with objects whose class is that brightness."""
    gt = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    instances = Instances(size, gt_boxes=Boxes(gt), gt_classes=torch.full((len(gt),), value))
    if polygons:  # the upper left triangle of each box
        instances.gt_masks = PolygonMasks([[np.array([x1, y1, x2, y1, x1, y2])] for x1, y1, x2, y2 in gt.tolist()])
    return {"image": torch.full((3, *size), value, dtype=torch.uint8), "instances": instances, "file_name": str(value)}


def test_four_pictures_meet_at_the_centre():
    first = sample(40, [[0, 0, 40, 20]])
    others = [sample(80, [[10, 5, 30, 15]]), sample(120, []), sample(160, [[0, 0, 5, 20]], size=(20, 20))]
    mixed = mosaic(first, [others[0], first, *others[1:]], (16, 8))
    image = mixed["image"]
    assert image.shape == (3, 20, 40) and mixed["file_name"] == "40" and mixed["mixed"] == ("mosaic",)
    corners = [image[0, y, x].item() for y in (7, 8) for x in (15, 16)]
    assert corners == [80, 40, 120, 160]
    instances = mixed["instances"]
    assert instances.image_size == (20, 40) and instances.gt_classes.tolist() == [80, 40, 160]
    # 16 x 8 of 40 x 20: scale .4. 24 x 8: scale .6, 12 high, of which 2 above and below are cut off. The square picture
    # fills 24 x 12 with its middle: scale 1.2.
    expected = np.array([[4, 2, 12, 6], [16, 0, 40, 8], [16, 8, 22, 20]])
    assert instances.gt_boxes.tensor.numpy() == pytest.approx(expected)


def test_the_square_picture_of_a_mosaic_is_cut_above_and_below():
    first = sample(40, [])
    last = sample(160, [[0, 0, 20, 5], [0, 0, 20, 10]], size=(20, 20))
    boxes = mosaic(first, [first, first, first, last], (16, 8))["instances"].gt_boxes.tensor
    # Scale 1.2, 24 high, 6 cut off above: the first object's 6 pixels are gone, the second's 12 are 6.
    assert boxes.numpy() == pytest.approx(np.array([[16, 8, 40, 14]]))


def test_another_picture_shines_through():
    first, second = sample(100, [[0, 0, 10, 10]]), sample(200, [[0, 0, 10, 10]], size=(10, 20))
    mixed = mixup(first, second, 0.45, (1.0, 0.5))
    assert mixed["image"][0, 10].tolist() == [100] * 20 + [155] * 20
    assert mixed["image"][:, :5].unique().tolist() == [100] and first["image"].unique().tolist() == [100]
    assert mixed["instances"].gt_boxes.tensor.tolist() == [[0, 0, 10, 10], [20, 5, 30, 15]]
    larger = mixup(second, first, 0.45)
    assert larger["image"].shape == (3, 10, 20)
    assert larger["instances"].gt_boxes.tensor.tolist() == [[0, 0, 10, 10], [0, 0, 5, 5]]


@pytest.mark.parametrize("polygons", [False, True])
def test_objects_are_copied_within_their_box_or_mask(polygons):
    first, second = sample(100, [], polygons=polygons), sample(200, [[4, 2, 12, 10], [0, 0, 40, 20]], polygons=polygons)
    mixed = copy_blend(first, second, [0], [(1.0, 0.0)], 0.5)
    image = mixed["image"][0]
    assert mixed["instances"].gt_boxes.tensor.tolist() == [[32, 0, 40, 8]]
    assert image[0, 32] == 150 and image[:, :32].unique().tolist() == [100] and image[8:].unique().tolist() == [100]
    assert image[7, 39] == (100 if polygons else 150)
    copied = int((image == 150).sum())
    assert copied == 64 if not polygons else 22 <= copied <= 42
    if polygons:
        assert mixed["instances"].gt_masks.polygons[0][0].tolist() == [32, 0, 40, 0, 32, 8]


def test_objects_larger_than_the_picture_stay_away():
    first, second = sample(100, [], size=(10, 10)), sample(200, [[0, 0, 40, 20], [0, 0, 5, 5]])
    mixed = copy_blend(first, second, [0, 1], [(0.5, 0.5)] * 2, 0.5)
    assert len(mixed["instances"]) == 1 and mixed["image"].shape == (3, 10, 10)


def test_fields_must_be_those_of_all():
    plain, masked, empty = sample(1, [[0, 0, 5, 5]]), sample(2, [[0, 0, 5, 5]], polygons=True), sample(3, [])
    assert fit_together([plain, empty]) and fit_together([masked, empty]) and not fit_together([plain, masked])
    assert not fit_together([plain, {"image": plain["image"]}])
    assert mixup(empty, masked, 0.5)["instances"].has("gt_masks")
