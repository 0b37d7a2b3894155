"""How a training ends that cannot go on: with one line where that is all a user needs, else with a traceback."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from defcn_ext.config import UserError
from defcn_ext.data.pixels import UnreadableImageError

# A file system that takes no more.
DISK = {errno.ENOSPC, errno.EROFS, errno.EIO, errno.EFBIG} | {getattr(errno, "EDQUOT", errno.ENOSPC)}
# What gloo and its store say when another process of the run is gone.
LOST_PEER = ("closed by peer", "reset by peer", "Broken pipe", "recvValue failed", "sendBytes failed")


def for_the_user(error: BaseException) -> str | None:
    """The line that says it all; None for what needs a traceback."""
    if isinstance(error, (UserError, UnreadableImageError, FloatingPointError)):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK:
        place = error.filename or "a file of OUTPUT_DIR"
        return f"{place}: cannot be written ({error.strerror}); when that is mended, go on with --resume"
    return None


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error only says that another process of the run is gone."""
    return isinstance(error, RuntimeError) and any(part in str(error) for part in LOST_PEER)


@contextmanager
def mistakes_told_in_one_line() -> Iterator[None]:
    """Inside, Detectron2's training loop logs errors that need no traceback without one."""
    loop = logging.getLogger("detectron2.engine.train_loop")
    loop.addFilter(_without_traceback)
    try:
        yield
    finally:
        loop.removeFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    line = None if error is None else for_the_user(error)
    if error is not None and is_lost_peer(error):
        line = "another process of it is gone"
    if line is not None:
        record.msg, record.args, record.exc_info = "The training ends: %s", (line,), None
    return True
