"""Processes of a run end together, with one line."""

import multiprocessing
import os
import signal
import sys
import time
from argparse import Namespace
from pathlib import Path

import pytest
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from defcn_ext.engine import processes
from defcn_ext.engine.processes import run_in_processes, tie_to_parent

ARGS = Namespace(num_gpus=2, num_machines=1, machine_rank=0, dist_url="auto")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def parent(tied: bool, answer: int) -> None:
    """Starts a child, says its process id, and waits for ever, as the child does."""
    child = multiprocessing.get_context("fork").Process(target=wait_tied if tied else time.sleep, args=(600,))
    child.start()
    os.write(answer, str(child.pid).encode())
    child.join()


def wait_tied(seconds: int) -> None:
    tie_to_parent()
    time.sleep(seconds)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
@pytest.mark.parametrize("tied", [True, False])
def test_a_child_ends_soon_after_its_killed_parent(tied):
    ours, theirs = os.pipe()
    process = multiprocessing.get_context("fork").Process(target=parent, args=(tied, theirs))
    process.start()
    child = int(os.read(ours, 20))
    process.kill()
    deadline = time.monotonic() + (30 if tied else 2)
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = alive(child)
    if left:
        os.kill(child, signal.SIGKILL)
    assert left == (not tied)


def test_nothing_is_tied_in_a_process_that_a_user_started(monkeypatch):
    monkeypatch.setattr(processes.threading, "Thread", lambda **_: pytest.fail("started"))
    assert multiprocessing.parent_process() is None
    tie_to_parent()


def test_a_process_is_tied_once(monkeypatch):
    started = []
    monkeypatch.setattr(processes.multiprocessing, "parent_process", lambda: Namespace(pid=1))
    monkeypatch.setattr(processes, "_tied_in", set())
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(processes.threading, "Thread", lambda **_: Namespace(start=lambda: started.append(1)))
    tie_to_parent()
    tie_to_parent(3)
    assert started == [1]


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (
            ProcessExitedException("m", 1, 7, -9, "SIGKILL"),
            r"error: process 1 was ended by SIGKILL, perhaps .* --resume",
        ),
        (ProcessExitedException("m", 0, 7, -11, "SIGSEGV"), r"error: process 0 was ended by SIGSEGV, and the others"),
        (ProcessExitedException("m", 0, 7, 1), r"^1$"),
        (
            ProcessRaisedException("\n\n-- Process 1 terminated\nTraceback\nKeyError: 3", 1, 7),
            "process 1 failed.*KeyError: 3",
        ),
    ],
)
def test_the_launcher_ends_with_what_happened(monkeypatch, error, end):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(processes, "launch", fail)
    monkeypatch.setenv("PYTHONWARNINGS", "")
    with pytest.raises(SystemExit, match=f"(?s){end}") as caught:
        run_in_processes(print, ARGS)
    assert caught.value.code not in (0, None)
