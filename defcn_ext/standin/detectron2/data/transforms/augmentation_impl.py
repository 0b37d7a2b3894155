"""The stock augmentations. Sizes are height, width; random draws come from numpy's global generator."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from fvcore.transforms.transform import HFlipTransform, NoOpTransform, Transform, VFlipTransform
from PIL import Image
from torch import Tensor

from detectron2.data.transforms.augmentation import Augmentation, _as_augmentation
from detectron2.data.transforms.colors import RandomBrightness, RandomContrast, RandomLighting, RandomSaturation
from detectron2.data.transforms.crops import (
    FixedSizeCrop,
    MinIoURandomCrop,
    RandomCrop,
    RandomCrop_CategoryAreaConstraint,
    RandomExtent,
)
from detectron2.data.transforms.transform import ResizeTransform, RotationTransform
from detectron2.layers.wrappers import shapes_to_tensor

__all__ = [
    "FixedSizeCrop",
    "RandomApply",
    "RandomBrightness",
    "RandomContrast",
    "RandomCrop",
    "RandomExtent",
    "RandomFlip",
    "RandomSaturation",
    "RandomLighting",
    "RandomRotation",
    "Resize",
    "ResizeScale",
    "ResizeShortestEdge",
    "RandomCrop_CategoryAreaConstraint",
    "RandomResize",
    "MinIoURandomCrop",
]


class RandomApply(Augmentation):
    """Applies a transform or an augmentation with probability `prob`."""

    def __init__(self, tfm_or_aug: Augmentation | Transform, prob: float = 0.5):
        assert 0.0 <= prob <= 1.0, f"prob must be between 0 and 1, got {prob}"
        self.aug = _as_augmentation(tfm_or_aug)
        self.prob = prob

    def _drawn(self) -> bool:
        return self._rand_range() < self.prob

    def get_transform(self, *args: Any) -> Transform:
        return self.aug.get_transform(*args) if self._drawn() else NoOpTransform()

    def __call__(self, aug_input) -> Transform:
        return self.aug(aug_input) if self._drawn() else NoOpTransform()


class RandomFlip(Augmentation):
    """Flips with probability `prob`, either horizontally or vertically. Raises ValueError for both or neither."""

    def __init__(self, prob: float = 0.5, *, horizontal: bool = True, vertical: bool = False):
        if horizontal == vertical:
            raise ValueError("RandomFlip: set exactly one of horizontal and vertical; use two RandomFlip for both")
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        if self._rand_range() >= self.prob:
            return NoOpTransform()
        return HFlipTransform(width) if self.horizontal else VFlipTransform(height)


class Resize(Augmentation):
    """Resizes to one size: height, width, or an int for both."""

    def __init__(self, shape: int | Sequence[int], interp: int = Image.BILINEAR):
        shape = (shape, shape) if isinstance(shape, int) else tuple(shape)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        return ResizeTransform(*image.shape[:2], *self.shape, self.interp)


class ResizeShortestEdge(Augmentation):
    """Resizes so that the shorter side has a drawn length, but the longer one at most `max_size`.

    Args:
        short_edge_length: lengths in pixels to choose from; for "range" the lowest and highest. 0 means no resize.
        max_size: pixels.
        sample_style: "choice" or "range".
        interp: PIL's code.

    Raises:
        AssertionError: another style, or a range that is not two lengths.
    """

    @torch.jit.unused
    def __init__(
        self,
        short_edge_length: int | Sequence[int],
        max_size: int = sys.maxsize,
        sample_style: str = "range",
        interp: int = Image.BILINEAR,
    ):
        assert sample_style in ("range", "choice"), f"sample_style must be 'range' or 'choice', got {sample_style!r}"
        if isinstance(short_edge_length, int):
            short_edge_length = (short_edge_length, short_edge_length)
        assert sample_style == "choice" or len(short_edge_length) == 2, (
            f"short_edge_length must be two lengths for 'range', got {short_edge_length}"
        )
        self._init(locals())

    @torch.jit.unused
    def get_transform(self, image):  # scripting reads the types even of what it leaves out, and knows no arrays
        height, width = image.shape[:2]
        if self.sample_style == "range":
            length = np.random.randint(self.short_edge_length[0], self.short_edge_length[1] + 1)
        else:
            length = np.random.choice(self.short_edge_length)
        if length == 0:
            return NoOpTransform()
        return ResizeTransform(height, width, *self.get_output_shape(height, width, length, self.max_size), self.interp)

    @staticmethod
    def get_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[int, int]:
        """Height and width after the resize. It can be scripted, and traced for images of any size."""
        if not torch.jit.is_scripting():
            if torch.jit.is_tracing():
                return _traced_output_shape(oldh, oldw, short_edge_length, max_size)
        scale = float(short_edge_length) / min(oldh, oldw)
        # The shorter side is the length itself, not a product that could round differently.
        newh = float(short_edge_length) if oldh < oldw else scale * oldh
        neww = scale * oldw if oldh < oldw else float(short_edge_length)
        if max(newh, neww) > max_size:
            shrink = float(max_size) / max(newh, neww)
            newh, neww = newh * shrink, neww * shrink
        return int(newh + 0.5), int(neww + 0.5)


def _traced_output_shape(oldh: int, oldw: int, short_edge_length: int, max_size: int) -> tuple[Tensor, Tensor]:
    """The same with sizes that stay tensors: what the graph does follows the images that it is given."""
    old = shapes_to_tensor([oldh, oldw]).double()
    new = torch.where(old == old.min(), float(short_edge_length), old * (short_edge_length / old.min()))
    new = (new * (max_size / new.max()).clamp(max=1.0) + 0.5).long()
    return new[0], new[1]


class RandomResize(Augmentation):
    """Resizes to one of several sizes."""

    def __init__(self, shape_list: Sequence[tuple[int, int]], interp: int = Image.BILINEAR):
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        shape = self.shape_list[np.random.choice(len(self.shape_list))]
        return ResizeTransform(*image.shape[:2], *shape, self.interp)


class ResizeScale(Augmentation):
    """Fits the image into a target size times a drawn scale, keeping its aspect ratio."""

    def __init__(
        self,
        min_scale: float,
        max_scale: float,
        target_height: int,
        target_width: int,
        interp: int = Image.BILINEAR,
    ):
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        size = np.array(image.shape[:2])
        target = np.array([self.target_height, self.target_width]) * self._rand_range(self.min_scale, self.max_scale)
        new_height, new_width = np.round(size * (target / size).min()).astype(int).tolist()
        return ResizeTransform(*size.tolist(), new_height, new_width, self.interp)


class RandomRotation(Augmentation):
    """Rotates by a drawn angle.

    Args:
        angle: degrees; the bounds of a range or the values to choose from. One number is itself.
        expand: whether the result grows so that all of the image stays visible.
        center: bounds or choices ((x, y), (x, y)), relative to the size of the image; its middle by default.
        sample_style: "range" or "choice".
        interp: as in `RotationTransform`.
    """

    def __init__(
        self,
        angle: float | Sequence[float],
        expand: bool = True,
        center: Sequence[tuple[float, float]] | None = None,
        sample_style: str = "range",
        interp: int | None = None,
    ):
        assert sample_style in ("range", "choice"), f"sample_style must be 'range' or 'choice', got {sample_style!r}"
        if isinstance(angle, (float, int)):
            angle = (angle, angle)
        if center is not None and isinstance(center[0], (float, int)):
            center = (center, center)
        self._init(locals())

    def get_transform(self, image: np.ndarray) -> Transform:
        height, width = image.shape[:2]
        center = None
        if self.sample_style == "range":
            angle = np.random.uniform(*self.angle)
            if self.center is not None:
                center = tuple(np.random.uniform(low, high) for low, high in zip(*self.center))
        else:
            angle = np.random.choice(self.angle)
            if self.center is not None:
                center = self.center[np.random.choice(len(self.center))]
        if center is not None:
            center = (width * center[0], height * center[1])
        if angle % 360 == 0:
            return NoOpTransform()
        return RotationTransform(height, width, angle, self.expand, center, self.interp)
