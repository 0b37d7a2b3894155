"""Pictures as arrays, and as the input of a model file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from .metadata import ModelFileError, ModelMetadata

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


def read_rgb(source: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a file, turned as its EXIF says, of a Pillow image, or of an array of that kind.

    Raises:
        ModelFileError: a file that is no picture, or an array of another shape or type.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3:
            raise ModelFileError(
                f"a picture of shape {source.shape} and type {source.dtype}: give (H, W, 3) RGB, uint8"
            )
        return source
    if isinstance(source, Image.Image):
        return np.asarray(ImageOps.exif_transpose(source).convert("RGB"))
    try:
        with Image.open(source) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise ModelFileError(f"{source}: cannot be read as a picture ({error})") from error


def files_of(source: str | Path) -> list[Path]:
    """The pictures of a folder, by name, or the one file.

    Raises:
        ModelFileError: no such file, or a folder without pictures.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(x for x in path.iterdir() if x.suffix.lower() in SUFFIXES)
        if not found:
            raise ModelFileError(f"{path}: no pictures in it ({', '.join(SUFFIXES)})")
        return found
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    return [path]


def resized_size(height: int, width: int, short: int, most: int) -> tuple[int, int]:
    """Detectron2's ResizeShortestEdge: the shorter side becomes `short`, but the longer one at most `most`.

    >>> resized_size(480, 640, 800, 1333), resized_size(500, 1500, 800, 1333), resized_size(50, 60, 0, 0)
    ((800, 1067), (444, 1333), (50, 60))
    """
    if short == 0:
        return height, width
    scale = short / min(height, width)
    rows, columns = (short, scale * width) if height < width else (scale * height, short)
    if max(rows, columns) > most:
        shrink = most / max(rows, columns)
        rows, columns = rows * shrink, columns * shrink
    return int(rows + 0.5), int(columns + 0.5)


def size_for(height: int, width: int, metadata: ModelMetadata) -> tuple[int, int]:
    """What a picture is resized to: by the rule of the training, or so that it fits into a fixed size."""
    if metadata.size is None:
        return resized_size(height, width, *metadata.resize)
    scale = min(metadata.size[0] / height, metadata.size[1] / width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 in another size, with the filter of the training."""
    if picture.shape[:2] == size:
        return picture
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))


def as_input(pictures: Iterable[np.ndarray], metadata: ModelMetadata) -> np.ndarray:
    """Resized RGB pictures as one (N, 3, H, W) float32 array, in the model's order of channels.

    Smaller ones are padded at the right and bottom with the mean colour, which the graph makes zeros.
    """
    planes = [_planes(x, metadata.channel_order) for x in pictures]
    height, width = metadata.size or (max(x.shape[1] for x in planes), max(x.shape[2] for x in planes))
    mean = np.asarray(metadata.pixel_mean, dtype=np.float32)[:, None, None]
    batch = np.broadcast_to(mean, (len(planes), len(mean), height, width)).copy()
    for row, plane in zip(batch, planes):
        row[:, : plane.shape[1], : plane.shape[2]] = plane
    return batch


def _planes(picture: np.ndarray, order: str) -> np.ndarray:
    if order not in ("RGB", "BGR"):
        raise ModelFileError(f"a model of {order} images: give it arrays of its own, `Session.run`")
    channels = picture if order == "RGB" else picture[..., ::-1]
    return channels.transpose(2, 0, 1).astype(np.float32)
