"""Memory of the training process, where Detectron2 reports that of the GPU alone."""

import resource
import sys
from pathlib import Path

import torch

from detectron2.engine import HookBase

MIB = 2**20


def resident_memory() -> float:
    """Memory that this process holds now, in MiB; its peak so far on systems without /proc."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


class MemoryStats(HookBase):
    """Puts `memory_mb` (resident) and, with a GPU, `gpu_memory_mb` (peak) into the event storage at each step."""

    def after_step(self) -> None:
        storage = self.trainer.storage
        storage.put_scalar("memory_mb", resident_memory(), smoothing_hint=False)
        if torch.cuda.is_available():
            storage.put_scalar("gpu_memory_mb", torch.cuda.max_memory_allocated() / MIB, smoothing_hint=False)
