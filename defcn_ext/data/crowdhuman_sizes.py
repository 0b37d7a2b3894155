"""Heights and widths of CrowdHuman's images, which its annotations lack: read from the files once, then cached."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from defcn_ext._text import write_whole
from defcn_ext.data.headers import Header, probe_header

logger = logging.getLogger(__name__)

VERSION = 1
WORKERS = 16
SAVE_SECONDS = 10.0  # a reading that was stopped goes on from what was saved
PROGRESS_SECONDS = 10.0

Progress = Callable[[int, int, float], None]  # (done, of all, seconds left)


def image_path(image_root: str | os.PathLike, image_id: str) -> str:
    return os.path.join(image_root, f"{image_id}.jpg")


def image_sizes(
    odgt: str | os.PathLike,
    image_root: str | os.PathLike,
    ids: Sequence[str],
    *,
    workers: int = WORKERS,
    progress: Progress | None = None,
) -> dict[str, Header]:
    """ID -> (height, width) in pixels, or why the file cannot be read.

    Sizes lie in a cache beside `odgt`, or below ~/.cache/defcn_ext where that folder cannot be written. It holds for
    one size and time of change of `odgt` and one place of the images relative to it. What cannot be read is not
    cached, so it is tried anew the next time. Several processes may read and write the same cache.

    Args:
        workers: threads.
        progress: is called about every ten seconds; None logs a line.
    """
    cache = _Cache(Path(odgt), Path(image_root))
    known = cache.read()
    sizes: dict[str, Header] = {i: known[i] for i in ids if i in known}
    missing = [i for i in dict.fromkeys(ids) if i not in sizes]
    if not missing:
        return sizes
    tell = progress or _log_progress
    start = last_save = last_line = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        headers = pool.map(probe_header, (image_path(image_root, i) for i in missing))
        for done, (image_id, header) in enumerate(zip(missing, headers), start=1):
            sizes[image_id] = header
            now = time.monotonic()
            if now > last_save + SAVE_SECONDS:
                cache.write({**known, **sizes})
                last_save = now
            if now > last_line + PROGRESS_SECONDS:
                tell(done + len(ids) - len(missing), len(ids), (now - start) / done * (len(missing) - done))
                last_line = now
    cache.write({**known, **sizes})
    return {i: sizes[i] for i in ids}


def _log_progress(done: int, total: int, seconds_left: float) -> None:
    logger.info("Reading image sizes: %d of %d, eta %d:%02d", done, total, *divmod(round(seconds_left), 60))


class _Cache:
    """The file of sizes that belongs to an odgt file and an image folder."""

    def __init__(self, odgt: Path, image_root: Path):
        state = odgt.stat()
        place = os.path.relpath(os.path.abspath(image_root), os.path.abspath(odgt.parent))
        self.key = {"version": VERSION, "bytes": state.st_size, "mtime_ns": state.st_mtime_ns, "images": place}
        digest = hashlib.sha256(os.path.abspath(odgt).encode(errors="surrogateescape")).hexdigest()[:12]
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "defcn_ext"
        self.paths = (odgt.with_suffix(".sizes.json"), home / f"{odgt.stem}-{digest}.sizes.json")

    def read(self) -> dict[str, tuple[int, int]]:
        for path in self.paths:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                continue
            if isinstance(content, dict) and content.get("key") == self.key and isinstance(content.get("sizes"), dict):
                return {name: tuple(size) for name, size in content["sizes"].items() if _is_size(size)}
        return {}

    def write(self, sizes: dict[str, Header]) -> None:
        readable = {name: size for name, size in sizes.items() if not isinstance(size, str)}
        text = json.dumps({"key": self.key, "sizes": readable}, separators=(",", ":"))
        for path in self.paths:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(path, text, rivals=True)
            except OSError as error:
                reason = error
            else:
                return
        logger.warning("The sizes of the images cannot be cached, and will be read again (%s)", reason)


def _is_size(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
