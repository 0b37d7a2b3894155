"""Two rank processes with loaders, one of which or whose launcher is killed: nothing lives on, one line says why."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.engine.tiny import tiny_cfg

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at /proc")]

ROOT = Path(__file__).parents[2]


def children(pid: int) -> list[int]:
    """Processes below one, at any depth."""
    own = [int(x) for path in Path(f"/proc/{pid}/task").glob("*/children") for x in path.read_text().split()]
    return [*own, *(deep for child in own for deep in children(child))]


def is_rank_or_loader(pid: int) -> bool:
    try:
        return "multiprocessing-fork" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(condition, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.2)
    return False


@pytest.mark.parametrize("who", ["rank 0", "rank 1", "launcher"])
def test_a_killed_process_takes_the_others_with_it(tiny_entry, tmp_path, who):
    config = tmp_path / "tiny.yaml"
    opts = ("DATALOADER.NUM_WORKERS", 2, "SOLVER.MAX_ITER", 100_000, "SOLVER.CHECKPOINT_PERIOD", 20)
    config.write_text(tiny_cfg(tiny_entry, tmp_path / "out", *opts).dump())
    command = [sys.executable, "-m", "tests.engine.tiny_run", "--config-file", config, "--num-gpus", "2"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = (tmp_path / "log").open("w+")
    launcher = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    try:
        assert until((tmp_path / "out" / "last_checkpoint").exists, 300), (tmp_path / "log").read_text()[-2000:]
        family = [pid for pid in children(launcher.pid) if is_rank_or_loader(pid)]
        ranks = [pid for pid in family if is_rank_or_loader(pid) and pid in direct(launcher.pid)]
        assert len(family) == 6 and len(ranks) == 2
        before = len((tmp_path / "log").read_text().splitlines())
        os.kill(launcher.pid if who == "launcher" else ranks[int(who[-1])], signal.SIGKILL)
        assert until(lambda: not any(map(alive, family)), 60), [pid for pid in family if alive(pid)]
        assert launcher.wait(60) == (-signal.SIGKILL if who == "launcher" else 1)
    finally:
        launcher.kill()
    after = [line for line in (tmp_path / "log").read_text().splitlines()[before:] if " iter: " not in line]
    print("\n".join(after))
    if who != "launcher":
        assert after[-1].startswith(f"error: process {who[-1]} was ended by SIGKILL") and len(after) < 10


def direct(pid: int) -> list[int]:
    return [int(x) for path in Path(f"/proc/{pid}/task").glob("*/children") for x in path.read_text().split()]
