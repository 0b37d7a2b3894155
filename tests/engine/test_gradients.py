"""Gradients that are not finite: left out, counted, and the end of a training that has no others."""

import logging

import pytest
import torch
from torch import nn

from defcn_ext.engine import gradients
from defcn_ext.engine.gradients import PATIENCE, PATIENCE_SCALED, GradientGuard, largest_gradient, to_host
from defcn_ext.engine.train_step import TrainStep
from detectron2.utils.events import EventStorage

NAN, INF = float("nan"), float("inf")


class Spoilt(torch.autograd.Function):
    """The number itself, with another gradient."""

    @staticmethod
    def forward(ctx, value, gradient):
        ctx.gradient = gradient
        return value.clone()

    @staticmethod
    def backward(ctx, _):
        return torch.full((), ctx.gradient), None


class Net(nn.Module):
    """A finite loss at each step; its gradient is not where `spoilt` has the step."""

    def __init__(self, spoilt):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.other = nn.Parameter(torch.tensor(3.0))
        self.spoilt, self.steps = spoilt, 0

    def forward(self, batch):
        loss = self.weight.square().sum() + self.other
        loss = Spoilt.apply(loss, self.spoilt[self.steps]) if self.steps in self.spoilt else loss
        self.steps += 1
        return {"loss": loss}


def train(spoilt, steps, **options):
    """The model after these steps, the weights after each, and the event storage."""
    model = Net(spoilt)
    step = TrainStep(model, [[{}]] * steps, torch.optim.AdamW(model.parameters(), lr=0.1), seed=1, **options)
    weights = []
    with EventStorage() as storage:
        for step.iter in range(steps):
            storage.iter = step.iter
            step.run_step()
            weights.append(model.weight.detach().clone())
    return step, weights, storage


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_such_a_step_changes_nothing_and_is_counted(bad, caplog):
    with caplog.at_level(logging.WARNING, logger="defcn_ext"):
        step, weights, storage = train({2: bad, 3: bad}, 5)
    assert torch.equal(weights[1], weights[3]) and not torch.equal(weights[3], weights[4])
    assert [value for value, _ in storage.history("skipped_steps").values()] == [0, 0, 1, 2, 2]
    assert step.optimizer.state[step.model.weight]["step"] == 3  # nor does the optimizer remember it
    assert [r.getMessage() for r in caplog.records] == [
        f"Gradient of iteration {i} is not finite: step left out ({i - 1} so far)" for i in (2, 3)
    ]
    _, unbroken, _ = train({}, 3)
    assert torch.equal(weights[4], unbroken[2])


def test_several_in_a_row_end_the_training_and_single_ones_do_not():
    step, _, _ = train({i: NAN for i in range(20) if i % PATIENCE != 0}, 20)
    assert step.guard.skipped == 16 and step.guard.in_a_row == PATIENCE - 1
    with pytest.raises(
        FloatingPointError, match=rf"{PATIENCE} steps in a row, up to iteration {PATIENCE + 1}, .*BASE_LR"
    ):
        train({i: NAN for i in range(2, 20)}, 20)


def test_the_count_goes_on_after_a_resume():
    first, _, _ = train({0: NAN, 1: NAN}, 2)
    assert first.state_dict()["skipped"] == {"total": 2, "in_a_row": 2}
    second = TrainStep(Net({}), [], torch.optim.AdamW(Net({}).parameters()), seed=1)
    assert "skipped" not in second.state_dict()
    second.guard.load_state_dict(first.state_dict()["skipped"])
    assert (second.guard.skipped, second.guard.in_a_row) == (2, 2)


def test_scaled_losses_have_time_to_find_their_scale():
    guard = GradientGuard(scaled=True)
    with EventStorage():
        assert not any(guard.admits(INF, i) for i in range(PATIENCE_SCALED - 1))
        with pytest.raises(FloatingPointError):
            guard.admits(INF, PATIENCE_SCALED)


def test_one_process_of_several_ends_the_training(monkeypatch):
    """The gradient is the same in all; the launcher ends the others."""
    monkeypatch.setattr(gradients.comm, "is_main_process", lambda: False)
    guard = GradientGuard()
    with EventStorage():
        assert not any(guard.admits(NAN, i) for i in range(3 * PATIENCE))


@pytest.mark.parametrize(("place", "value"), [(0, NAN), (5, -INF), (2, INF), (None, None)])
def test_the_largest_is_not_finite_exactly_if_one_is_not(place, value):
    """Also where the sum of squares would overflow float32."""
    params = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(3))]
    numbers = torch.tensor([1.0, -3e30, 2e30, 0.0, 5.0, -7.0])
    if place is not None:
        numbers[place] = value
    params[0].grad, params[1].grad = numbers[:2].clone(), numbers[2:].reshape(2, 2).clone()
    found = largest_gradient(torch.optim.SGD(params, lr=1.0))
    assert torch.isfinite(found) == (place is None)
    assert place is not None or found == 3e30


def test_no_gradient_at_all_is_finite():
    assert largest_gradient(torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=1.0)) == 0


def test_one_copy_brings_all_numbers_of_a_step_to_the_host(monkeypatch):
    copies, original = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: (copies.append(self.shape), original(self))[1])
    values = to_host([torch.tensor(0.1, requires_grad=True), torch.tensor([2.5], dtype=torch.bfloat16)])
    assert copies == [(2,)] and [v.item() for v in values] == [torch.tensor(0.1).item(), 2.5]


@pytest.mark.gpu
def test_float16_on_a_gpu_finds_its_scale_without_a_loss_of_steps_for_good():
    model = nn.Linear(8, 8).cuda()
    net = type(
        "Big", (nn.Module,), {"forward": lambda self, batch: {"loss": model(torch.ones(4, 8).cuda()).sum() * 300}}
    )()
    net.model = model
    step = TrainStep(net, [[{}]] * 20, torch.optim.SGD(model.parameters(), lr=1e-9), seed=1, amp_dtype=torch.float16)
    with EventStorage():
        for step.iter in range(20):
            step.run_step()
    assert 0 < step.guard.skipped < 20 and step.guard.in_a_row == 0
    assert step.grad_scaler.get_scale() == 65536 / 2**step.guard.skipped
