"""What a run reports: a storage of scalars by iteration, and the writers that print or save them."""

import datetime
import json
import logging
import os
import time
from collections import defaultdict
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from fvcore.common.history_buffer import HistoryBuffer

from detectron2.utils.file_io import PathManager

__all__ = [
    "get_event_storage",
    "has_event_storage",
    "JSONWriter",
    "TensorboardXWriter",
    "CommonMetricPrinter",
    "EventStorage",
]

_STORAGES: list["EventStorage"] = []


def get_event_storage():
    """The storage of the innermost `with EventStorage(...)`.

    Raises:
        AssertionError: there is none.
    """
    assert _STORAGES, "get_event_storage() works only inside `with EventStorage(...)`"
    return _STORAGES[-1]


def has_event_storage() -> bool:
    return bool(_STORAGES)


class EventStorage:
    """Scalars with their history, and the images and histograms that wait for a writer."""

    def __init__(self, start_iter=0):
        self._iter = start_iter
        self._histories: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._scope = ""
        self._vis_data: list[tuple[str, Any, int]] = []
        self._histograms: list[dict[str, Any]] = []

    @property
    def iter(self) -> int:
        """The current iteration. `step` adds one; a trainer may set it."""
        return self._iter

    @iter.setter
    def iter(self, value) -> None:
        self._iter = int(value)

    @property
    def iteration(self) -> int:
        """The older name of `iter`."""
        return self._iter

    def put_scalar(self, name, value, smoothing_hint=True, cur_iter=None) -> None:
        """Records a number.

        Args:
            name: grouped by "/" in TensorBoard.
            value: anything that `float` takes.
            smoothing_hint: whether writers show a median over recent values instead of the value itself.
            cur_iter: iteration to record it under; default is the current one.

        Raises:
            AssertionError: the name was used with another hint.
        """
        name = self._scope + name
        iteration = self._iter if cur_iter is None else cur_iter
        value = float(value)
        hint = self._smoothing_hints.setdefault(name, smoothing_hint)
        assert hint == smoothing_hint, f"Scalar {name} was put before with smoothing_hint={hint}"
        self._histories[name].update(value, iteration)
        self._latest[name] = (value, iteration)

    def put_scalars(self, *, smoothing_hint=True, cur_iter=None, **kwargs) -> None:
        """Records several numbers: `put_scalars(loss=1.0, accuracy=0.5)`."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name, img_tensor) -> None:
        """Keeps an image (3, H, W), uint8 or float in [0, 1], for TensorBoard."""
        self._vis_data.append((img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name, hist_tensor, bins=1000) -> None:
        """Keeps a histogram of all values of a tensor for TensorBoard."""
        values = hist_tensor.detach().float().cpu()
        low, high = values.min().item(), values.max().item()
        edges = torch.linspace(low, high, bins + 1)
        self._histograms.append(
            {
                "tag": hist_name,
                "min": low,
                "max": high,
                "num": values.numel(),
                "sum": values.sum().item(),
                "sum_squares": values.square().sum().item(),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": torch.histc(values, bins).tolist(),
                "global_step": self._iter,
            }
        )

    def history(self, name) -> HistoryBuffer:
        """All values of a scalar. Raises KeyError if there are none."""
        if name not in self._histories:
            raise KeyError(f"No scalar {name!r} was put; known: {', '.join(self._histories) or 'none'}")
        return self._histories[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        return self._histories

    def latest(self) -> dict[str, tuple[float, int]]:
        """name -> (last value, its iteration)."""
        return self._latest

    def latest_with_smoothing_hint(self, window_size=20) -> dict[str, tuple[float, int]]:
        """Like `latest`, with the median over the last `window_size` iterations where the hint says so."""
        return {
            name: (self._smoothed(name, window_size) if self._smoothing_hints[name] else value, iteration)
            for name, (value, iteration) in self._latest.items()
        }

    def count_samples(self, name, window_size=20) -> int:
        """How often a scalar was put in the `window_size` iterations that end with its last one."""
        values = self.history(name).values()
        first = values[-1][1] - window_size
        count = 0
        for _, iteration in reversed(values):
            if iteration <= first:
                break
            count += 1
        return count

    def smoothing_hints(self) -> dict[str, bool]:
        return self._smoothing_hints

    def step(self) -> None:
        """To be called before each iteration but the first, by the owner of the loop."""
        self._iter += 1

    def __enter__(self):
        _STORAGES.append(self)
        return self

    def __exit__(self, exc_type, exc_val, exc_tb):
        assert _STORAGES[-1] is self, "storages must be left in the opposite order of entering"
        _STORAGES.pop()

    @contextmanager
    def name_scope(self, name):
        """Prepends "name/" to the scalars put inside."""
        outer = self._scope
        self._scope = name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._scope = outer

    def clear_images(self) -> None:
        self._vis_data = []

    def clear_histograms(self) -> None:
        self._histograms = []

    def _smoothed(self, name: str, window_size: int) -> float:
        return float(self._histories[name].median(self.count_samples(name, window_size)))


class EventWriter:
    """Base of everything that turns the current storage into output."""

    def write(self):
        raise NotImplementedError

    def close(self):
        """Nothing to release by default."""


class JSONWriter(EventWriter):
    """Appends one JSON object to a file for each iteration that has news since the last write."""

    def __init__(self, json_file, window_size=20):
        """
        Args:
            json_file: path; an existing file is continued.
            window_size: iterations over which hinted scalars are smoothed.
        """
        self._file = PathManager.open(json_file, "a")
        self._window_size = window_size
        self._last_write = -1

    def write(self):
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                rows[iteration][name] = value
        if not rows:
            return
        for iteration in sorted(rows):
            self._file.write(json.dumps({**rows[iteration], "iteration": iteration}, sort_keys=True) + "\n")
        self._last_write = max(rows)
        self._file.flush()
        try:
            os.fsync(self._file.fileno())
        except (AttributeError, OSError):
            pass  # not every file behind PathManager is a real one

    def close(self):
        self._file.close()


class TensorboardXWriter(EventWriter):
    """Writes scalars, images and histograms for TensorBoard."""

    def __init__(self, log_dir: str, window_size: int = 20, **kwargs):
        """
        Args:
            log_dir: folder of the event file; made at the first write.
            window_size: iterations over which hinted scalars are smoothed.
            kwargs: for `torch.utils.tensorboard.SummaryWriter`.
        """
        self._window_size = window_size
        self._arguments = {"log_dir": log_dir, **kwargs}
        self._last_write = -1

    @cached_property
    def _writer(self):
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(**self._arguments)

    def write(self):
        storage = get_event_storage()
        newest = self._last_write
        for name, (value, iteration) in storage.latest_with_smoothing_hint(self._window_size).items():
            if iteration > self._last_write:
                self._writer.add_scalar(name, value, iteration)
                newest = max(newest, iteration)
        self._last_write = newest
        for name, image, iteration in storage._vis_data:
            self._writer.add_image(name, image, iteration)
        storage.clear_images()
        for histogram in storage._histograms:
            self._writer.add_histogram_raw(**histogram)
        storage.clear_histograms()

    def close(self):
        if "_writer" in self.__dict__:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs one line with progress, losses, times, learning rate and memory."""

    def __init__(self, max_iter: int | None = None, window_size: int = 20):
        """
        Args:
            max_iter: length of the run, for the time left; None leaves that out.
            window_size: iterations over which losses are smoothed.
        """
        self.logger = logging.getLogger("detectron2.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last_write: tuple[int, float] | None = None

    def write(self):
        storage = get_event_storage()
        if storage.iter == self._max_iter:
            return  # only evaluation comes after the last iteration
        eta = self._eta(storage)
        fields = [f"eta: {eta}"] if eta else []
        fields.append(f"iter: {storage.iter}")
        for kind in ("loss", "[metric]"):
            names = [name for name in storage.histories() if kind in name]
            fields += [f"{name}: {storage._smoothed(name, self._window_size):.4g}" for name in names]
        fields += self._times(storage, "time", lambda history, count: history.global_avg())
        fields += self._times(storage, "data_time", lambda history, count: history.avg(count))
        rate = storage.latest().get("lr")
        fields.append(" lr: " + ("N/A" if rate is None else f"{rate[0]:.5g}"))
        fields.append(f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M" if torch.cuda.is_available() else "")
        self.logger.info(" " + "  ".join(fields))

    def _times(self, storage: EventStorage, name: str, average) -> list[str]:
        if name not in storage.histories():
            return []
        history = storage.history(name)
        mean = average(history, storage.count_samples(name, self._window_size))
        return [f"{name}: {mean:.4f}", f"last_{name}: {history.latest():.4f}"]

    def _eta(self, storage: EventStorage) -> str:
        """Time left as h:mm:ss, from the median iteration time, or from the clock where nobody measures that."""
        if self._max_iter is None:
            return ""
        left = self._max_iter - storage.iter - 1
        if "time" in storage.histories():
            seconds = storage.history("time").median(1000) * left
            storage.put_scalar("eta_seconds", seconds, smoothing_hint=False)
            return str(datetime.timedelta(seconds=int(seconds)))
        now, last = (storage.iter, time.perf_counter()), self._last_write
        self._last_write = now
        if last is None or now[0] == last[0]:
            return ""
        return str(datetime.timedelta(seconds=int((now[1] - last[1]) / (now[0] - last[0]) * left)))
