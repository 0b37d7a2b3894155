"""Deterministic transforms that fvcore lacks, and rotated boxes for those that it has.

Interpolation codes are PIL's: 0 nearest, 2 bilinear, 3 bicubic. `RotationTransform` alone takes OpenCV's:
0 nearest, 1 bilinear, 2 bicubic.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from fvcore.transforms.transform import CropTransform, HFlipTransform, NoOpTransform, Transform, TransformList
from PIL import Image

__all__ = ["ExtentTransform", "ResizeTransform", "RotationTransform", "ColorTransform", "PILColorTransform"]

_TORCH_MODES = {Image.NEAREST: "nearest", Image.BILINEAR: "bilinear", Image.BICUBIC: "bicubic"}
_ROTATION_MODES = {0: "nearest", 1: "bilinear", 2: "bicubic"}


def _through_pil(img: np.ndarray, operation: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Applies a PIL operation to an (H, W), (H, W, 1) or (H, W, C) array, keeping the channel axis."""
    single = img.ndim == 3 and img.shape[2] == 1
    result = np.asarray(operation(Image.fromarray(img[:, :, 0] if single else img)))
    return result[:, :, None] if single else result


def _to_planes(img: np.ndarray) -> torch.Tensor:
    """(H, W, ...) -> (1, C, H, W), all further axes flattened into channels."""
    flat = np.ascontiguousarray(img.reshape(*img.shape[:2], -1))
    return torch.from_numpy(flat).permute(2, 0, 1)[None]


def _from_planes(planes: torch.Tensor, like: np.ndarray) -> np.ndarray:
    """(1, C, H', W') -> (H', W', ...) with the further axes of `like`."""
    out = planes[0].permute(1, 2, 0).numpy()
    return out.reshape(*out.shape[:2], *like.shape[2:])


