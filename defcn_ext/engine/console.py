"""The line that training prints."""

import datetime
import logging

import torch

from detectron2.utils.events import EventStorage, EventWriter, get_event_storage


class ProgressPrinter(EventWriter):
    """Detectron2's line of progress, with the length of the run beside the iteration, and memory on the CPU too."""

    def __init__(self, max_iter: int, window_size: int = 20):
        """
        Args:
            max_iter: iterations of the whole run.
            window_size: number of iterations whose median (losses) or mean (times) is shown.
        """
        self.logger = logging.getLogger(__name__)
        self.max_iter = max_iter
        self.window_size = window_size

    def write(self) -> None:
        storage = get_event_storage()
        if storage.iter >= self.max_iter:
            return  # what comes after the last iteration is evaluation, which prints its own table
        latest = {name: value for name, (value, _) in storage.latest().items()}
        fields = [self._eta(storage), f"iter: {storage.iter + 1}/{self.max_iter}"]
        smooth = storage.latest_with_smoothing_hint(self.window_size)
        fields += [f"{k}: {v:.4g}" for k, (v, _) in smooth.items() if "loss" in k or "[metric]" in k]
        fields += [f"{k}: {self._mean(storage, k):.4f}" for k in ("time", "data_time") if k in latest]
        fields.append(f"lr: {latest['lr']:.5g}" if "lr" in latest else "")
        if "memory_mb" in latest:
            fields.append(f"mem: {latest['memory_mb']:.0f}M")
        if torch.cuda.is_available():
            fields.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M")
        self.logger.info("  ".join(field for field in fields if field))

    def _mean(self, storage: EventStorage, name: str) -> float:
        return storage.history(name).avg(self.window_size)

    def _eta(self, storage: EventStorage) -> str:
        """Time left, also put into the storage as `eta_seconds`; empty until an iteration has been timed."""
        if "time" not in storage.histories():
            return ""
        seconds = storage.history("time").median(1000) * (self.max_iter - storage.iter - 1)
        storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
        return f"eta: {datetime.timedelta(seconds=int(seconds))}"
