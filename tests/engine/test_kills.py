"""Runs killed with SIGKILL, at every moment of their saves and at random ones, leave whole files and end bit-equal."""

import io
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch

from defcn_ext.engine import checkpointer
from tests.engine import tiny
from tests.engine.test_trainer import assert_same, load

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")]

OPTIONS = ("SOLVER.EMA.ENABLED", True, "SOLVER.OPTIMIZER", "ADAMW", "SOLVER.STEPS", (4,), "SOLVER.BASE_LR", 0.01)
MOMENTS_OF_A_SAVE = 13
RANDOM_KILLS = 30


def train(entry: str, folder: Path, length: int, die_at: int) -> None:
    """In a process of its own: begins or resumes a run, and dies at this moment of its saves, counted from 0."""
    torch.set_num_threads(1)
    moments = itertools.count()

    def moment() -> None:
        if next(moments) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(call):
        def wrapped(*args, **kwargs):
            moment()
            result = call(*args, **kwargs)
            moment()
            return result

        return wrapped

    def save_in_halves(content, file, write=torch.save) -> None:
        data = io.BytesIO()
        write(content, data)
        half = len(data.getvalue()) // 2
        file.write(data.getvalue()[:half])
        file.flush()
        moment()
        file.write(data.getvalue()[half:])

    os.fsync, os.replace = around(os.fsync), around(os.replace)
    checkpointer.torch = type("Torch", (), {"save": staticmethod(save_in_halves)})
    tiny.run(tiny.tiny_cfg(entry, folder, *OPTIONS, "SOLVER.MAX_ITER", length), resume=True)


class Runs:
    """Starts processes out of one that has everything imported."""

    def __init__(self, entry: str):
        self.entry = entry
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tests.engine.test_kills"])

    def start(self, folder: Path, length: int = 6, die_at: int = -1):
        process = self.context.Process(target=train, args=(self.entry, folder, length, die_at))
        process.start()
        return process

    def to_the_end(self, folder: Path, length: int = 6) -> None:
        process = self.start(folder, length)
        process.join()
        assert process.exitcode == 0


@pytest.fixture
def runs(tiny_entry):
    return Runs(tiny_entry)


def assert_nothing_is_torn(folder: Path) -> None:
    for path in folder.glob("*.pth"):
        assert zipfile.ZipFile(path).testzip() is None
        assert {"model", "trainer", "iteration"} <= set(torch.load(path, weights_only=True))
    if (folder / "last_checkpoint").exists():
        assert (folder / (folder / "last_checkpoint").read_text()).is_file()


@pytest.mark.parametrize("finished", [False, True])
def test_killed_at_every_moment_of_every_save(runs, tmp_path, finished):
    """A new run of three saves, and a finished one that is prolonged and saves once over what it has."""
    length, saves = (8, 1) if finished else (6, 3)
    begun, whole = tmp_path / "begun", tmp_path / "whole"
    begun.mkdir()
    if finished:
        runs.to_the_end(begun)
    shutil.copytree(begun, whole)
    runs.to_the_end(whole, length)
    kills = 0
    for die_at in itertools.count():
        folder = tmp_path / str(die_at)
        shutil.copytree(begun, folder)
        process = runs.start(folder, length, die_at)
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
        assert_nothing_is_torn(folder)
        assert not finished or (folder / "model_final.pth").exists()
        if process.exitcode == 0:
            break
        runs.to_the_end(folder, length)
        assert_nothing_is_torn(folder)
        assert_same(load(folder), load(whole))
        assert not list(folder.glob(".model*.partial"))
        shutil.rmtree(folder)
    print(f"{kills} kills inside {saves} saves")
    assert kills >= saves * MOMENTS_OF_A_SAVE


def test_killed_at_random_moments(runs, tmp_path):
    draw, kills, ended = random.Random(0), 0, 0
    start = time.monotonic()
    runs.to_the_end(tmp_path / "whole")
    runs.to_the_end(tmp_path / "timed")
    duration = (time.monotonic() - start) / 2
    folder = tmp_path / "0"
    while kills < RANDOM_KILLS:
        process = runs.start(folder)
        process.join(draw.uniform(0.1, 1.0) * duration)
        process.kill()
        process.join()
        if process.exitcode != 0:
            kills += 1
            assert_nothing_is_torn(folder)
            continue
        assert_same(load(folder), load(tmp_path / "whole"))
        ended += 1
        folder = tmp_path / str(ended)
    runs.to_the_end(folder)
    assert_same(load(folder), load(tmp_path / "whole"))
    print(f"{kills} kills, {ended + 1} runs to their end")
