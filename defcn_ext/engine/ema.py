"""Exponential moving average of the weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from defcn_ext.engine.checkpointer import Checkpointer
from detectron2.engine import HookBase


class WeightAverage(HookBase):
    """Averages every floating entry of the model's state dict after each step; others are copied.

    A checkpoint holds the averaged weights as its `model`, so that whatever reads it (evaluation, export, plain
    Detectron2) gets them; the weights that training goes on with lie in the state of this hook.
    """

    def __init__(self, model: nn.Module, decay: float):
        """
        Raises:
            ValueError: `decay` outside [0, 1).
        """
        if not 0 <= decay < 1:
            raise ValueError(f"SOLVER.EMA.DECAY: {decay} is outside [0, 1)")
        self.model = model
        self.decay = decay
        self.steps = 0
        self.average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None

    def before_train(self) -> None:
        if not self.average:
            self.average = _copy(self.model.state_dict())

    def after_step(self) -> None:
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Takes the model's present weights into the average."""
        self.steps += 1
        # A young average would remember the random start for 1 / (1 - decay) steps.
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)
            else:
                self.average[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model holds the averaged weights inside this context, and its own again afterwards."""
        self._raw = _copy(self.model.state_dict())
        _write(self.model, self.average)
        try:
            yield
        finally:
            _write(self.model, self._raw)
            self._raw = None

    def state_dict(self) -> dict[str, Any]:
        return {"raw": self._raw or self.model.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Expects the model to hold the weights of the checkpoint, which are the average."""
        self.average = _copy(self.model.state_dict())
        _write(self.model, state["raw"])
        self.steps = state["steps"]


class AveragedCheckpointer(Checkpointer):
    """Saves the averaged weights in place of the ones in training."""

    def __init__(self, average: WeightAverage, model: nn.Module, save_dir: str, **checkpointables: Any):
        super().__init__(model, save_dir, **checkpointables)
        self.average = average

    def save(self, name: str, **kwargs: Any) -> None:
        with self.average.applied():
            super().save(name, **kwargs)


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}


@torch.no_grad()
def _write(model: nn.Module, state: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        value.copy_(state[name])
