"""Pixels of images of any depth: 8 bits a channel as Detectron2 reads them, more bits scaled to these."""

import logging
import os
import stat

import numpy as np
from PIL import Image, ImageOps

from defcn_ext.config import UserError
from detectron2.data import detection_utils as utils
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)

SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes; RGB of 16 bits it halves itself
KINDS = {stat.S_IFIFO: "named pipe", stat.S_IFCHR: "device", stat.S_IFBLK: "device", stat.S_IFSOCK: "socket"}

_told: set[str] = set()


class UnreadableImageError(OSError):
    """An image that is needed cannot be read."""

    def __init__(self, *args: object):
        # From a loader's worker it arrives with that worker's traceback as its text, which ends in what it said.
        if len(args) == 1 and str(args[0]).startswith("Caught "):
            args = (str(args[0]).strip().rpartition(f"{type(self).__name__}: ")[2],)
        super().__init__(*args)


class UnknownRangeError(ValueError):
    """The numbers of an image have no agreed black and white."""


def check_regular(path: str) -> None:
    """Of something that is there under `path` and no file, opening it might wait for ever.

    Raises:
        OSError: it is a named pipe, a device or a socket.
    """
    try:
        kind = stat.S_IFMT(os.stat(path).st_mode)
    except (OSError, ValueError):
        return  # not of this file system, or not there: who opens it says so
    if kind in KINDS:
        raise OSError(f"not a file but a {KINDS[kind]}")


def check_depth(mode: str, form: str | None) -> None:
    """Refuses integers of 32 bits, of which nobody knows what is white.

    Args:
        mode: of a Pillow image.
        form: its file format.

    Raises:
        UnknownRangeError: see above.
    """
    if mode == "I" and form != "PNG":  # older Pillows give 16 bits of PNG this mode
        raise UnknownRangeError("integers of 32 bits have no agreed white: save the image with 8 or 16 bits a channel")


def read_image(path: str, format: str) -> np.ndarray:
    """Detectron2's `read_image`, for deep images too: (H, W, C) as INPUT.FORMAT says, turned as EXIF says.

    16 bits are scaled from [0, 65535], floats from [0, 1] to [0, 255], which is told once in each process.

    Raises:
        UnknownRangeError: integers of 32 bits, or floats outside [0, 1].
        OSError, ValueError, ...: what `defcn_ext.data.headers.UNREADABLE` lists.
    """
    check_regular(path)
    with PathManager.open(path, "rb") as file, Image.open(file) as image:
        # Pillow turns TIFF by itself while it decodes, and Detectron2 turns it once more
        if _is_deep(image) or image.format == "TIFF":
            return pixels_of(image, format, path)
    return utils.read_image(path, format=format)


def pixels_of(image: Image.Image, format: str, name: str = "an image") -> np.ndarray:
    """The same from a Pillow image of any mode."""
    turned = ImageOps.exif_transpose(image)
    return utils.convert_PIL_to_numpy(_eight_bits(turned, image.format, name) if _is_deep(image) else turned, format)


def check_format(format: str) -> None:
    """
    Raises:
        UserError: INPUT.FORMAT is none that an image could be converted to.
    """
    try:
        converted = bool(format) and utils.convert_PIL_to_numpy(Image.new("RGB", (1, 1)), format) is not None
    except (ValueError, KeyError, TypeError):
        converted = False
    if not converted:
        raise UserError(f"INPUT.FORMAT: unknown value {format!r}; known: 'BGR', 'RGB', 'L', 'YUV-BT.601'")


def _is_deep(image: Image.Image) -> bool:
    return image.mode in (*SIXTEEN_BITS, "I", "F")


def _eight_bits(image: Image.Image, form: str | None, name: str) -> Image.Image:
    """A deep image in mode L."""
    check_depth(image.mode, form)
    values = np.asarray(image)
    if image.mode == "F":
        if not (np.isfinite(values).all() and 0 <= values.min() and values.max() <= 1):
            raise UnknownRangeError(
                f"floats from {values.min():g} to {values.max():g} have no agreed white: scale them to [0, 1], or save "
                "the image with 8 or 16 bits a channel"
            )
        _tell("floats, scaled from [0, 1] to [0, 255]", name)
        values = values * 255
    else:
        _tell("16 bits a channel, scaled from [0, 65535] to [0, 255]", name)
        values = values / 257
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def _tell(what: str, name: str) -> None:
    if what not in _told:
        _told.add(what)
        logger.warning("%s: %s, as all such images are (told once in this process)", name, what)
