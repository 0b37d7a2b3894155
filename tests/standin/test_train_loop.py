"""Trainers, on a model of one weight."""

import math
import re
import threading
import time

import pytest
import torch
from torch import nn

from detectron2.engine import (
    AMPTrainer,
    HookBase,
    SimpleTrainer,
    TrainerBase,
    create_ddp_model,
    hooks,
)
from tests.standin import says
from tests.standin.small_trainer import GOLDEN, Spy, Weight, eval_iterations, make_trainer


def test_order_of_calls():
    spy = Spy()
    make_trainer(hook_list=[spy, None]).train(0, 2)
    assert spy.calls == GOLDEN["hook_call_order_2_iterations"]


def test_an_exception_still_ends_the_training(lines):
    spy = Spy(fail_at=1)
    with pytest.raises(ValueError, match="on purpose"):
        make_trainer(hook_list=[spy]).train(0, 2)
    assert spy.calls == GOLDEN["hook_calls_when_iteration_1_raises"]
    assert ("detectron2.engine.train_loop", "ERROR", "Exception during training:") in lines()


def test_training_from_its_end():
    expected = GOLDEN["start_equals_max"]
    seen, result, calls = eval_iterations(0, 4, 4)
    assert (seen, result, calls) == (expected["eval_called_at_trainer_iter"], expected["result"], expected["spy"])


@pytest.mark.parametrize("case", GOLDEN["simple_trainer_scalars"])
def test_recorded_scalars(case):
    expected = GOLDEN["simple_trainer_scalars"][case]
    if isinstance(expected, dict):
        trainer = make_trainer(values=[1.0, float(case), 1.0])
        with pytest.raises(FloatingPointError, match=says("iteration 1")):
            trainer.train(0, 3)
        updated = trainer.model.weight.item() != pytest.approx(0.9)  # after the first, good step
        assert updated == expected["weights_were_updated"]
    else:
        trainer = make_trainer(case)
        trainer.train(0, 1)
        assert sorted(trainer.storage.latest()) == expected


def test_values_of_losses_and_updates():
    trainer = make_trainer("two_losses", [1.0, 2.0])
    trainer.train(0, 2)
    weight = 1 - 0.1 * 4  # gradient 1 + 3 at the first step
    latest = trainer.storage.latest()
    assert latest["loss_a"] == (pytest.approx(2 * weight), 1)
    assert latest["loss_b"] == (pytest.approx(6 * weight), 1)
    assert latest["total_loss"] == (pytest.approx(8 * weight), 1)
    assert trainer.model.weight.item() == pytest.approx(weight - 0.1 * 8)


def test_train_mode():
    model = Weight().eval()
    trainer = SimpleTrainer(model, [torch.ones(1)] * 2, torch.optim.SGD(model.parameters(), 0.1))
    assert model.training == GOLDEN["simple_trainer_puts_model_in_train_mode"]
    model.eval()
    assert GOLDEN["simple_trainer_eval_mode_model"] == "AssertionError"
    with pytest.raises(AssertionError, match=says("eval mode")):
        trainer.train(0, 1)


@pytest.mark.parametrize("before", [False, True])
def test_old_gradients_are_forgotten(before):
    class Greedy(Weight):
        """Meets gradients of the step before in its forward pass, unless they were forgotten."""

        seen = []

        def forward(self, x):
            self.seen.append(self.weight.grad is not None)
            return super().forward(x)

    model = Greedy()
    model.seen = []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    SimpleTrainer(model, [torch.ones(1)] * 3, optimizer, zero_grad_before_forward=before).train(0, 3)
    assert model.seen == [False, not before, not before]
    assert model.weight.item() == pytest.approx(0.7)  # three steps of 0.1, nothing accumulated


def test_metrics_are_gathered_every_few_iterations():
    trainer = make_trainer(values=[float(i) for i in range(10)], gather_metric_period=4)
    trainer.train(0, 10)
    assert [iteration for _, iteration in trainer.storage.history("total_loss").values()] == [3, 7]


@pytest.mark.standin_only("hooks after the training see all that the thread wrote")
def test_metrics_written_in_a_thread_are_complete_and_under_their_iteration(monkeypatch):
    write = SimpleTrainer.write_metrics
    slow = staticmethod(lambda *args: (time.sleep(0.01), write(*args)))
    monkeypatch.setattr(SimpleTrainer, "write_metrics", slow)
    seen = []
    at_end = hooks.CallbackHook(after_train=lambda t: seen.append(t.storage.latest()["total_loss"][1]))
    trainer = make_trainer(values=[1.0, 2.0, 3.0], hook_list=[at_end], async_write_metrics=True)
    trainer.train(0, 3)
    expected = [(1.0, 0), (2 * 0.9, 1), (3 * 0.7, 2)]
    assert [(pytest.approx(v), i) for v, i in trainer.storage.history("total_loss").values()] == expected
    assert seen == [2]


