"""Reading images, and changing their colour format."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps

from detectron2.utils.file_io import PathManager

__all__ = ["convert_PIL_to_numpy", "convert_image_to_rgb", "read_image"]

# BT.601, analog: Y in 0..1, U in +-0.436, V in +-0.615.
YUV_FROM_RGB = np.array([[0.299, 0.587, 0.114], [-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]])
RGB_FROM_YUV = np.array([[1.0, 0.0, 1.13983], [1.0, -0.39465, -0.58060], [1.0, 2.03211, 0.0]])


def convert_PIL_to_numpy(image: Image.Image, format: str | None) -> np.ndarray:
    """An image as an array.

    Args:
        image: any mode.
        format: a PIL mode, "BGR", "YUV-BT.601", or None to keep the image's own mode.

    Returns:
        (H, W, C) uint8; floats for YUV; without a channel axis only where `format` is None and the file is gray.
    """
    if format is not None:
        image = image.convert("RGB" if format in ("BGR", "YUV-BT.601") else format)
    array = np.asarray(image)
    if format == "BGR":
        return array[:, :, ::-1]
    if format == "L":
        return array[:, :, None]
    if format == "YUV-BT.601":
        return np.dot(array / 255.0, YUV_FROM_RGB.T)
    return array


def convert_image_to_rgb(image: np.ndarray | torch.Tensor, format: str) -> np.ndarray:
    """The reverse of `convert_PIL_to_numpy`: an (H, W, C) image in `format` as (H, W, 3) uint8 RGB."""
    image = np.asarray(image.cpu() if isinstance(image, torch.Tensor) else image)
    if format == "BGR":
        return image[:, :, [2, 1, 0]]
    if format == "YUV-BT.601":
        return (np.dot(image, RGB_FROM_YUV.T) * 255.0).clip(0, 255).astype(np.uint8)
    if format == "L":
        image = image[:, :, 0]
    return np.asarray(Image.fromarray(image.astype(np.uint8)).convert("RGB"))


def read_image(file_name: str, format: str | None = None) -> np.ndarray:
    """Reads an image file, turned as its EXIF tag says. See `convert_PIL_to_numpy` for the formats.

    Returns:
        A read-only array; BGR is a view with a negative stride.
    """
    with PathManager.open(file_name, "rb") as f:
        return convert_PIL_to_numpy(ImageOps.exif_transpose(Image.open(f)), format)
