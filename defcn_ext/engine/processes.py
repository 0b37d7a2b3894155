"""The processes of one run end together, and say once why."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from types import TracebackType

import torch
from torch import nn
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from defcn_ext.engine.endings import is_lost_peer
from detectron2.engine import create_ddp_model, launch
from detectron2.utils import comm

PERIOD = 1.0  # seconds between two looks at the parent
_tied_in: set[int] = set()  # process ids: a forked process inherits the set, and not the thread


def tie_to_parent(worker_id: int = 0) -> None:
    """Ends this process within seconds of the one that started it, however that one ended.

    Does nothing in a process that a user started, and what a second call would do is done.

    Args:
        worker_id: what a DataLoader hands to its `worker_init_fn`.
    """
    if multiprocessing.parent_process() is None or os.getpid() in _tied_in:
        return
    _tied_in.add(os.getpid())
    sys.excepthook = _told_unless_orphaned
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    while not _orphaned():
        time.sleep(PERIOD)
    os._exit(1)


def _orphaned() -> bool:
    """A killed parent is told by the number on POSIX, where others may hold the pipe; by the handle on Windows."""
    parent = multiprocessing.parent_process()
    return os.getppid() != parent.pid or not parent.is_alive()


def _told_unless_orphaned(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Threads that lose their connection to a killed parent would each print a traceback, a moment before the end."""
    time.sleep(PERIOD / 10)
    if not _orphaned():
        sys.__excepthook__(kind, error, trace)


def run_in_processes(main: Callable[[Namespace], object], args: Namespace) -> None:
    """Calls `main(args)` in as many processes as the command line asks for, or right here for one.

    A process that dies ends the program with status 1 and one line, after what that process had to say itself.

    Args:
        main: a function that a fresh interpreter can import.
        args: as of `default_argument_parser`.
    """
    logging.getLogger("torch.multiprocessing").setLevel(logging.ERROR)  # which process it terminates, line by line
    os.environ.setdefault("PYTHONWARNINGS", "ignore:resource_tracker")  # what a killed process could not clean up
    try:
        launch(
            _tied,
            args.num_gpus,
            num_machines=args.num_machines,
            machine_rank=args.machine_rank,
            dist_url=args.dist_url,
            args=(main, args),
        )
    except ProcessExitedException as error:
        sys.exit(_told(error))
    except ProcessRaisedException as error:
        sys.exit(f"error: process {error.error_index} failed{str(error).rstrip()}")


def _told(error: ProcessExitedException) -> str | int:
    """A line for a process that was killed; one that ended by itself has printed its own."""
    if error.exit_code >= 0:
        return 1
    memory = ", perhaps for want of memory" if error.signal_name == "SIGKILL" else ""
    return (
        f"error: process {error.error_index} was ended by {error.signal_name}{memory}, and the others with it; "
        "go on from the last checkpoint with --resume"
    )


def _tied(main: Callable[[Namespace], object], args: Namespace) -> None:
    tie_to_parent()
    logging.raiseExceptions = False  # a full disk would print a traceback for every line of the log
    try:
        main(args)
    except RuntimeError as error:
        if comm.get_world_size() > 1 and is_lost_peer(error):
            sys.exit(1)  # the process that ended first says why, or the launcher does
        raise


def distributed(model: nn.Module) -> nn.Module:
    """The model as it is in a single process, else wrapped for data-parallel training."""
    on_gpu = next(model.parameters()).is_cuda
    return create_ddp_model(model, broadcast_buffers=False, device_ids=[comm.get_local_rank()] if on_gpu else None)


def share_buffers(model: nn.Module) -> None:
    """Batch statistics drift apart between processes; those of the first are the ones that checkpoints hold."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)