@pytest.mark.standin_only("an error of the thread is not lost")
def test_metrics_written_in_a_thread_raise_in_the_next_step():
    spy, threads = Spy(), threading.active_count()
    trainer = make_trainer(values=[1.0, math.nan, 1.0, 1.0], hook_list=[spy], async_write_metrics=True)
    with pytest.raises(FloatingPointError, match=says("iteration 1")):
        trainer.train(0, 4)
    assert spy.calls[-1] == "after_train trainer.iter=2 storage.iter=2"
    assert threading.active_count() == threads


def test_prefix_of_the_total_loss():
    class Prefixed(HookBase):
        def after_step(self):
            SimpleTrainer.write_metrics({"a": torch.tensor(1.0), "b": torch.tensor(2.0)}, 0.5, 7, "val_")

    trainer = make_trainer(hook_list=[Prefixed()])
    trainer.train(0, 1)
    assert trainer.storage.latest()["val_total_loss"] == (3.0, 7)
    assert trainer.storage.latest()["b"] == (2.0, 7)


def test_the_loader_can_be_replaced():
    trainer = make_trainer(values=[1.0])
    trainer.train(0, 1)
    trainer.reset_data_loader(lambda: [torch.tensor([5.0])])
    trainer.train(0, 1)
    assert trainer.storage.latest()["total_loss"][0] == pytest.approx(5 * 0.9)


def test_register_hooks_takes_hooks_only():
    with pytest.raises(AssertionError, match=says("HookBase")):
        make_trainer().register_hooks([lambda: None])


class Keeper(HookBase):
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


class OtherKeeper(Keeper):
    pass


def test_state_of_hooks(lines):
    trainer = make_trainer(hook_list=[Keeper(1), Spy(), Keeper(2), OtherKeeper(3)])
    trainer.iter = 7
    state = trainer.state_dict()
    assert list(state) == ["iteration", "hooks", "optimizer"]
    assert state["iteration"] == 7
    assert state["hooks"] == {"Keeper": {"value": 1}, "OtherKeeper": {"value": 3}}

    keeper = Keeper(0)
    other = make_trainer(hook_list=[keeper])
    other.load_state_dict(state)
    assert (other.iter, keeper.value) == (7, 1)
    ((_, level, text),) = lines()
    assert level == "WARNING" and re.search(says("No hook OtherKeeper to load a state into"), text)
    assert "hooks" not in make_trainer().state_dict()


def test_run_step_must_be_written():
    with pytest.raises(NotImplementedError):
        TrainerBase().train(0, 1)


def test_amp_trainer_needs_cuda(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    model = Weight()
    trainer = AMPTrainer(model, [torch.ones(1)], torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(AssertionError, match=says("CUDA")):
        trainer.train(0, 1)


class Scaler:
    """A GradScaler of factor 4 for any device."""

    def scale(self, loss):
        return loss * 4

    def step(self, optimizer):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad /= 4
        optimizer.step()

    def update(self):
        self.updated = True

    def get_scale(self):
        return 4.0

    def state_dict(self):
        return {"scale": 4.0}

    def load_state_dict(self, state):
        self.loaded = state


@pytest.mark.standin_only("a scaler that needs no GPU")
def test_amp_trainer_scales_gradients(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    model, seen = Weight(), []
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = AMPTrainer(model, [torch.ones(1)] * 2, optimizer, grad_scaler=Scaler(), log_grad_scaler=True)
    gradient = HookBase()
    gradient.after_backward = lambda: seen.append(model.weight.grad.item())
    trainer.register_hooks([gradient])
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: torch.enable_grad())
    trainer.train(0, 1)
    assert seen == [4.0]
    assert model.weight.item() == pytest.approx(0.9)
    assert trainer.grad_scaler.updated
    assert trainer.storage.latest()["[metric]grad_scaler"] == (4.0, 0)
    assert list(trainer.state_dict()) == ["iteration", "optimizer", "grad_scaler"]
    trainer.load_state_dict(trainer.state_dict())
    assert trainer.grad_scaler.loaded == {"scale": 4.0}


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_amp_trainer_on_a_gpu(precision):
    class Linear(nn.Linear):
        def forward(self, x):
            y = super().forward(x.cuda())
            self.seen = y.dtype
            return {"loss": y.float().square().mean()}

    model = Linear(4, 4).cuda()
    data = [torch.ones(2, 4)] * 20
    trainer = AMPTrainer(model, data, torch.optim.SGD(model.parameters(), 0.1), precision=precision)
    trainer.train(0, 20)
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert model.seen == precision
    assert losses[-1] < 0.1 * losses[0]


def test_one_process_needs_no_wrapper():
    model = Weight()
    assert create_ddp_model(model) is model
