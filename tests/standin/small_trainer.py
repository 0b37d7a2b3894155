"""A trainer of a model of one weight, and a hook that notes what it sees."""

import json

import torch
from torch import nn

from detectron2.engine import (
    HookBase,
    SimpleTrainer,
    hooks,
)
from tests.conftest import FACTS

GOLDEN = json.loads((FACTS / "golden_training.json").read_text())


class Weight(nn.Module):
    """The loss at iteration i is weight * x[i], as one loss, two, or a bare tensor."""

    def __init__(self, kind="one_loss"):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.kind = kind

    def forward(self, x):
        loss = (self.weight * x).sum()
        return {"two_losses": {"loss_a": loss, "loss_b": loss * 3}, "bare_tensor": loss}.get(self.kind, {"loss": loss})


def make_trainer(kind="one_loss", values=None, hook_list=(), **kwargs):
    model = Weight(kind)
    data = [torch.tensor([value]) for value in (values or [1.0] * 100)]
    trainer = SimpleTrainer(model, data, torch.optim.SGD(model.parameters(), 0.1), **kwargs)
    trainer.register_hooks(list(hook_list))
    return trainer


class Spy(HookBase):
    """Notes each call with the iteration."""

    def __init__(self, fail_at=None):
        self.calls, self.fail_at = [], fail_at

    def before_train(self):
        self.calls.append("before_train")

    def before_step(self):
        self.calls.append(f"before_step {self.trainer.iter}")
        if self.trainer.iter == self.fail_at:
            raise ValueError("on purpose")

    def after_backward(self):
        self.calls.append(f"after_backward {self.trainer.iter}")

    def after_step(self):
        self.calls.append(f"after_step {self.trainer.iter}")

    def after_train(self):
        self.calls.append(f"after_train trainer.iter={self.trainer.iter} storage.iter={self.trainer.storage.iter}")


def eval_iterations(period, start, end, fail_at=None):
    """Values of trainer.iter at which an EvalHook evaluates, and the calls that a spy saw."""
    seen = []
    spy = Spy(fail_at)
    trainer = make_trainer(hook_list=[spy, hooks.EvalHook(period, lambda: seen.append(trainer.iter))])
    try:
        trainer.train(start, end)
        return seen, True, spy.calls
    except ValueError as error:
        return seen, type(error).__name__, spy.calls
