"""Which image files can be opened, and how large they are, from their headers alone."""

import logging
import struct
import time
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from defcn_ext.data.pixels import check_depth, check_regular
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)

# What Pillow raises on files that are missing, cut off, of unknown format, or absurdly large.
UNREADABLE = (
    OSError,
    SyntaxError,
    EOFError,
    KeyError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

ORIENTATION_TAG = 0x0112
TIFF_SIZE = (0x0100, 0x0101)  # tags of the width and height as they are stored
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width
PROGRESS_SECONDS = 10.0


class FileSize(tuple[int, int]):
    """(height, width) in pixels, as `read_image` turns the image, and EXIF's number of that turn (1 for none)."""

    orientation: int

    def __new__(cls, size: tuple[int, int], orientation: int = 1) -> "FileSize":
        own = super().__new__(cls, size)
        own.orientation = orientation
        return own


Header = tuple[int, int] | str  # (height, width) in pixels as `read_image` would return it, or why it is unreadable


def probe_header(path: str) -> Header:
    """`FileSize` after EXIF rotation, or a message. Pixels are not decoded."""
    try:
        check_regular(path)
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            check_depth(image.mode, image.format)
            # of TIFF, some Pillows tell the size before it is turned and some the size after
            width, height = (image.tag_v2[tag] for tag in TIFF_SIZE) if image.format == "TIFF" else image.size
            # Pillow decodes a whole PNG to look for EXIF behind the pixels; `read_image` gains nothing from that.
            has_exif = image.format != "PNG" or "exif" in image.info
            orientation = image.getexif().get(ORIENTATION_TAG) if has_exif else 1
    except UNREADABLE as error:
        return f"{type(error).__name__}: {error}"
    if orientation not in range(1, 9):
        orientation = 1
    return FileSize((width, height) if orientation in TURNED else (height, width), orientation)


def probe_headers(paths: Iterable[str], *, workers: int = 8) -> dict[str, Header]:
    """Probes many files in threads, with a progress line every 10 seconds."""
    paths = list(dict.fromkeys(paths))
    headers: dict[str, Header] = {}
    next_line = time.monotonic() + PROGRESS_SECONDS
    with ThreadPoolExecutor(workers) as pool:
        for path, header in zip(paths, pool.map(probe_header, paths)):
            headers[path] = header
            if time.monotonic() > next_line:
                next_line = time.monotonic() + PROGRESS_SECONDS
                logger.info("Checking image files: %d of %d", len(headers), len(paths))
    return headers


def probe_headers_together(paths: Iterable[str]) -> dict[str, Header]:
    """`probe_headers` shared among all processes of a run; every one of them must call it, with the same paths."""
    paths = list(dict.fromkeys(paths))
    mine = probe_headers(paths[comm.get_rank() :: comm.get_world_size()])
    headers: dict[str, Header] = {}
    for part in comm.all_gather(mine):
        headers.update(part)
    return headers


def unreadable(headers: Mapping[str, Header]) -> dict[str, str]:
    """path -> reason of those that cannot be opened."""
    return {path: header for path, header in headers.items() if isinstance(header, str)}
