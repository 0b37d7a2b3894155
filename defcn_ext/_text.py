"""How the tools print numbers and write files."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


def number(value: float, form: str = ".1f") -> str:
    return "-" if math.isnan(value) else format(value, form)


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def say(text: str) -> None:
    print(text, flush=True)


def without_nan(value: Any) -> Any:
    """Lists and dicts with None in place of nan, which JSON does not know."""
    if isinstance(value, dict):
        return {k: without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def write_whole(path: Path, text: str, *, rivals: bool = False) -> None:
    """Writes a file so that it is there whole or not at all, also when the process is killed or the disk is full."""
    with whole_file(path, rivals=rivals) as file:
        file.write(text.encode("utf-8"))


@contextmanager
def whole_file(path: Path, *, rivals: bool = False) -> Iterator[BinaryIO]:
    """Opens a file for bytes that appears under its name when the block is left, flushed to the disk.

    An error inside, or a kill at any moment, leaves what was under that name before. A kill may also leave
    `partial_of(path)`, which the next writing of the same file replaces.

    Args:
        rivals: other processes may write the same file at the same time: each into a partial file of its own, and the
            last one's is what stays. Of these a kill leaves one a process, so it is for small files.
    """
    partial = partial_of(path, f".{socket.gethostname()}-{os.getpid()}" if rivals else "")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def drop_torn_line(path: Path) -> None:
    """Cuts off what a killed process has left of a line at the end of a file that is continued."""
    if path.is_file():
        with path.open("rb+") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def partial_of(path: Path, writer: str = "") -> Path:
    """The name that a file has while it is being written."""
    return path.with_name(f".{path.name}{writer}.partial")


def _flush_folder(folder: Path) -> None:
    """Makes a rename outlast a power cut, where the system can open folders."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def explained(error: OSError | ValueError) -> str:
    """One line for the user."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
