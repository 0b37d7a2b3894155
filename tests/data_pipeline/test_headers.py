"""What headers tell: sizes as read_image returns them, and why a file is unreadable."""

import numpy as np
import pytest
from PIL import Image

from defcn_ext.data import headers as headers_module
from defcn_ext.data.headers import probe_header, probe_headers, probe_headers_together, unreadable
from detectron2.data.detection_utils import read_image


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp"])
@pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
def test_size_is_that_of_the_decoded_image(make_image, suffix, orientation):
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    options = {"exif": exif} if orientation and suffix != "bmp" else {}
    path = make_image(f"a.{suffix}", (30, 50), **options)
    assert probe_header(path) == read_image(path, "BGR").shape[:2]
    turned = orientation in (6, 8) and suffix != "bmp"
    assert probe_header(path) == ((50, 30) if turned else (30, 50))


def test_pixels_are_not_decoded(make_truncated):
    assert probe_header(make_truncated("a.jpg", (70, 90))) == (70, 90)


def test_reasons_for_unreadable_files(tmp_path, make_image):
    (tmp_path / "text.jpg").write_text("not an image")
    (tmp_path / "empty.png").write_bytes(b"")
    paths = [str(tmp_path / n) for n in ("gone.jpg", "text.jpg", "empty.png")]
    headers = probe_headers([*paths, make_image("good.png")])
    reasons = unreadable(headers)
    assert list(reasons) == paths
    assert reasons[paths[0]].startswith("FileNotFoundError")
    assert reasons[paths[1]].startswith("UnidentifiedImageError")
    assert headers[str(tmp_path / "images" / "good.png")] == (40, 60)


def test_each_file_is_probed_once_and_progress_is_told(make_image, monkeypatch, caplog):
    probed = []
    monkeypatch.setattr(headers_module, "PROGRESS_SECONDS", -1.0)
    monkeypatch.setattr(headers_module, "probe_header", lambda p: probed.append(p) or (1, 2))
    with caplog.at_level("INFO", logger="defcn_ext"):
        assert probe_headers(["a", "b", "a"]) == {"a": (1, 2), "b": (1, 2)}
    assert sorted(probed) == ["a", "b"]
    assert caplog.records[-1].getMessage() == "Checking image files: 2 of 2"


def test_processes_share_the_work(monkeypatch):
    parts = {}
    monkeypatch.setattr(headers_module, "probe_header", lambda path: (1, int(path)))
    monkeypatch.setattr(headers_module.comm, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(headers_module.comm, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(headers_module.comm, "all_gather", lambda mine, rank=rank: parts.setdefault(rank, [mine]))
        probe_headers_together(["1", "2", "3"])
    assert parts == {0: [{"1": (1, 1), "3": (1, 3)}], 1: [{"2": (1, 2)}]}
    monkeypatch.setattr(headers_module.comm, "all_gather", lambda mine: parts[0] + parts[1])
    assert probe_headers_together(["1", "2", "3"]) == {str(i): (1, i) for i in (1, 2, 3)}
    assert np.all([isinstance(v, tuple) for v in probe_headers_together(["1", "2", "3"]).values()])
