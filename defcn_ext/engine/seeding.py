"""Random numbers as pure functions of the seed and of where a run is, so that nothing has to be saved to resume."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from detectron2.config import CfgNode
from detectron2.utils import comm

SAMPLE, STEP = 0, 1  # what a seed is for


def run_seed(cfg: CfgNode) -> int:
    """SEED, or where that is negative a number that differs from run to run and is the same in all processes."""
    if cfg.SEED >= 0:
        return cfg.SEED
    return comm.all_gather(int.from_bytes(os.urandom(4), "little"))[0]


def derive(*keys: int) -> int:
    """Mixes non-negative integers into a seed of 32 bits."""
    return int(np.random.SeedSequence(keys).generate_state(1)[0])


def seed_step(seed: int, iteration: int) -> None:
    """Seeds this process for one training step, differently in each process."""
    value = derive(seed, STEP, iteration, comm.get_rank())
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


@contextmanager
def sample_randomness(seed: int, position: int) -> Iterator[None]:
    """Python, numpy and torch (CPU) draw from a stream of this sample's own inside, and go on as before afterwards."""
    value = derive(seed, SAMPLE, position)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(value)
    np.random.seed(value)
    torch.default_generator.manual_seed(value)  # torch.manual_seed would reach for the GPU, in a forked worker too
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
