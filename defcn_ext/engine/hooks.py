"""Detectron2's hooks, where a run that resumes or fails would be another than the one that was not broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn

from defcn_ext.engine.data_order import ResumableLoader
from detectron2.engine import hooks


class EvalHook(hooks.EvalHook):
    """Evaluates after a training that came to its end, never after one that failed, be it in the last iteration."""

    def after_train(self) -> None:
        if self.trainer.done >= self.trainer.max_iter:
            super().after_train()


class PreciseBN(hooks.PreciseBN):
    """Takes the statistics over batches that the iteration and the seed alone tell, and changes nothing else.

    Detectron2's goes on in the data from one update to the next, so a resumed run begins anew, and it takes what the
    model counts or averages in training for a step.
    """

    def update_stats(self) -> None:
        loader = self._data_loader
        if isinstance(loader, ResumableLoader):
            before = self.trainer.iter // self._period if self._period > 0 else 0  # updates of an unbroken run
            loader.start = before * self._num_iter
            loader.seed = self.trainer.seed
            self._data_iter = None
        with _other_buffers_kept(self._model):
            super().update_stats()


@contextmanager
def _other_buffers_kept(model: nn.Module) -> Iterator[None]:
    """Puts back all buffers but those of BatchNorm layers in train mode."""
    measured = {id(buffer) for layer in get_bn_modules(model) for buffer in layer.buffers()}
    kept = [(buffer, buffer.clone()) for buffer in model.buffers() if id(buffer) not in measured]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
