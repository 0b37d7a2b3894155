"""The runs of a comparison as child processes, several at a time, with one line of progress each."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import defcn_ext
from defcn_ext._text import minutes, number, say
from defcn_ext.config import UserError
from defcn_ext.study.runs import Run, read_run

POLL = 0.1  # seconds
LOCK_PATIENCE = 15.0  # seconds that orphans of a killed call get to end
LOG_LINES = 8


@dataclass(frozen=True)
class Plan:
    """A run to be done.

    Attributes:
        inputs: see `inputs_of`.
        finished: what an earlier call left, or None.
    """

    label: str
    seed: int
    folder: Path
    inputs: dict[str, str]
    finished: Run | None = None


@dataclass(frozen=True)
class Failure:
    label: str
    seed: int
    reason: str


@contextmanager
def locked(output: Path) -> Iterator[IO[str]]:
    """Inside, no other call works in this folder. The operating system frees the lock when its holders have ended.

    Raises:
        UserError: another call is at work, or the folder cannot be written to.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        file = open(output / ".lock", "a+", encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {output}: cannot be written to ({error.strerror})") from error
    with file:
        deadline = time.monotonic() + LOCK_PATIENCE
        while not _try_lock(file):
            file.seek(0)
            holder = file.read().strip()
            if _alive(holder) or time.monotonic() > deadline:
                raise UserError(f"{output}: another comparison is at work there (process {holder or 'unknown'})")
            time.sleep(POLL)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True


def run_all(plans: Sequence[Plan], jobs: int, threads: int, lock: IO[str]) -> tuple[list[Run], list[Failure]]:
    """Does what is not done yet, `jobs` at a time. Returns finished runs and failures, in the order of the plans.

    Args:
        lock: stays locked as long as any of the children lives.
    """
    results: dict[int, Run | Failure] = {}
    progress = Progress(len(plans), jobs)
    for index, plan in enumerate(plans):
        if plan.finished is not None:
            results[index] = replace(plan.finished, label=plan.label)
            progress.taken_over(results[index])
    waiting = [index for index in range(len(plans)) if index not in results]
    working: dict[int, subprocess.Popen] = {}
    started: dict[int, float] = {}
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                index = waiting.pop(0)
                started[index] = time.perf_counter()
                working[index] = start(plans[index].folder, threads, lock)
            time.sleep(POLL)
            for index in [i for i, process in working.items() if process.poll() is not None]:
                process = working.pop(index)
                process.stdin.close()
                results[index] = outcome(plans[index], process.returncode)
                progress.done(results[index], time.perf_counter() - started[index])
    finally:
        for process in working.values():
            process.kill()
            process.wait()
    ordered = [results[index] for index in range(len(plans))]
    return [x for x in ordered if isinstance(x, Run)], [x for x in ordered if isinstance(x, Failure)]


def start(folder: Path, threads: int, lock: IO[str]) -> subprocess.Popen:
    """A child that trains what `folder` describes, and ends when this process does."""
    path = [str(Path(defcn_ext.__file__).resolve().parents[1]), *filter(None, [os.getenv("PYTHONPATH")])]
    count = str(threads)
    changes = {"PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}
    command = [sys.executable, "-m", "defcn_ext.study.runs", str(folder), "--threads", count]
    with open(folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **changes},
            pass_fds=[lock.fileno()],
        )


def outcome(plan: Plan, status: int) -> Run | Failure:
    run = read_run(plan.folder, plan.inputs)
    if run is not None:
        return replace(run, label=plan.label)
    ended = f"killed by signal {-status}" if status < 0 else f"exit code {status}"
    last = (plan.folder / "log.txt").read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-LOG_LINES:]
    return Failure(plan.label, plan.seed, "\n".join([ended, *last]))


class Progress:
    """One line a run: k/n, label, seed, AP, and the time that the whole comparison took and will take."""

    def __init__(self, total: int, jobs: int):
        self.total, self.jobs = total, jobs
        self.count = 0
        self.start = time.perf_counter()
        self.seconds: list[float] = []  # of the runs done here

    def taken_over(self, run: Run) -> None:
        self.count += 1
        say(f"{self._head(run)}: {_score(run)}, taken over from an earlier call")

    def done(self, result: Run | Failure, seconds: float) -> None:
        """
        Args:
            seconds: that the run took in this call.
        """
        self.count += 1
        self.seconds.append(seconds)
        left = sum(self.seconds) / len(self.seconds) * (self.total - self.count) / self.jobs
        times = f"elapsed {minutes(time.perf_counter() - self.start)}, left about {minutes(left)}"
        if isinstance(result, Failure):
            say("\n    ".join([f"{self._head(result)}: FAILED, {times}", *result.reason.splitlines()]))
        else:
            trained = f"trained in {minutes(result.train_seconds)}"
            say(f"{self._head(result)}: {_score(result)}, {trained}, {times}")

    def _head(self, result: Run | Failure) -> str:
        return f"[{self.count}/{self.total}] {result.label}, seed {result.seed}"


def _score(run: Run) -> str:
    last = run.curve[-1]
    return f"AP {number(last.ap)} without NMS, {number(last.ap_with_nms)} with NMS"
