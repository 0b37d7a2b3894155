"""Loggers that write one readable line a message, to the terminal and to a file of each worker."""

import atexit
import functools
import logging
import os
import sys
import time
from collections import Counter

from tabulate import tabulate
from termcolor import colored

from detectron2.utils.file_io import PathManager

__all__ = ["setup_logger", "log_first_n", "log_every_n", "log_every_n_seconds"]

FILE_FORMAT = "[%(asctime)s] %(name)s %(levelname)s: %(message)s"
TIME_FORMAT = "%m/%d %H:%M:%S"

_seen: Counter = Counter()
_last_logged: dict[tuple, float] = {}


@functools.lru_cache  # a repeated call must not add handlers
def setup_logger(
    output=None,
    distributed_rank=0,
    *,
    color=True,
    name="detectron2",
    abbrev_name=None,
    enable_propagation: bool = False,
    configure_stdout: bool = True,
):
    """Adds handlers to a logger and lets everything from DEBUG through.

    Args:
        output: a file name ending in .txt or .log, or a folder for "log.txt"; None writes no file. Ranks above 0
            append ".rankN" to the name.
        distributed_rank: only rank 0 writes to the terminal.
        color: colour the terminal lines.
        name: the logger.
        abbrev_name: shown in the terminal instead of `name`; default shortens "detectron2" to "d2".
        enable_propagation: also pass messages on to parent loggers.
        configure_stdout: False leaves the terminal alone.

    Returns:
        logging.Logger
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = enable_propagation
    if configure_stdout and distributed_rank == 0:
        short = abbrev_name if abbrev_name is not None else {"detectron2": "d2"}.get(name, name)
        _add_handler(logger, logging.StreamHandler(stream=sys.stdout), _TerminalFormatter(name, short, color))
    if output is not None:
        path = output if output.endswith((".txt", ".log")) else os.path.join(output, "log.txt")
        path += f".rank{distributed_rank}" if distributed_rank > 0 else ""
        _add_handler(logger, logging.StreamHandler(_open_log(path)), logging.Formatter(FILE_FORMAT, TIME_FORMAT))
    return logger


def log_first_n(lvl, msg, n=1, *, name=None, key="caller"):
    """Logs only the first `n` times.

    Args:
        lvl: level of `logging`.
        msg: the message.
        n: how often.
        name: logger; default is that of the calling module.
        key: what counts as the same: "caller" (the line of code), "message", or a tuple of both.
    """
    module, caller = _caller()
    parts = (key,) if isinstance(key, str) else key
    assert parts and set(parts) <= {"caller", "message"}, f"key={key!r}: use 'caller', 'message' or both"
    count_by = tuple(caller if part == "caller" else msg for part in parts)
    _seen[count_by] += 1
    if _seen[count_by] <= n:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n(lvl, msg, n=1, *, name=None):
    """Logs the first of every `n` calls from one line of code."""
    module, caller = _caller()
    _seen[caller] += 1
    if n == 1 or _seen[caller] % n == 1:
        logging.getLogger(name or module).log(lvl, msg)


def log_every_n_seconds(lvl, msg, n=1, *, name=None):
    """Logs unless the same line of code did so in the last `n` seconds."""
    module, caller = _caller()
    now = time.monotonic()
    if caller not in _last_logged or now - _last_logged[caller] >= n:
        _last_logged[caller] = now
        logging.getLogger(name or module).log(lvl, msg)


def create_small_table(small_dict):
    """A two-line table of a few name: value pairs, numbers with three decimals."""
    return tabulate(
        [list(small_dict.values())],
        headers=list(small_dict),
        tablefmt="pipe",
        floatfmt=".3f",
        stralign="center",
        numalign="center",
    )


class _TerminalFormatter(logging.Formatter):
    def __init__(self, name: str, short: str, color: bool):
        prefix = colored("[%(asctime)s %(name)s]: ", "green") if color else "[%(asctime)s] %(name)s %(levelname)s: "
        super().__init__(prefix + "%(message)s", TIME_FORMAT)
        self._name, self._short, self._color = name, short, color

    def formatMessage(self, record: logging.LogRecord) -> str:
        inner = record.name.removeprefix(self._name) if record.name.startswith(self._name) else None
        shown = logging.makeLogRecord(vars(record))
        if inner is not None:
            shown.name = self._short + inner if self._short else inner.removeprefix(".")
        line = super().formatMessage(shown)
        if self._color and record.levelno >= logging.WARNING:
            line = colored(record.levelname, "red" if record.levelno >= logging.ERROR else "yellow") + " " + line
        return line


def _add_handler(logger: logging.Logger, handler: logging.Handler, formatter: logging.Formatter) -> None:
    handler.setLevel(logging.DEBUG)
    handler.setFormatter(formatter)
    logger.addHandler(handler)


@functools.cache  # loggers that share a file must share the stream
def _open_log(path: str):
    PathManager.mkdirs(os.path.dirname(path) or ".")
    # Line buffering: the log of a run that was killed is complete.
    stream = PathManager.open(path, "a", buffering=1)
    atexit.register(stream.close)
    return stream


def _caller() -> tuple[str, tuple]:
    """Module name of, and (file, line, function) in, the first frame outside this file."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__:
        frame = frame.f_back
    module = frame.f_globals.get("__name__", "detectron2")
    return "detectron2" if module == "__main__" else module, (
        frame.f_code.co_filename,
        frame.f_lineno,
        frame.f_code.co_name,
    )
