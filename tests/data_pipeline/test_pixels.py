"""Image files of any depth, and things that are no files."""

import logging
import os
import signal

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import DataLoader

from defcn_ext.data import RobustMapper, UnreadableImageError, add_data_config, probe_headers
from defcn_ext.data import pixels as pixels_module
from defcn_ext.data.headers import probe_header
from defcn_ext.data.pixels import UnknownRangeError, check_format, pixels_of, read_image
from defcn_ext.pictures.scenes import load_scene
from detectron2.config import get_cfg
from detectron2.data import detection_utils as utils

GRAY = np.arange(240, dtype=np.uint8).reshape(12, 20)


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch):
    monkeypatch.setattr(pixels_module, "_told", set())


def deep(kind):
    """The picture GRAY in more bits, and the ending of its file."""
    if kind == "float":
        return Image.fromarray(GRAY.astype(np.float32) / 255), "tiff"
    if kind == "big endian":
        return Image.frombytes("I;16B", GRAY.shape[::-1], (GRAY.astype(">u2") * 257).tobytes()), "tiff"
    return Image.fromarray(GRAY.astype(np.uint16) * 257), kind


def mapper_of(is_train, **keys):
    cfg = get_cfg()
    add_data_config(cfg)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.RANDOM_FLIP = (12,), 12, "none"
    for key, value in keys.items():
        cfg.INPUT[key] = value
    return RobustMapper(cfg, is_train)


@pytest.mark.parametrize("kind", ["png", "tiff", "big endian", "float"])
def test_a_deep_picture_is_what_it_is_in_8_bits_everywhere(tmp_path, kind, caplog):
    image, ending = deep(kind)
    path, shallow = str(tmp_path / f"deep.{ending}"), str(tmp_path / "shallow.png")
    image.save(path)
    Image.fromarray(GRAY).save(shallow)
    with caplog.at_level(logging.WARNING, logger="defcn_ext"):
        for form in ("BGR", "RGB", "L"):
            assert np.array_equal(read_image(path, form), utils.read_image(shallow, form))
            assert np.array_equal(pixels_of(Image.open(path), form), utils.read_image(shallow, form))
        for is_train in (True, False):
            mapped = mapper_of(is_train)({"file_name": path})["image"]
            assert mapped.shape == (3, 12, 20) and np.array_equal(mapped[0], GRAY)
    assert np.array_equal(load_scene({"file_name": path}).image[:, :, 1], GRAY)
    assert probe_header(path) == (12, 20)
    (told,) = caplog.records
    assert path in told.getMessage() and "scaled from [0, " in told.getMessage()


def test_a_deep_picture_is_turned_as_exif_says(tmp_path):
    path = str(tmp_path / "turned.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    deep("png")[0].save(path, exif=exif)
    assert np.array_equal(read_image(path, "L")[:, :, 0], np.rot90(GRAY, -1))
    assert probe_header(path) == (20, 12)


def test_colours_of_16_bits_are_halved_by_pillow_itself(tmp_path):
    """Pillow writes no such file: it is put together here."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + np.repeat(row.astype(">u2") * 257, 3).tobytes() for row in GRAY)
    parts = (chunk(b"IHDR", struct.pack(">IIBBBBB", 20, 12, 16, 2, 0, 0, 0)), chunk(b"IDAT", zlib.compress(rows)))
    (tmp_path / "rgb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b""))
    assert np.array_equal(read_image(str(tmp_path / "rgb.png"), "BGR"), np.repeat(GRAY[:, :, None], 3, 2))


@pytest.mark.parametrize(
    "values, reason",
    [
        (GRAY.astype(np.int32) * 9999, "integers of 32 bits have no agreed white"),
        (GRAY.astype(np.float32), r"floats from 0 to 239 have no agreed white: scale them to \[0, 1\]"),
        (GRAY.astype(np.float32) / 255 - 0.5, "floats from -0.5 to 0.437.* have no agreed white"),
        (np.full((12, 20), np.nan, np.float32), "floats from nan to nan"),
    ],
)
def test_numbers_without_a_white_are_refused(tmp_path, values, reason):
    path = str(tmp_path / "x.tiff")
    Image.fromarray(values).save(path)
    with pytest.raises(UnknownRangeError, match=reason):
        read_image(path, "BGR")
    with pytest.raises(UnreadableImageError, match=rf"x\.tiff: cannot be read \(UnknownRangeError: {reason}"):
        mapper_of(False)({"file_name": path})
    with pytest.raises(UnreadableImageError, match=rf"x\.tiff: cannot be read \(UnknownRangeError: {reason}"):
        load_scene({"file_name": path})
    assert mapper_of(True)({"file_name": path}) is None
    if values.dtype == np.int32:
        assert "integers of 32 bits" in probe_headers([path])[path]


class Alarm:
    """Ends what takes longer than some seconds."""

    def __enter__(self):
        def ring(*args):
            raise TimeoutError("it waits")

        self.before = signal.signal(signal.SIGALRM, ring)
        signal.alarm(5)

    def __exit__(self, *args):
        signal.alarm(0)
        signal.signal(signal.SIGALRM, self.before)


@pytest.mark.parametrize("kind", ["named pipe", "device", "link to a pipe"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    path = "/dev/zero" if kind == "device" else str(tmp_path / "pipe.jpg")
    if kind != "device":
        os.mkfifo(path)
    if kind == "link to a pipe":
        os.symlink(path, tmp_path / "link.jpg")
        path, kind = str(tmp_path / "link.jpg"), "named pipe"
    with Alarm():
        assert probe_header(path) == f"OSError: not a file but a {kind}"
        with pytest.raises(UnreadableImageError, match=f"{path}: cannot be read .*not a file but a {kind}"):
            load_scene({"file_name": path})
        with pytest.raises(UnreadableImageError, match=f"{path}: cannot be read .*not a file but a {kind}"):
            mapper_of(False)({"file_name": path})
        assert mapper_of(True)({"file_name": path}) is None


@pytest.mark.parametrize("form", ["bgr", "rgb", "BRG", "", None, 3])
def test_a_format_that_is_none_is_named(form):
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT: unknown value .*; known: 'BGR', 'RGB'"):
        check_format(form)
    if isinstance(form, str):
        for is_train in (True, False):
            with pytest.raises(ValueError, match=r"INPUT\.FORMAT: unknown value"):
                mapper_of(is_train, FORMAT=form)


def test_gray_input_can_have_its_colours_jittered(make_image):
    """Saturation is left out."""
    mapped = mapper_of(True, FORMAT="L", COLOR_JITTER=0.4)({"file_name": make_image("a.png")})
    assert mapped["image"].shape[0] == 1


class Refusing:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise UnreadableImageError("a.jpg: cannot be read (it is gone)")


@pytest.mark.parametrize("workers", [0, 1])
def test_out_of_a_worker_comes_what_it_said_and_not_its_traceback(workers):
    with pytest.raises(UnreadableImageError) as caught:
        list(DataLoader(Refusing(), num_workers=workers))
    assert str(caught.value) == "a.jpg: cannot be read (it is gone)"
