"""Augmentations that cut out a part of the image. Sizes are height, width; draws come from numpy's global generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from fvcore.transforms.transform import CropTransform, NoOpTransform, PadTransform, Transform, TransformList

from detectron2.data.transforms.augmentation import Augmentation
from detectron2.data.transforms.transform import ExtentTransform
from detectron2.structures import Boxes, pairwise_iou

__all__ = ["FixedSizeCrop", "RandomCrop", "RandomCrop_CategoryAreaConstraint", "MinIoURandomCrop", "RandomExtent"]


class FixedSizeCrop(Augmentation):
    """Crops at a random place to at most `crop_size`, and pads right and bottom to exactly that if `pad`."""

    def __init__(
        self, crop_size: tuple[int, int], pad: bool = True, pad_value: float = 128.0, seg_pad_value: int = 255
    ):
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> TransformList:
        size, target = np.array(image.shape[:2]), np.array(self.crop_size)
        cropped = np.minimum(size, target)
        # One draw moves along both axes.
        y0, x0 = np.round((size - cropped) * np.random.uniform(0.0, 1.0)).astype(int).tolist()
        (height, width), (crop_height, crop_width) = size.tolist(), cropped.tolist()
        transforms = [CropTransform(x0, y0, crop_width, crop_height, width, height)]
        if self.pad:
            bottom, right = (target - cropped).tolist()
            padding = PadTransform(0, 0, right, bottom, crop_width, crop_height, self.pad_value, self.seg_pad_value)
            transforms.append(padding)
        return TransformList(transforms)


class RandomCrop(Augmentation):
    """Crops a rectangle at a random place.

    Args:
        crop_type: how to read `crop_size`. "relative": parts of height and width; "relative_range": both drawn
            between these parts and 1; "absolute": pixels, at most the image; "absolute_range": each side drawn
            between the two numbers of pixels.
        crop_size: two numbers.
    """

    def __init__(self, crop_type: str, crop_size: Sequence[float]):
        assert crop_type in ("relative_range", "relative", "absolute", "absolute_range"), f"crop_type {crop_type!r}"
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        crop_height, crop_width = self.get_crop_size((height, width))
        assert crop_height <= height and crop_width <= width, f"cannot crop {self} from {height} x {width}"
        y0 = np.random.randint(height - crop_height + 1)
        x0 = np.random.randint(width - crop_width + 1)
        return CropTransform(x0, y0, crop_width, crop_height)

    def get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Height and width in pixels of a crop from an image of this size."""
        height, width = image_size
        if self.crop_type == "absolute":
            return min(self.crop_size[0], height), min(self.crop_size[1], width)
        if self.crop_type == "absolute_range":
            low, high = self.crop_size
            assert low <= high, f"absolute_range needs increasing bounds, got {self.crop_size}"
            return tuple(np.random.randint(min(side, low), min(side, high) + 1) for side in image_size)
        parts = np.asarray(self.crop_size, dtype=np.float32)
        if self.crop_type == "relative_range":
            parts = parts + np.random.rand(2) * (1 - parts)
        return int(height * parts[0] + 0.5), int(width * parts[1] + 0.5)


class RandomCrop_CategoryAreaConstraint(Augmentation):
    """A `RandomCrop` in which no category fills more than a part of the segmentation, in ten attempts."""

    ATTEMPTS = 10

    def __init__(
        self,
        crop_type: str,
        crop_size: Sequence[float],
        single_category_max_area: float = 1.0,
        ignored_category: int | None = None,
    ):
        self.crop_aug = RandomCrop(crop_type, crop_size)
        self._init(locals())

    def get_transform(self, image: np.ndarray, sem_seg: np.ndarray) -> Transform:
        crop = self.crop_aug.get_transform(image)
        if self.single_category_max_area >= 1.0:
            return crop
        for _ in range(self.ATTEMPTS - 1):
            labels, areas = np.unique(crop.apply_segmentation(sem_seg), return_counts=True)
            if self.ignored_category is not None:
                areas = areas[labels != self.ignored_category]
            if len(areas) > 1 and areas.max() < areas.sum() * self.single_category_max_area:
                break
            crop = self.crop_aug.get_transform(image)
        return crop


class MinIoURandomCrop(Augmentation):
    """A crop that overlaps enough with every object whose center lies in it (SSD, Liu et al. 2016, section 2.2).

    Args:
        min_ious: least overlaps to choose from, besides "the whole image" and "any".
        min_crop_size: least side of a crop, relative to the image.
        mode_trials: how many times a least overlap is drawn.
        crop_trials: how many crops are tried for each.
    """

    def __init__(
        self,
        min_ious: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
        min_crop_size: float = 0.3,
        mode_trials: int = 1000,
        crop_trials: int = 50,
    ):
        self._init(locals())

    def get_transform(self, image: np.ndarray, boxes: np.ndarray) -> Transform:
        """`boxes`: (n, 4) absolute x1, y1, x2, y2."""
        for _ in range(self.mode_trials):
            min_iou = np.random.choice((1.0, *self.min_ious, 0.0))
            if min_iou == 1.0:
                return NoOpTransform()
            for _ in range(self.crop_trials):
                crop = self._draw(*image.shape[:2])
                if crop is not None and self._fits(crop, boxes, min_iou):
                    return CropTransform(crop[0], crop[1], crop[2] - crop[0], crop[3] - crop[1])
        return NoOpTransform()

    def _draw(self, height: int, width: int) -> np.ndarray | None:
        """x1, y1, x2, y2 in whole pixels; None if more than twice as long as wide or the reverse."""
        crop_width = np.random.uniform(self.min_crop_size * width, width)
        crop_height = np.random.uniform(self.min_crop_size * height, height)
        if not 0.5 <= crop_height / crop_width <= 2:
            return None
        x0, y0 = np.random.uniform(width - crop_width), np.random.uniform(height - crop_height)
        crop = np.array((x0, y0, x0 + crop_width, y0 + crop_height)).astype(int)
        return crop if (crop[2:] > crop[:2]).all() else None

    @staticmethod
    def _fits(crop: np.ndarray, boxes: np.ndarray, min_iou: float) -> bool:
        if len(boxes) == 0:
            return True
        overlaps = pairwise_iou(Boxes(torch.as_tensor(crop)[None]), Boxes(torch.as_tensor(boxes))).numpy()
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centers > crop[:2]) & (centers < crop[2:])).all(axis=1)
        return bool(overlaps.min() >= min_iou and inside.any())


class RandomExtent(Augmentation):
    """Cuts out a scaled and shifted rectangle of the image, which may reach outside it.

    Args:
        scale_range: bounds of the rectangle's sides, relative to the image.
        shift_range: widths of the ranges of the shift in x and y, relative to the image.
    """

    def __init__(self, scale_range: tuple[float, float], shift_range: tuple[float, float]):
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        size = np.array((width, height))
        half = size * np.random.uniform(*self.scale_range) / 2
        middle = size * (0.5 + np.array([shift * (np.random.rand() - 0.5) for shift in self.shift_range]))
        rectangle = (*(middle - half), *(middle + half))
        output_size = int(2 * half[1]), int(2 * half[0])
        return ExtentTransform(tuple(map(float, rectangle)), output_size)
