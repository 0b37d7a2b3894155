"""Memory of the training process, where Detectron2 reports that of the GPU alone."""

import os
import sys
from pathlib import Path

import torch

from detectron2.engine import HookBase

MIB = 2**20
STATM = Path("/proc/self/statm")


def resident_memory() -> float | None:
    """Memory that this process holds now, in MiB; its peak so far on systems without /proc, None on Windows."""
    if STATM.exists():
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024


class MemoryStats(HookBase):
    """Puts `memory_mb` (resident) and, with a GPU, `gpu_memory_mb` (peak) into the event storage at each step."""

    def after_step(self) -> None:
        storage = self.trainer.storage
        memory = resident_memory()
        if memory is not None:
            storage.put_scalar("memory_mb", memory, smoothing_hint=False)
        if torch.cuda.is_available():
            storage.put_scalar("gpu_memory_mb", torch.cuda.max_memory_allocated() / MIB, smoothing_hint=False)