class ResizeTransform(Transform):
    """Resizes an image of h x w pixels to new_h x new_w.

    uint8 images go through PIL, which filters when it shrinks; floats are interpolated without such a filter.
    """

    def __init__(self, h: int, w: int, new_h: int, new_w: int, interp: int | None = None):
        super().__init__()
        if interp is None:
            interp = Image.BILINEAR
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Raises AssertionError if the image is not h x w, NotImplementedError for integers other than uint8."""
        assert img.shape[:2] == (self.h, self.w), f"expected {self.h} x {self.w}, got an image of shape {img.shape}"
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8:
            return _through_pil(img, lambda image: image.resize((self.new_w, self.new_h), interp))
        mode = _TORCH_MODES[interp]
        align = None if mode == "nearest" else False
        planes = F.interpolate(_to_planes(img), (self.new_h, self.new_w), mode=mode, align_corners=align)
        return _from_planes(planes, img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        """(n, 2) x, y; written in place, so an integer array stays one and is truncated."""
        coords[:, 0] = coords[:, 0] * (self.new_w / self.w)
        coords[:, 1] = coords[:, 1] * (self.new_h / self.h)
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.NEAREST)

    def inverse(self) -> ResizeTransform:
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


class ExtentTransform(Transform):
    """Cuts out a rectangle, which may reach outside the image, and resizes it.

    Args:
        src_rect: x0, y0, x1, y1 in pixels.
        output_size: height, width.
        interp: PIL's code.
        fill: value outside the image.
    """

    def __init__(self, src_rect, output_size: tuple[int, int], interp: int = Image.BILINEAR, fill: float = 0):
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        height, width = self.output_size
        resample = self.interp if interp is None else interp

        def cut(image: Image.Image) -> Image.Image:
            return image.transform((width, height), Image.EXTENT, self.src_rect, resample, fillcolor=self._fill(image))

        return _through_pil(img, cut)

    def _fill(self, image: Image.Image):
        bands = len(image.getbands())
        return self.fill if bands == 1 else (self.fill,) * bands

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        height, width = self.output_size
        x0, y0, x1, y1 = self.src_rect
        scale = np.array([width / (x1 - x0), height / (y1 - y0)], dtype=np.float32)
        return (coords.astype(np.float32) - np.array([x0, y0], dtype=np.float32)) * scale

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=Image.NEAREST)


class RotationTransform(Transform):
    """Rotates counter-clockwise.

    Args:
        h, w: size of the image in pixels.
        angle: degrees.
        expand: whether the result grows so that all of the image stays visible.
        center: x, y of the fixed point; the middle of the image by default. Without effect if `expand`.
        interp: 0 nearest, 1 bilinear (default), 2 bicubic.
    """

    def __init__(self, h: int, w: int, angle: float, expand: bool = True, center=None, interp: int | None = None):
        super().__init__()
        image_center = np.array((w / 2, h / 2))
        if center is None:
            center = image_center
        if interp is None:
            interp = 1
        cos, sin = abs(np.cos(np.deg2rad(angle))), abs(np.sin(np.deg2rad(angle)))
        bound_w, bound_h = np.rint([h * sin + w * cos, h * cos + w * sin]).astype(int) if expand else (w, h)
        self._set_attributes(locals())
        self.rm_coords = self.create_rotation_matrix()

    def _is_identity(self) -> bool:
        return self.angle % 360 == 0

    def create_rotation_matrix(self, offset: float = 0) -> np.ndarray:
        """The (2, 3) map of coordinates; `offset` is added to both axes first, -0.5 for indices of pixels."""
        cos, sin = np.cos(np.deg2rad(self.angle)), np.sin(np.deg2rad(self.angle))
        linear = np.array([[cos, sin], [-sin, cos]])
        fixed = target = np.asarray(self.center)
        if self.expand:
            fixed, target = self.image_center, np.array((self.bound_w, self.bound_h)) / 2
        return np.column_stack([linear, (target + offset) - linear @ (fixed + offset)])

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        coords = np.asarray(coords, dtype=float)
        if len(coords) == 0 or self._is_identity():
            return coords
        return coords @ self.rm_coords[:, :2].T + self.rm_coords[:, 2]

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        """Outside the image the result is 0."""
        if len(img) == 0 or self._is_identity():
            return img
        assert img.shape[:2] == (self.h, self.w), f"expected {self.h} x {self.w}, got an image of shape {img.shape}"
        mode = _ROTATION_MODES[self.interp if interp is None else interp]
        planes = F.grid_sample(_to_planes(img).double(), self._sampling_grid(), mode=mode, align_corners=False)
        rotated = _from_planes(planes, img)
        if np.issubdtype(img.dtype, np.integer):
            limits = np.iinfo(img.dtype)
            rotated = np.rint(rotated).clip(limits.min, limits.max)
        return rotated.astype(img.dtype)

    def _sampling_grid(self) -> torch.Tensor:
        """Where each pixel of the result comes from: (1, H', W', 2) x, y, with the image spanning -1..1."""
        x, y = np.meshgrid(np.arange(self.bound_w) + 0.5, np.arange(self.bound_h) + 0.5)
        shifted = np.stack([x, y], axis=-1) - self.rm_coords[:, 2]
        source = shifted @ np.linalg.inv(self.rm_coords[:, :2]).T
        return torch.from_numpy(source / self.image_center - 1)[None]

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self.apply_image(segmentation, interp=0)

    def inverse(self) -> TransformList:
        """Rotates back and crops to the first size. Raises NotImplementedError unless `expand`: parts are lost."""
        if not self.expand:
            raise NotImplementedError("a rotation with expand=False loses corners and has no inverse")
        back = RotationTransform(self.bound_h, self.bound_w, -self.angle, True, None, self.interp)
        x0, y0 = (back.bound_w - self.w) // 2, (back.bound_h - self.h) // 2
        return TransformList([back, CropTransform(x0, y0, self.w, self.h)])


class ColorTransform(Transform):
    """Changes the image by a function of it; coordinates and segmentations stay. Raises ValueError if not callable."""

    def __init__(self, op: Callable[[np.ndarray], np.ndarray]):
        if not callable(op):
            raise ValueError(f"op must be a function of an image, got {op!r}")
        super().__init__()
        self._set_attributes(locals())

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self.op(img)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return segmentation

    def inverse(self) -> NoOpTransform:
        return NoOpTransform()


class PILColorTransform(ColorTransform):
    """A `ColorTransform` whose function maps PIL images to PIL images."""

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.asarray(self.op(Image.fromarray(img)))


def _flip_rotated_boxes(transform: HFlipTransform, rotated_boxes: np.ndarray) -> np.ndarray:
    """(n, 5) center x, y, width, height, angle in degrees."""
    rotated_boxes[:, 0] = transform.width - rotated_boxes[:, 0]
    rotated_boxes[:, 4] = -rotated_boxes[:, 4]
    return rotated_boxes


def _resize_rotated_boxes(transform: ResizeTransform, rotated_boxes: np.ndarray) -> np.ndarray:
    """(n, 5). Uneven scales would shear the box: each side keeps its own scaled direction's length instead."""
    sx, sy = transform.new_w / transform.w, transform.new_h / transform.h
    cos, sin = np.cos(np.deg2rad(rotated_boxes[:, 4])), np.sin(np.deg2rad(rotated_boxes[:, 4]))
    rotated_boxes[:, :2] *= (sx, sy)
    rotated_boxes[:, 2] *= np.hypot(sx * cos, sy * sin)
    rotated_boxes[:, 3] *= np.hypot(sx * sin, sy * cos)
    rotated_boxes[:, 4] = np.rad2deg(np.arctan2(sx * sin, sy * cos))
    return rotated_boxes


HFlipTransform.register_type("rotated_box", _flip_rotated_boxes)
NoOpTransform.register_type("rotated_box", lambda transform, rotated_boxes: rotated_boxes)
ResizeTransform.register_type("rotated_box", _resize_rotated_boxes)
