"""Turns and sizes of pictures, beside what Pillow makes of the same EXIF orientation."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from defcn_ext.data.frames import Frame
from detectron2.structures import BoxMode

PICTURE = np.zeros((8, 12), np.uint8)
PICTURE[1:3, 2:7] = 255
BOX = np.array([2.0, 1.0, 7.0, 3.0])


def as_seen(orientation: int, pixels: np.ndarray = PICTURE) -> np.ndarray:
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def around(pixels: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(pixels)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [(1, 1), (2, 3)])
def test_boxes_and_masks_are_where_pillow_puts_the_pixels(orientation, scale):
    seen = np.kron(as_seen(orientation), np.ones(scale, np.uint8))
    frame = Frame(PICTURE.shape, orientation, seen.shape)
    assert frame.boxes(BOX).tolist() == around(seen)
    assert np.array_equal(frame.mask(PICTURE), seen)
    back = frame.inverse()
    assert back.boxes(frame.boxes(BOX)) == pytest.approx(BOX)
    assert np.array_equal(back.mask(seen), PICTURE)


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_annotation_moves_as_a_whole(orientation):
    frame = Frame((8, 12), orientation, as_seen(orientation).shape)
    polygon = [2.0, 1.0, 7.0, 1.0, 7.0, 3.0, 2.0, 3.0]
    given = {"bbox": [2, 1, 5, 2], "bbox_mode": BoxMode.XYWH_ABS, "segmentation": [polygon], "keypoints": [2, 1, 2]}
    moved = frame.annotation(given)
    x1, y1, x2, y2 = around(as_seen(orientation))
    assert moved["bbox"] == [x1, y1, x2 - x1, y2 - y1]
    points = np.reshape(moved["segmentation"][0], (-1, 2))
    assert [*points.min(0), *points.max(0)] == [x1, y1, x2, y2]
    assert moved["keypoints"] == ([2, 1, 2] if orientation == 1 else [7, 2, 2])
    assert frame.annotation("x") == "x" and frame.annotation({"bbox": "x"})["bbox"] == "x"


@pytest.mark.parametrize("orientation, expected", [(1, [4, 9, 8, 12, 30]), (6, None)])
def test_rotated_boxes_are_resized_but_not_turned(orientation, expected):
    frame = Frame((8, 12), orientation, (24, 24))
    moved = frame.annotation({"bbox": [2, 3, 4, 4, 30], "bbox_mode": BoxMode.XYWHA_ABS})
    assert moved["bbox"] == expected
